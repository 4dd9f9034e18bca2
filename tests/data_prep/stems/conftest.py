"""Small recordings, and the command in this process."""

import numpy as np
import pytest
import soundfile

RATE = 16_000


@pytest.fixture(scope="session")
def make_sound():
    """`make_sound(seconds, pitch)`: float32 [samples, 2] at 16 kHz, a tone with noise."""

    def make(seconds, pitch=440.0):
        times = np.arange(round(seconds * RATE)) / RATE
        noise = 0.02 * np.random.default_rng(round(pitch)).standard_normal((len(times), 2))
        return (0.3 * np.sin(2 * np.pi * pitch * times)[:, None] + noise).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def write_sound(make_sound):
    """`write_sound(path, seconds, pitch)` makes the folder, too, and returns the path."""

    def write(path, seconds=2.0, pitch=440.0, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, make_sound(seconds, pitch), RATE, **options)
        return path

    return write


@pytest.fixture(scope="module")
def one_thread():
    """As in the workers: small models are many times slower with more, and sums are rounded in another way."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class InProcess:
    """Workers without processes: nothing is started, and a model is loaded once."""

    def __init__(self, count):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, items):
        return ((item, function(item)) for item in items)

    def map_reading(self, function, items):
        return self.map(function, items)


@pytest.fixture
def in_process(monkeypatch):
    """The stages run in this process."""
    from data_prep.stems import pipeline

    monkeypatch.setattr(pipeline, "Workers", InProcess)


@pytest.fixture(scope="session")
def small():
    """`small(input, output, **changed)`: options for sounds of seconds, with Demucs's random model where there are no
    stems. The threshold is one that all sounds pass but silence."""
    from data_prep.stems.options import Options

    def make(source, target, **changed):
        return Options(**{
            "input": (str(source),), "output": str(target), "separator": "demucs_unittest", "segment": 1.0,
            "sample_rate": 8000, "rms_frame": 0.5, "rms_threshold": 1e-4, "min_seconds": 0.5, "max_seconds": 300.0,
            "n_fft": 512, "hop": 128, **changed})

    return make
