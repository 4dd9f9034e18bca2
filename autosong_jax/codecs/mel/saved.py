"""A trained vocoder beside a mel codec: `vocoder/vocoder.json`, its sizes, and `vocoder/model.safetensors`."""

import dataclasses
import json
import pathlib
from typing import Annotated, Any

import jax
import pydantic
from flax import nnx

from autosong_jax import inputs
from autosong_jax.codecs.mel.settings import VOCODER, MelConfig
from autosong_jax.codecs.mel.vocoder import Vocoder
from autosong_jax.weights import files, parameters
from autosong_jax.weights.files import Tensors

_FILE = "vocoder.json"
Size = Annotated[int, pydantic.Field(ge=1, le=2**18)]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Those of a `Vocoder` that its mels do not tell."""

    width: Size
    blocks: Size
    mlp_width: Size

    def build(self, mel: MelConfig, *, rngs: nnx.Rngs, **options: Any) -> Vocoder:
        """A vocoder of these mels with fresh parameters; options are those of `Vocoder`."""
        return Vocoder(mel.n_mels, mel.n_fft, mel.hop, self.width, self.blocks, self.mlp_width, rngs=rngs, **options)


def save(codec: pathlib.Path, sizes: Sizes, params: Any) -> None:
    """Writes a vocoder of these parameters, without a discriminator, into the directory of a mel codec."""
    directory = codec / VOCODER
    directory.mkdir(parents=True, exist_ok=True)
    files.write(directory, parameters.unload(params, parameters.own_recipes(params)))
    (directory / _FILE).write_text(json.dumps(dataclasses.asdict(sizes), indent=2) + "\n", encoding="utf-8")


def load(codec: str | pathlib.Path, mel: MelConfig) -> Vocoder:
    """The vocoder that `save` wrote. Raises UserError where it is damaged, or of other mels."""
    directory = pathlib.Path(codec) / VOCODER
    sizes = inputs.read_json(directory / _FILE, Sizes, "the vocoder's sizes")
    graph, state = nnx.split(nnx.eval_shape(lambda: sizes.build(mel, rngs=nnx.Rngs(0))))
    abstract = nnx.to_pure_dict(state)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = parameters.load(abstract, parameters.own_recipes(abstract), Tensors.open(directory),
                             what=str(directory / _FILE), shardings=jax.tree.map(lambda _: device, abstract))
    return nnx.merge(graph, params)
