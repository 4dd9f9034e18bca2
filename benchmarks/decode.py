"""Singing step by step beside PyTorch: the same shape, weights, batch, device and run.

python -m benchmarks.decode --size=small --peer=transformers

Songs of 30 s at MusicGen's shapes with random weights, guided, conditioned on states of T5; both sides draw from the
250 most probable ids. The peer is `transformers`' own `generate`. Sides take turns of some steps within one song: at
its beginning, in its middle and at its end, or with --full from its beginning to its end. So whatever else the machine
does meets both, and the context that grows is counted. A cell is the median of turns, the ratio that of pairs of them.

Where both take more memory than there is, each can be measured by itself: --peer=none, --peer_alone.

The floor is the time in which the device can read what a step must read, the weights and the keys and values so far, at
the speed at which the same framework reads or copies a large array.
"""

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError
from benchmarks import ceilings, shapes
from benchmarks.shapes import CODEC, SHAPES, TEXT

FLAGS = flags.FLAGS
TEXT_LENGTH, SECONDS = 32, 30
FRAMES = round(SECONDS * CODEC.frame_rate)
GUIDANCE, TOP_K = 3.0, 250


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_enum("size", "small", list(SHAPES), "Size of the model.")
    flags.DEFINE_enum("peer", "transformers", ["transformers", "none"], "What to compare with.")
    flags.DEFINE_bool("peer_alone", False, "The peer without us.")
    flags.DEFINE_integer("batch", 1, "Songs at once.", lower_bound=1)
    flags.DEFINE_integer("steps", 16, "Of a turn.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Turns of each side at each place in the song, beside the first.", lower_bound=5)
    flags.DEFINE_bool("full", False, "The whole song, in turns.")
    flags.DEFINE_integer("threads", 2, "For both sides, on a CPU.", lower_bound=1)


@dataclasses.dataclass
class Turns:
    """Seconds of each side's turns from step `begin` on."""

    begin: int
    ours: list[float]
    theirs: list[float]


