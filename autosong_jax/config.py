"""What config files share: typed arguments, and the shrinking of any config to a laptop's minute.

A config file defines `get_config(arg)`, which starts from `defaults.base()` and says what differs; it may stand
anywhere. Fields are set on the command line with `--config.field=value`; what comes after a colon in
`--config=configs/NAME.py:...` is `arg`.
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections

from autosong_jax import defaults, inputs
from autosong_jax.errors import UserError


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
    """Reads "name,name=value,..." with the types of `defaults`; a bare name is True, and nothing after = an empty text.

    Raises:
      UserError: if a name is not among the defaults or a value is not of its type.
    """
    values = ml_collections.ConfigDict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, given, text = item.partition("=")
        if name not in defaults:
            raise UserError(f"config argument {name!r}: expected one of {', '.join(defaults)}")
        kind = type(defaults[name])
        try:
            if kind is bool:
                values[name] = {"true": True, "false": False}[text.lower() if given else "true"]
            elif not given:
                raise ValueError("no value")
            else:
                values[name] = kind(text)
        except (KeyError, ValueError):
            raise UserError(f"config argument {item}: expected {name}=VALUE of type {kind.__name__}") from None
    return values


def frames(seconds: float, frame_rate: float) -> int:
    """How many frames last so long, as the `max_length` of a source of codes.

    Raises:
      UserError: one of the two is out of range.
    """
    for name, value, least, most in (("seconds", seconds, 0.01, 3600), ("frame_rate", frame_rate, 0.1, 10_000)):
        if expected := _number(least, most)(value):
            raise UserError(f"config argument {name}={value:g}: expected {expected}")
    return max(round(seconds * frame_rate), 1)


def run_local(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks `config` in place so that it trains on a laptop's CPU in about a minute; its structure stays as it is."""
    config.model.update(width=64, heads=2, layers=2, mlp_width=256, max_positions=8192)
    for source in config.sources.values():
        source.update(max_length=min(source.max_length, 512), width=32, heads=2, layers=min(source.layers, 1))
    config.data.update(batch_size=4, seconds=min(config.data.seconds, 4.0), curriculum_steps=0)
    config.autoencoder.update(width=8, discriminator_width=min(config.autoencoder.discriminator_width, 8))
    config.vocoder.update(width=64, blocks=2, mlp_width=128,
                          discriminator_width=min(config.vocoder.discriminator_width, 4))
    config.latents.update(layers=2, hidden=64, mlp_width=64)
    config.optimizer.update(warmup_steps=5)
    config.train.update(
        steps=20, accumulation=1, log_every=5, eval_every=10, sing_every=10, checkpoint_every=10,
        sample_every=0, remat="none")
    config.mesh.update(data=1, fsdp=-1, tensor=1)
    return config


def finish(config: ml_collections.ConfigDict, arg: str | None) -> ml_collections.ConfigDict:
    """Applies the argument that every config takes: `runlocal` shrinks it to a minute on a laptop."""
    return run_local(config) if parse_arg(arg, runlocal=False).runlocal else config


def to_json(config: ml_collections.ConfigDict) -> str:
    """`config` as JSON, the same for equal configs (a tuple is a list there)."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def save(config: ml_collections.ConfigDict, path: pathlib.Path) -> None:
    """Writes `config` as JSON."""
    path.write_text(to_json(config), encoding="utf-8")


def load(path: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads what `save` wrote. Fields that an older version did not have get their defaults.

    Raises:
      UserError: if there is no such file or it is not a config.
    """
    values = inputs.read_json(path, dict[str, Any], "config", limit=_LIMIT)
    if "sources" not in values:  # a released model has a config.json, too
        raise UserError(f"{path} is no config of a trained model: expected a workdir that `python -m "
                        "autosong_jax.train` or `python -m autosong_jax.convert` wrote")
    return check(_with_defaults(values, str(path)), str(path))


