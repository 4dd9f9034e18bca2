"""Train and sample song models in JAX: full lyrics and a genre in, music out."""

__version__ = "0.1.0"


def load(source: str, flag: str = "source"):
    """Loads a trained or released song model, a `Singer` with `generate`, `stream` and `edit`.

    Args and errors: see `autosong_jax.sampling.singer.load`.

    JAX is imported here, not with the package, so that `data_prep` can share the package's schema and audio files.
    """
    from autosong_jax.sampling.singer import load as load_song_model

    return load_song_model(source, flag)


def ranker(name: str, flag: str = "rank_by"):
    """What the best of several songs is chosen by, for `generate` and `edit`. See `autosong_jax.rankers.ranker`."""
    from autosong_jax import rankers

    return rankers.ranker(name, flag)
