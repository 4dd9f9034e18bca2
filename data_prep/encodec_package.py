"""EnCodec through Meta's own `encodec` package, from the checkpoints that it fetches or from copies of them.

The package has two models, at 24 and 48 kHz. What it encodes is saved as by `data_prep.encodec`: the same files, and
tensors under the names of Hugging Face.
"""

import json
import pathlib
import re
import warnings

import torch

from autosong_jax.codecs.encodec import names as encodec_names
from autosong_jax.errors import UserError
from autosong_jax.weights import files
from data_prep import encodec, hub, unpickle

# The first digits of each file's SHA-256 stand at the end of its name.
CHECKPOINTS = {"encodec_24khz": "encodec_24khz-d7cc33bc.th", "encodec_48khz": "encodec_48khz-7e698e3e.th"}
_NEEDS = "--codec_backend=encodec needs the encodec package"


def load(name: str, bandwidth: float | None = None) -> encodec.Encodec:
    """Loads an EnCodec of the package onto the GPU, if there is one.

    Args:
      name: a key of `CHECKPOINTS`, which is fetched; a file of such a checkpoint, or a directory that holds it; or a
        directory that a codec was saved in.
      bandwidth: as in `data_prep.encodec.load`.

    Raises:
      UserError: there is no such model, it is damaged or another one, or the package cannot be imported.
    """
    path = pathlib.Path(name)
    if (path / "config.json").exists():
        return encodec.of(Package(files.read_json(path / "config.json"), files.Tensors.open(path), name), name,
                          bandwidth)
    file = locate(name)
    state, _ = unpickle.split(unpickle.load(file, "--codec"))
    tensors = files.Tensors.of({key: value.numpy() for key, value in state.items()}, str(file))
    return encodec.of(Package(*encodec_names.from_package(tensors), name), name, bandwidth)


def locate(name: str) -> pathlib.Path:
    """The checkpoint's file, as `load` says, fetched if need be. Its hash is that in its name, if there is one.

    Raises:
      UserError: there is none, or another hash.
    """
    path = pathlib.Path(name)
    if path.is_dir():
        # The directory may hold the package's language models, too, which end in the same way.
        found = sorted(path.glob("encodec_[0-9]*.th"))
        if len(found) != 1:
            held = f"several checkpoints ({', '.join(file.name for file in found)})" if found else "no checkpoint"
            raise UserError(f"--codec={name} holds {held} of the encodec package: give the file of one, such as "
                            f"{path / CHECKPOINTS['encodec_24khz']}")
        path = found[0]
    elif not path.is_file():
        if name not in CHECKPOINTS:
            raise UserError(f"--codec={name} is no model of --codec_backend=encodec: expected {', '.join(CHECKPOINTS)},"
                            " or the .th file of one, or the directory that holds it")
        path = _fetch(name)
    if (expected := re.search(r"-([0-9a-f]{8,})\.th$", path.name)) and not (
            actual := files.file_digest(path)).startswith(expected[1]):
        raise UserError(f"{path} is damaged: its SHA-256 begins with {actual[:len(expected[1])]}, its name says "
                        f"{expected[1]}: copy or download it again")
    return path


def _fetch(name: str) -> pathlib.Path:
    """The file in PyTorch's cache, where the package keeps it too."""
    package = _package()
    url = package.model.ROOT_URL + CHECKPOINTS[name]
    path = pathlib.Path(torch.hub.get_dir(), "checkpoints", CHECKPOINTS[name])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise UserError(f"--codec={name} could not be fetched ({error}): where there is a network, download {url}, "
                            "and give the file as --codec") from error
    return path


def _package():
    """The package, or one line why there is none."""
    try:
        import encodec as package
    except ImportError as error:
        raise UserError(f"{_NEEDS} ({error}): pip install 'autosong_jax[encodec]'") from error
    except (OSError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{_NEEDS}, whose torchaudio does not go with torch {torch.__version__} ({reason}): install "
                        "both as builds for the CPU, or both for the same CUDA") from error
    return package


class Package:
    """A model of the `encodec` package. Satisfies `data_prep.encodec.Network`."""

    def __init__(self, config: dict, tensors: files.Tensors, source: str):
        """Args: contents of `config.json`; tensors under the names of Hugging Face; where they are from, for errors.

        Raises:
          UserError: they are not those of a model that the package has, or it cannot be imported.
        """
        kind = f"encodec_{config.get('sampling_rate', 0) // 1000}khz"
        if kind not in CHECKPOINTS:
            raise UserError(f"--codec={source} is an {kind}, which the encodec package does not have: leave "
                            "--codec_backend out")
        package = _package()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # for the package's way to normalise weights
            model = getattr(package.EncodecModel, f"encodec_model_{kind.removeprefix('encodec_')}")(pretrained=False)
        tensors = encodec_names.with_old_weight_norm(tensors)
        names = {encodec_names.hugging_face_name(name): name for name in model.state_dict()}
        if odd := sorted(set(names) ^ set(tensors)):
            raise UserError(f"--codec={source} is not the encodec package's {kind}: one has the tensor {odd[0]}, the "
                            "other does not")
        try:
            model.load_state_dict({name: torch.from_numpy(tensors.read(theirs)) for theirs, name in names.items()})
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[-1].strip()
            raise UserError(f"--codec={source} is not the encodec package's {kind}: {reason}") from error
        self.model, self.config, self._tensors = hub.place(model), config, tensors
        self.device, self._source = next(model.parameters()).device, source
        self.layers = list(model.encoder.model)
        self.codebooks = [layer.codebook for layer in model.quantizer.vq.layers]
        self.backend = "encodec"

    @property
    def revision(self):
        return files.digest(self._source)

    def quantize(self, features_BxCxT, bandwidth):
        return self.model.quantizer.encode(features_BxCxT, self.model.frame_rate, bandwidth)

    def decode(self, chunks, scale):
        scale = None if scale is None else torch.full((1, 1), scale, device=self.device)
        return self.model.decode([(codes, scale) for codes in chunks])

    def save(self, directory):
        files.write(directory, ((name, self._tensors.read(name)) for name in self._tensors))
        (directory / "config.json").write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