def _with_defaults(values: dict[str, Any], where: str) -> ml_collections.ConfigDict:
    """A config of the values; lists become tuples, as config files have them."""
    def overlay(config: ml_collections.ConfigDict, values: Any, place: str) -> None:
        if not isinstance(values, dict):
            raise UserError(f"{where} has {place} {_shown(values)}: expected fields by name")
        for name, value in values.items():
            field = f"{place}.{name}" if place else name
            if place in _NAMED:  # any names, such as those of sources
                if place == "sources":
                    config[name] = dict.fromkeys(defaults.source(max_length=1, width=0, heads=0, layers=0))
                else:
                    config[name] = value
            elif name not in config:
                raise UserError(f"{where} has the field {field}, which this version does not know: use the version "
                                "that wrote it")
            if isinstance(config[name], ml_collections.ConfigDict):
                overlay(config[name], value, field)
            elif isinstance(value, dict):
                raise UserError(f"{where} has {field} {_shown(value)}: expected a value like {config[name]!r}")
            elif place not in _NAMED:
                with config.ignore_type():
                    config[name] = tuple(value) if isinstance(value, list) else value

    config = defaults.base()
    config.sources = ml_collections.ConfigDict()  # those of the defaults are not the model's
    overlay(config, values, "")
    return config


def check(config: ml_collections.ConfigDict, where: str = "the config") -> ml_collections.ConfigDict:
    """`config`, if every field is of its type and within its range and none contradicts another.

    Args:
      where: what it is, for errors.

    Raises:
      UserError: names the field, its value and what was expected.
    """
    for field, value in _fields(config):
        parent, _, name = field.rpartition(".")
        if parent in ("sampling.cfg_scales", "sampling.masked.cfg_scales"):
            rule = _number(-1000, 1000)
        else:
            rule = _RULES["sources.*." + name if parent.startswith("sources.") else field]
        expected = rule(value)
        if expected:
            raise UserError(f"{where} has {field} {_shown(value)}: expected {expected}")
    for field, problem in _contradictions(config):
        raise UserError(f"{where} has {field}: {problem}")
    return config