def main() -> None:
    processors = sorted(os.sched_getaffinity(0))
    if FLAGS.threads > len(processors):
        raise UserError(f"--threads={FLAGS.threads}: there are {len(processors)} processors")
    os.sched_setaffinity(0, processors[:FLAGS.threads])  # XLA has a thread for each processor
    import jax

    from autosong_jax.models.build import compute_dtype

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if event.startswith("/jax/core/compile/") else None)
    device = jax.devices()[0]
    if FLAGS.peer_alone and FLAGS.peer == "none":
        raise UserError("--peer_alone: there is no peer with --peer=none")
    peer = Peer(FLAGS.size, FLAGS.batch, FLAGS.threads) if FLAGS.peer != "none" else None
    ours = None if FLAGS.peer_alone else Ours(FLAGS.size, FLAGS.batch, peer)
    if peer is not None:
        peer.to_device(jax.default_backend())
    speed = ceilings.bandwidth(ceilings.array_size()).best
    print(f"{FLAGS.size} ({SHAPES[FLAGS.size]}), {FLAGS.batch} song(s) of {SECONDS} s at once,"
          f" {compute_dtype('auto')} on {device.device_kind}; turns of {FLAGS.steps} steps\n"
          f"an array is read at {speed / 1e9:.1f} GB/s\n", flush=True)
    print(f"{'steps':>12} {'ours':>10} {'theirs':>10} {'ratio (lowest to highest)':>26} {'ours, of floor':>15}")
    last = FRAMES + CODEC.num_codebooks - 1
    count = last // FLAGS.steps if FLAGS.full else 1 + FLAGS.repeats
    if last < 3 * count * FLAGS.steps and not FLAGS.full:
        raise UserError(f"--steps={FLAGS.steps} --repeats={FLAGS.repeats}: a song has {last} steps; expected fewer of "
                        "them in three places, or --full")
    span = count * FLAGS.steps
    places = []
    for begin in [0] if FLAGS.full else [0, (last - span) // 2, last - span]:
        places.append(take_turns(ours, peer, begin, count))
        if not FLAGS.full:
            print_row(f"{begin}-{begin + span}", places[-1:], ours, speed)
    print_row("song" if FLAGS.full else "mean", places, ours, speed)
    if ours:
        print(f"\ncompiled in {sum(compiled):.1f} s; {ours.memory()}")


def take_turns(ours: "Ours | None", peer: "Peer | None", begin: int, count: int) -> Turns:
    """`count` turns of each side from step `begin` on. Of three places in a song the first turn is not counted."""
    turns = Turns(begin, [], [])
    if ours:
        ours.begin(begin)
        ours.turn(begin + count * FLAGS.steps)  # which compiles for every length of the cache
        ours.forget()

    def our_turn() -> None:
        if not turns.ours:  # not while the peer reads its prompt, for which it takes more memory than it then keeps
            ours.begin(begin)
        turns.ours.append(ours.turn(begin + (len(turns.ours) + 1) * FLAGS.steps))

    def after(their_seconds: float) -> None:
        turns.theirs.append(their_seconds)
        if ours:
            our_turn()

    if peer:
        peer.sing(begin, count, FLAGS.steps, after)
    else:
        for _ in range(count):
            our_turn()
    first = 0 if FLAGS.full else 1
    return Turns(begin, turns.ours[first:], turns.theirs[first:])


def print_row(name: str, places: list[Turns], ours: "Ours | None", speed: float) -> None:
    """The mean over places of the medians of turns; of a whole song, no two turns of which are alike, the mean."""
    middle = statistics.mean if FLAGS.full else statistics.median

    def step_of(turns: list[list[float]]) -> float:
        return statistics.mean(middle(taken) for taken in turns) / FLAGS.steps

    mine = theirs = ratio = share = ""
    if places[0].ours:
        seconds = step_of([place.ours for place in places])
        middles = [place.begin + FLAGS.steps * (len(place.ours) / 2 + (not FLAGS.full)) for place in places]
        floor = statistics.mean(map(ours.bytes_read, middles)) / speed
        mine, share = f"{1e3 * seconds:.1f} ms", f"{100 * floor / seconds:.0f} %"
    if places[0].theirs:
        theirs = f"{1e3 * step_of([place.theirs for place in places]):.1f} ms"
    if mine and theirs:
        pairs = [a / b for place in places for a, b in zip(place.ours, place.theirs, strict=True)]
        ratio = f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
    print(f"{name:>12} {mine:>10} {theirs:>10} {ratio:>26} {share:>15}", flush=True)


class Ours:
    """Our side: a sampler, and a song that it is in the middle of.

    Args:
      size: of `shapes.SHAPES`.
      batch: songs at once.
      peer: whose weights and text states are taken; random ones without.
    """

    def __init__(self, size: str, batch: int, peer: "Peer | None" = None):
        import jax
        from flax import nnx

        from autosong_jax.codebooks.patterns import get_pattern
        from autosong_jax.layers.declaration import declarations, held_in
        from autosong_jax.models.build import abstract_model, compute_dtype
        from autosong_jax.sampling.autoregressive import Request, Sampler
        from autosong_jax.sampling.guidance import branches
        from autosong_jax.sampling.samplers import encode
        from autosong_jax.sampling.tokens import Choice

        config, self._batch = shapes.config_of(size, TEXT_LENGTH), batch
        dtype, pattern = compute_dtype(config.model.dtype), get_pattern("delay", FRAMES, CODEC.num_codebooks)
        graph, abstract = abstract_model(config, CODEC, TEXT)
        abstract = held_in(dtype, abstract, declarations(graph, abstract))
        params = shapes.random_params(abstract) if peer is None else peer.params(abstract, config)
        model = nnx.merge(graph, params).unstacked(consume=True)
        del params
        graph, self._params = nnx.split(model)
        keep, weights = branches(["description"], {"description": GUIDANCE})
        states = peer.states() if peer else shapes.random_states(batch, TEXT_LENGTH)
        sources = shapes.sources_of(states)
        self._memory = jax.jit(lambda params: encode(nnx.merge(graph, params), sources, keep, batch))(self._params)
        self._sampler = Sampler(graph, pattern)
        frames = len(pattern.steps)
        self._request = Request(
            weights, jax.vmap(jax.random.key)(np.arange(batch, dtype=np.uint32)), shapes.random_codes(batch, frames),
            np.zeros(batch, np.int32), np.full(batch, frames, np.int32), Choice(temperature=1.0, top_k=TOP_K))
        unread = sum(x.size * x.dtype.itemsize for block in model.decoder.blocks
                     for part in (block.cross_attention.k, block.cross_attention.v)
                     for x in jax.tree.leaves(nnx.state(part)))
        read = jax.tree.leaves((nnx.state(model.decoder), nnx.state(model.frames.heads)))
        self.weights = sum(x.size * x.dtype.itemsize for x in read) - unread  # bytes of them that a step reads
        self._row = (2 * keep.shape[0] * batch * config.model.width * config.model.layers * np.dtype(dtype).itemsize)
        self._state = None

    def bytes_read(self, step: float) -> float:
        """What a step must read: weights, and keys and values of the steps before it and of the memory."""
        return self.weights + self._row * (step + TEXT_LENGTH)

    def forget(self) -> None:
        """Leaves the song that it is in the middle of."""
        self._state = None

    def begin(self, step: int) -> None:
        """Starts a song anew, all before `step` given."""
        self.forget()
        self._request = dataclasses.replace(self._request, prompt_frames=np.full(self._batch, step, np.int32))
        self._state = self._sampler.begin(self._params, self._memory, self._request)

    def turn(self, until: int) -> float:
        """Sings on to step `until`; the seconds that it took."""
        import jax

        jax.block_until_ready(self._state)
        started = time.perf_counter()
        self._state = self._sampler.advance(self._params, self._state, self._request, until)
        jax.block_until_ready(self._state)
        return time.perf_counter() - started

    def memory(self) -> str:
        """What was in memory at most, where the device counts it; else what the arrays take."""
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            return f"ours had at most {stats['peak_bytes_in_use'] / 2**30:.2f} GiB in memory"
        weights, cache = (sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (self._params, self._state.cache))
        return f"our weights take {weights / 2**30:.2f} GiB, the cache at last {cache / 2**30:.2f} GiB"


class Peer:
    """The other side: transformers' MusicGen, with a text encoder and a codec of a few parameters.

    Args:
      size: of `shapes.SHAPES`.
      batch: songs at once.
      threads: of PyTorch, on a CPU.
      device: where to draw the weights; on a GPU ("cuda") in bfloat16. Weights that we are to have, too, stay on the
        CPU until `to_device`.
    """

    def __init__(self, size: str, batch: int, threads: int, device: str = "cpu"):
        import torch
        import transformers

        torch.manual_seed(0)
        torch.set_num_threads(threads)
        text = transformers.T5Config(vocab_size=64, d_model=TEXT.width, d_kv=8, d_ff=8, num_layers=1, num_heads=1)
        codec = transformers.EncodecConfig(num_filters=4, codebook_size=CODEC.codebook_size)
        decoder = transformers.MusicgenDecoderConfig(**shapes.released(size))
        config = transformers.MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
        with drawn_on(device):
            self._model = transformers.MusicgenForConditionalGeneration(config).eval().to(device)
        self._ids = torch.tensor(np.random.default_rng(0).integers(2, 64, (batch, TEXT_LENGTH)), device=device)

    def params(self, abstract: Any, config: Any) -> Any:
        """The weights as our model has them, on the device."""
        import jax

        from autosong_jax.pretrained import musicgen
        from autosong_jax.weights import files

        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        tensors = {name: value.numpy() for name, value in self._model.state_dict().items()}
        return musicgen.load(abstract, config, files.Tensors.of(tensors, "random weights"),
                             jax.tree.map(lambda _: device, abstract))

    def states(self) -> np.ndarray:
        """What its text encoder makes of the text."""
        import torch

        with torch.inference_mode():
            return self._model.text_encoder(self._ids).last_hidden_state.numpy()

    def to_device(self, backend: str) -> None:
        """Onto the device that JAX has. Raises UserError if this PyTorch does not know it."""
        import torch

        if backend == "gpu":
            if not torch.cuda.is_available():
                raise UserError("--peer=transformers: this PyTorch sees no GPU; install one built with CUDA, or give "
                                "--peer=none")
            self._model.to("cuda", torch.bfloat16)
            self._ids = self._ids.to("cuda")
        elif backend != "cpu":
            raise UserError(f"--peer=transformers: expected a CPU or a GPU, found {backend}; give --peer=none")

    def sing(self, begin: int, count: int, steps: int, after: Callable[[float], None]) -> None:
        """Sings on from `begin` frames given: `count` turns of `steps`; `after` each it is called with its seconds."""
        import torch
        import transformers

        class Watch(transformers.StoppingCriteria):
            """Called by `generate` after every step; the first one reads the prompt."""

            def __init__(self):
                self.calls, self.started = 0, 0.0

            def __call__(self, input_ids, scores, **kwargs):
                if input_ids.device.type == "cuda":
                    torch.cuda.synchronize()
                if self.calls and self.calls % steps == 0:
                    after(time.perf_counter() - self.started)
                    if self.calls == count * steps:
                        raise StopIteration
                if self.calls % steps == 0:
                    self.started = time.perf_counter()
                self.calls += 1
                return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        given = {}
        if begin:
            codes = shapes.random_codes(len(self._ids), FRAMES)[:, :begin]
            given["decoder_input_ids"] = torch.tensor(codes, device=self._ids.device).movedim(1, 2).flatten(0, 1)
        with torch.inference_mode(), contextlib.suppress(StopIteration):
            self._model.generate(
                input_ids=self._ids, attention_mask=torch.ones_like(self._ids), do_sample=True, top_k=TOP_K,
                guidance_scale=GUIDANCE, max_length=FRAMES + CODEC.num_codebooks,
                stopping_criteria=transformers.StoppingCriteriaList([Watch()]), **given)


@contextlib.contextmanager
def drawn_on(device: str) -> Iterator[None]:
    """PyTorch makes models on that device, on a GPU in bfloat16: `large` takes minutes to be drawn on a CPU."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else before)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
