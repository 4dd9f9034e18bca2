"""Pieces and Demucs's own separation of the whole."""

from fractions import Fraction

import numpy as np
import pytest

from data_prep.stems import separation
from data_prep.stems.separation import CHANNELS, SAMPLE_RATE, Layout, Separator

pytestmark = pytest.mark.usefixtures("one_thread")
demucs_apply = pytest.importorskip("demucs.apply")


def hybrid_transformer():
    """The class of `htdemucs_6s`, small, with random weights: where a recording ends, it hears what was before."""
    import torch
    from demucs.htdemucs import HTDemucs

    torch.manual_seed(0)
    return HTDemucs(["drums", "bass", "other", "vocals"], channels=8, segment=Fraction(1, 2), t_layers=1, t_heads=2,
                    bottom_channels=16, t_hidden_scale=1.0).eval()


def bag():
    model = hybrid_transformer()
    return demucs_apply.BagOfModels([model], segment=Fraction(1, 2))


@pytest.mark.parametrize("make", [None, hybrid_transformer, bag])
@pytest.mark.parametrize("seconds", [0.3, 2.1])
def test_pieces_are_the_whole_to_the_last_bit(make, seconds, monkeypatch):
    import torch

    if make:
        monkeypatch.setattr(separation, "_load", lambda name: make())
    monkeypatch.setattr(separation, "PIECE_SECONDS", 0.8)  # of two or three segments
    model = Separator("demucs_unittest", 0.5, 0.25)
    assert model.layout.count > 1
    samples = round(seconds * SAMPLE_RATE)
    audio = np.random.default_rng(0).standard_normal((CHANNELS, samples)).astype(np.float32)
    pieces = [model.piece(lambda start, stop: audio[:, start:stop], samples, i)
              for i in range(model.layout.pieces(samples))]
    joined = np.concatenate(list(model.layout.join(iter(pieces), samples)), axis=-1)
    whole = demucs_apply.apply_model(model._model, torch.from_numpy(audio)[None], shifts=0, segment=0.5)[0].numpy()
    assert len(pieces) == (1 if seconds < 0.5 else 3)
    np.testing.assert_array_equal(joined, whole)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("samples", [1, 60, 99, 100, 101, 1234])
def test_joined_pieces_of_what_changes_nothing(overlap, samples):
    """Whatever the segments, their number in a piece and the length: weights add up to one."""
    layout = Layout(100, int((1 - overlap) * 100), 3)
    audio = np.random.default_rng(0).standard_normal((4, CHANNELS, samples)).astype(np.float32)
    pieces = []
    for index in range(layout.pieces(samples)):
        start, stop = layout.span(samples, index)
        piece = np.zeros((4, CHANNELS, stop - start), np.float32)
        for offset, length in layout.segments(samples, index):
            piece[..., offset - start:offset - start + length] += layout.weight()[:length] * audio[
                ..., offset:offset + length]
        pieces.append(piece)
    np.testing.assert_allclose(np.concatenate(list(layout.join(iter(pieces), samples)), axis=-1), audio, rtol=1e-5)