def _contradictions(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
    """Fields that mean nothing beside others, and why."""
    model, objective = config.model, config.objective.name
    for axis, size in config.mesh.items():
        if not size:
            yield f"mesh.{axis} 0", "expected at least 1 device, or -1 for all that are left"
    if model.width % (2 * model.heads):
        yield f"model.width {model.width}", f"expected an even width for each of the {model.heads} model.heads"
    if objective == "masked_spans" and model.pattern != "parallel":
        yield (f"model.pattern {model.pattern!r}", "expected 'parallel' with objective.name 'masked_spans', which "
               "reads and writes whole frames")
    if config.objective.scheduled_sampling and objective == "masked_spans":
        yield (f"objective.scheduled_sampling {config.objective.scheduled_sampling}", "it means nothing with "
               "objective.name 'masked_spans', which reads no codes of its own in a row")
    if config.data.curriculum_steps and len(config.sources):
        yield (f"data.curriculum_steps {config.data.curriculum_steps}", "expected 0 for a model with sources, whose "
               "windows are always full")
    if model.delays and model.pattern != "delay":
        yield f"model.delays {list(model.delays)}", f"they mean nothing with model.pattern {model.pattern!r}"
    if config.optimizer.schedule == "plateau" and not config.train.eval_every:
        yield "train.eval_every 0", "expected some with optimizer.schedule 'plateau', which waits for validation losses"
    for name, source in config.sources.items():
        spec = _kinds()[source.kind]
        if name not in spec.names:
            yield f"a source {name!r} of kind {source.kind}", f"expected some of {', '.join(spec.names)}"
        if spec.slots and source.max_length != spec.slots:
            yield f"sources.{name}.max_length {source.max_length}", f"expected {spec.slots} of kind {source.kind}"
        if source.layers and (not source.heads or source.width % (2 * source.heads)):
            yield (f"sources.{name}.width {source.width}", f"expected an even width for each of the {source.heads} "
                   f"sources.{name}.heads")
        elif source.width % 2:
            yield f"sources.{name}.width {source.width}", "expected an even width"
    for part, scales in [("sampling", config.sampling.cfg_scales),
                         ("sampling.masked", config.sampling.masked.cfg_scales)]:
        for name in scales:
            if name not in config.sources:
                yield f"{part}.cfg_scales of {name!r}", f"its sources are {', '.join(config.sources) or 'none'}"


def _fields(config: ml_collections.ConfigDict, place: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every field."""
    for name, value in config.items():
        field = f"{place}.{name}" if place else name
        if isinstance(value, ml_collections.ConfigDict):
            yield from _fields(value, field)
        else:
            yield field, value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Rules: what was expected of a value, or nothing where it is that.


def _number(low: float, high: float, kinds: tuple[type, ...] = (int, float)) -> Callable[[Any], str]:
    def rule(value: Any) -> str:
        fine = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high  # NaN is not
        return "" if fine else f"{'an integer' if kinds == (int,) else 'a number'} from {low:,} to {high:,}"

    return rule


def _integer(low: int, high: int) -> Callable[[Any], str]:
    return _number(low, high, (int,))


def _one_of(*allowed: str) -> Callable[[Any], str]:
    return lambda value: "" if isinstance(value, str) and value in allowed else f"one of {', '.join(allowed)}"


def _kinds() -> dict[str, Any]:
    """The kinds of sources. Imported where a config is checked: `--help` need not wait for what they import."""
    from autosong_jax.sources.spec import SOURCES

    return SOURCES


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and "\0" not in value else "a text"


def _name(value: Any) -> str:
    fine = isinstance(value, str) and re.fullmatch(r"[\w-][\w.-]{0,99}", value, re.ASCII)
    return "" if fine else "1 to 100 letters, digits, '_', '-' and '.', which it must not begin with"


def _switch(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _tuple_of(rule: Callable[[Any], str], fewest: int = 0) -> Callable[[Any], str]:
    def of_all(value: Any) -> str:
        if not isinstance(value, tuple) or not fewest <= len(value) <= 256:
            return f"a tuple of {fewest} to 256 values"
        return next((f"of each value {expected}" for expected in map(rule, value) if expected), "")

    return of_all


_MOST = 10**9
_EVERY = _integer(0, _MOST)
_NAMED = ("sources", "sampling.cfg_scales", "sampling.masked.cfg_scales")
_LIMIT = 2**22  # bytes of a config.json
# Of every field of defaults.py, which says what it means. The bounds of sizes are far beyond any model's: they
# are there for slips of a key.
_RULES = {
    "seed": _integer(0, 2**32 - 1),
    "data.path": _text,
    "data.seconds": _number(0.01, 36_000),
    "data.first_frames": _integer(16, _MOST),
    "data.curriculum_steps": _EVERY,
    "data.beginnings": _switch,
    "data.batch_size": _integer(1, 2**20),
    "data.end_of_song": _switch,
    "assumed.codec": _text,
    "assumed.sample_rate": _integer(1, 768_000),
    "assumed.frame_rate": _number(0.1, 10_000),
    "assumed.num_codebooks": _integer(1, 256),
    "assumed.codebook_size": _integer(1, 2**16),
    "assumed.text_encoder": _text,
    "assumed.text_width": _integer(0, 2**16),
    "sources.*.kind": lambda value: _one_of(*_kinds())(value),
    "sources.*.max_length": _integer(1, 2**20),
    "sources.*.dropout": _number(0, 1),
    "sources.*.width": _integer(0, 2**16),
    "sources.*.heads": _integer(0, 2**12),
    "sources.*.layers": _integer(0, 2**10),
    "model.width": _integer(2, 2**16),
    "model.heads": _integer(1, 2**12),
    "model.layers": _integer(1, 2**10),
    "model.mlp_width": _integer(1, 2**18),
    "model.norm": _one_of("pre", "post"),
    "model.activation": _one_of("gelu", "relu"),
    "model.positions": _one_of("sinusoidal", "learned", "rotary"),
    "model.max_positions": _integer(1, 2**24),
    "model.bias": _switch,
    "model.dropout": _number(0, 0.99),
    "model.fusion": _one_of("cross", "prefix"),
    "model.dropped": _one_of("absent", "null"),
    "model.pattern": _one_of("delay", "flatten", "parallel", "coarse_first"),
    "model.delays": _tuple_of(_integer(0, 2**16)),
    "model.dtype": _one_of("auto", "bfloat16", "float32", "float16"),
    "objective.name": _one_of("next_step", "masked_spans", "both", "next_latent", "reconstruction", "vocoding"),
    "objective.scheduled_sampling": _number(0, 1),
    "objective.scheduled_sampling_steps": _EVERY,
    "objective.span_length": _integer(1, 2**16),
    "objective.context_ms": _number(0, 3.6e7),
    "objective.adversarial": _number(0, 1e6),
    "objective.feature_matching": _number(0, 1e6),
    "objective.adversarial_start": _EVERY,
    "objective.prior": _number(0, 1e6),
    "objective.mel_weight": _number(0, 1e6),
    "autoencoder.channels": _integer(1, 2**12),
    "autoencoder.width": _integer(1, 2**12),
    "autoencoder.blocks": _integer(0, 2**8),
    "autoencoder.norm": _one_of("instance", "level"),
    "autoencoder.block_columns": _integer(2, 2**16),
    "autoencoder.overlap": _integer(0, 2**15),
    "autoencoder.discriminator_width": _integer(0, 2**12),
    "vocoder.n_fft": _integer(0, 2**16),
    "vocoder.n_mels": _integer(1, 2048),
    "vocoder.floor": _number(-150, 0),
    "vocoder.width": _integer(1, 2**16),
    "vocoder.blocks": _integer(1, 2**10),
    "vocoder.mlp_width": _integer(1, 2**18),
    "vocoder.discriminator_width": _integer(0, 2**12),
    "latents.workdir": _text,
    "latents.vocoder": _text,
    "latents.order": _one_of("column", "raster"),
    "latents.head": _one_of("regression", "mixture", "flow", "distilled"),
    "latents.residual": _switch,
    "latents.noise": _switch,
    "latents.short_context": _integer(0, 2**12),
    "latents.mlp_layers": _integer(0, 2**8),
    "latents.mlp_width": _integer(1, 2**16),
    "latents.adversarial": _number(0, 1e6),
    "latents.components": _integer(1, 2**12),
    "latents.layers": _integer(1, 2**10),
    "latents.hidden": _integer(1, 2**16),
    "latents.draws": _integer(1, 2**10),
    "latents.steps": _integer(1, 10_000),
    "lora.rank": _integer(0, 2**12),
    "lora.alpha": _number(0, 1e6),
    "lora.targets": _tuple_of(_text),
    "init.workdir": _text,
    "optimizer.learning_rate": _number(0, 1e3),
    "optimizer.embedding_learning_rate": _number(0, 1e3),
    "optimizer.discriminator_learning_rate": _number(0, 1e3),
    "optimizer.warmup_steps": _integer(0, _MOST),
    "optimizer.schedule": _one_of("cosine", "linear", "step", "plateau", "constant"),
    "optimizer.final_learning_rate": _number(0, 1e3),
    "optimizer.drop_factor": _number(1e-6, 1),
    "optimizer.drop_every": _integer(1, _MOST),
    "optimizer.patience": _integer(1, _MOST),
    "optimizer.b1": _number(0, 0.999999),
    "optimizer.b2": _number(0, 0.999999),
    "optimizer.eps": _number(1e-30, 1),
    "optimizer.weight_decay": _number(0, 1e3),
    "optimizer.clip_norm": _number(1e-12, 1e12),
    "train.steps": _integer(1, _MOST),
    "train.trainable": _tuple_of(_text, 1),
    "train.accumulation": _integer(1, 2**20),
    "train.ema_decay": _number(0, 0.999999999),
    "train.ema_every": _integer(1, _MOST),
    "train.remat": _one_of("none", "dots", "full"),
    "train.unroll": _switch,
    "train.log_every": _integer(1, _MOST),
    "train.writers": _tuple_of(_one_of("tensorboard", "wandb", "trackio")),
    "train.project": _name,
    "train.eval_every": _EVERY,
    "train.evaluations": _tuple_of(_text),
    "train.sing_every": _EVERY,
    "train.sing_songs": _integer(1, 10_000),
    "train.checkpoint_every": _integer(1, _MOST),
    "train.keep_last": _integer(1, _MOST),
    "train.keep_best": _EVERY,
    "train.best_by": _text,
    "train.sample_every": _EVERY,
    "train.prompts": _tuple_of(_text),
    "mesh.data": _integer(-1, 2**20),
    "mesh.fsdp": _integer(-1, 2**20),
    "mesh.tensor": _integer(-1, 2**20),
    "sampling.temperature": _number(0, 1e6),
    "sampling.top_k": _integer(0, 2**31 - 1),
    "sampling.top_p": _number(1e-9, 1),
    "sampling.cfg_scale": _number(-1000, 1000),
    "sampling.overlap": _number(0, 0.999),
    "sampling.masked.steps": _tuple_of(_integer(1, 10_000), 1),
    "sampling.masked.temperature": _number(0, 1e6),
    "sampling.masked.top_k": _integer(0, 2**31 - 1),
    "sampling.masked.top_p": _number(1e-9, 1),
    "sampling.masked.cfg_scale": _number(-1000, 1000),
    "sampling.masked.cfg_scale_min": _number(-1000, 1000),
    "sampling.masked.arrangement": _one_of("nonoverlap", "stride1"),
    "sampling.masked.confidence": _one_of("max", "product"),
    "sampling.masked.anneal": _switch,
    "sampling.masked.trim": _switch,
    "sampling.masked.hybrid_seconds": _number(0, 36_000),
    "sampling.masked.rescore_weight": _number(0, 1),
}
