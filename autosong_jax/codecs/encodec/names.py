"""EnCodec's tensors under the names that different packages give them; imports neither JAX nor PyTorch."""

import math
import re
from typing import Any

from autosong_jax.codecs.folding import plain
from autosong_jax.errors import UserError
from autosong_jax.weights.files import Tensors


def with_old_weight_norm(tensors: Tensors) -> Tensors:
    """The tensors with the parts of weight norm under their older names, weight_g and weight_v."""
    return tensors.renamed(lambda name: re.sub(r"parametrizations\.weight\.original(\d)",
                                               lambda match: "weight_" + "gv"[int(match[1])], name))


def from_package(tensors: Tensors, **settings) -> tuple[dict[str, Any], Tensors]:
    """A checkpoint of the `encodec` package, or the compression model of audiocraft, as Hugging Face has it.

    Args:
      tensors: under that package's names, such as `encoder.model.0.conv.conv.bias`.
      **settings: of `config.json`, instead of what the tensors' shapes say, or of what they leave open and the released
        models have: normalised over time it is the 48 kHz model, with convolutions as shortcuts the 24 kHz one, and
        otherwise MusicGen's, at 32 kHz.

    Returns:
      What `config.json` is to hold, and the tensors under the names of Hugging Face.

    Raises:
      UserError: the tensors are not those of an EnCodec.
    """
    renamed = tensors.renamed(hugging_face_name)
    try:
        return _config(renamed, settings), renamed
    except (KeyError, StopIteration, IndexError) as error:
        raise UserError(f"{tensors.origin(next(iter(tensors), ''))} is not a checkpoint of the encodec package or of "
                        f"audiocraft's EnCodec: it lacks the tensor {error}") from error


def hugging_face_name(name: str) -> str:
    """What Hugging Face calls a tensor of the `encodec` package, or of audiocraft's EnCodec."""
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = re.sub(r"\.conv(tr)?\.norm\.", ".norm.", name)
    name = re.sub(r"\.conv(tr)?\.conv(tr)?\.", ".conv.", name)
    return re.sub(r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook.", name)


def _config(tensors: Tensors, settings: dict[str, Any]) -> dict[str, Any]:
    """`config.json` of tensors under the names of Hugging Face."""
    shapes = plain(tensors)

    def weights(pattern: str) -> list[tuple[int, ...]]:
        """Shapes of the weights with such names, in the order of the layers."""
        found = [name for name in shapes if re.fullmatch(pattern, name)]
        if not found:
            raise KeyError(pattern.replace("\\", ""))
        return [shapes[name] for name in sorted(found, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])]

    filters, channels, width = shapes["encoder.layers.0.conv.weight"]
    *downward, last = weights(r"encoder\.layers\.\d+\.conv\.weight")[1:]
    narrow = weights(r"encoder\.layers\.\d+\.block\.1\.conv\.weight")
    codebooks = weights(r"quantizer\.layers\.\d+\.codebook\.embed")
    entries, bits = codebooks[0][0], math.ceil(math.log2(codebooks[0][0]))
    if "encoder.layers.0.norm.weight" in shapes:
        released = {"sampling_rate": 48_000, "norm_type": "time_group_norm", "use_causal_conv": False,
                    "normalize": True, "chunk_length_s": 1.0, "overlap": 0.01}
    elif any(".shortcut." in name for name in shapes):
        released = {"sampling_rate": 24_000, "use_causal_conv": True}
    else:
        released = {"sampling_rate": 32_000, "use_causal_conv": False, "pad_mode": "constant"}
    config = {
        "model_type": "encodec", "architectures": ["EncodecModel"], "audio_channels": channels, "num_filters": filters,
        "kernel_size": width, "hidden_size": last[0], "codebook_dim": codebooks[0][1], "last_kernel_size": last[2],
        "upsampling_ratios": [shape[2] // 2 for shape in reversed(downward)],
        "num_residual_layers": len(narrow) // len(downward), "compress": narrow[0][1] // narrow[0][0],
        "residual_kernel_size": narrow[0][2], "use_conv_shortcut": any(".shortcut." in name for name in shapes),
        "num_lstm_layers": len(weights(r"encoder\.layers\.\d+\.lstm\.weight_ih_l\d+")), "codebook_size": entries,
    } | released | settings
    # The released models at 24 and 48 kHz have a bandwidth for 2, 4, 8, ... codebooks, MusicGen's for all of them.
    counts = [len(codebooks)]
    if config["use_conv_shortcut"]:
        counts = [2**i for i in range(1, len(codebooks).bit_length()) if 2**i < len(codebooks)] + counts
    rate = math.ceil(config["sampling_rate"] / math.prod(config["upsampling_ratios"]))
    return {"target_bandwidths": [count * bits * rate / 1000 for count in counts]} | config
