"""The kinds of codec. One is added by a folder of its name beside this file, and a line here.

The folder holds `settings.py`, which imports neither JAX nor PyTorch and has what stands here, and `codec.py`, whose
`load` gives a codec of its files.
"""

from autosong_jax.codecs.dac.settings import DacInfo
from autosong_jax.codecs.encodec.settings import EncodecInfo
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.codecs.melrvq.settings import MelRVQInfo

CODECS: dict[str, type[CodecInfo]] = {"melrvq": MelRVQInfo, "encodec": EncodecInfo, "dac": DacInfo}
