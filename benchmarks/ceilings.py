"""What a device can do at most: how fast it reads and copies memory, and how fast it multiplies matrices.

Every share of the bandwidth that the benchmarks print is of a number of these. The matrices are random: a GPU
multiplies zeros faster, since they take less power.
"""

import dataclasses
import time

GIB = 2**30
PIECES = 16  # arrays that are read together, so that none of them has more elements than 32 bits count
CALLS = 8  # products, one started after another


@dataclasses.dataclass(frozen=True)
class Bandwidth:
    """Bytes a second, the best of some times.

    Attributes:
      size: bytes of the array.
      read: of an array that is summed.
      copied: of an array that is negated into another one, counting what is read and what is written.
    """

    size: int
    read: float
    copied: float

    @property
    def best(self) -> float:
        """What shares of the bandwidth are of."""
        return max(self.read, self.copied)


def device_memory() -> int | None:
    """Bytes of the device's memory that JAX may use; None where it does not say."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def array_size() -> int:
    """Bytes to measure the bandwidth with: 16 GiB on a large accelerator, an eighth of the memory on a smaller one.

    Smaller arrays would time the start of a program with them.
    """
    memory = device_memory()
    return GIB if memory is None else min(16 * GIB, memory // 8 // GIB * GIB or memory // 8)


def bandwidth(size: int, repeats: int = 7) -> Bandwidth:
    """Measures it with `size` bytes in all."""
    import jax
    import jax.numpy as jnp

    arrays = [jnp.full(size // PIECES // 4, i + 0.5, jnp.float32) for i in range(PIECES)]
    read = _best(jax.jit(lambda arrays: [x.sum() for x in arrays]), arrays, repeats)
    del arrays[PIECES // 2:]  # beside which their copies have room
    copied = _best(jax.jit(lambda arrays: [-x for x in arrays]), arrays, repeats)
    moved = 2 * sum(x.nbytes for x in arrays)
    return Bandwidth(size, size // PIECES // 4 * 4 * PIECES / read, moved / copied)


def matrix_peak(width: int, dtype: str, repeats: int = 5) -> float:
    """FLOP/s of a product of two square matrices, the best of some times."""
    import jax

    x, y = (jax.random.normal(jax.random.key(i), (width, width), dtype) for i in range(2))
    product = jax.jit(lambda x, y: x @ y)

    def several(x, y):
        return [product(x, y) for _ in range(CALLS)]

    return CALLS * 2 * width**3 / _best(several, (x, y), repeats, unpack=True)


def _best(function, arguments, repeats: int, *, unpack: bool = False) -> float:
    """The least seconds of some calls, after two that are not counted."""
    import jax

    taken = []
    for _ in range(2 + repeats):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments) if unpack else function(arguments))
        taken.append(time.perf_counter() - started)
    return min(taken[2:])
