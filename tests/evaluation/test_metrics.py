"""Metrics against loops; and that they tell true songs from noisy ones, and those from other songs."""

import math

import numpy as np
import pyloudnorm
import pytest

from autosong_jax.evaluation import metrics
from autosong_jax.evaluation.embedders import get_embedder
from autosong_jax.evaluation.intervals import estimates
from autosong_jax.evaluation.metrics import METRICS, SMOOTHING, Song
from autosong_jax.evaluation.notes import frequency, lyric_notes

RATE, FRAMES, K, V = 8000, 10, 2, 6
TABLE = {metric.name: metric for metric in METRICS}


def song(codes, truth=None, **known):
    return Song("song", RATE, FRAMES, V, lambda: np.asarray(codes), truth=truth, **known)


def sounding(audio, truth=None):
    return Song("song", RATE, FRAMES, V, get_audio=lambda: np.atleast_2d(np.asarray(audio, np.float32)), truth=truth)


def said(name, songs):
    """The numbers of a metric, by their details, of several songs together."""
    assert all(TABLE[name].applies(one) for one in songs)
    return {detail: found.value for detail, found in
            estimates([TABLE[name].of_song(one) for one in songs], TABLE[name].summarize, draws=2).items()}


def test_onsets_are_those_of_the_backing():
    def clicks(times):
        audio = np.random.default_rng(0).normal(0, 1e-4, 4 * RATE)
        for at in times:
            audio[round(at * RATE):round(at * RATE) + 400] += np.random.default_rng(1).normal(0, 0.3, 400)
        return audio.astype(np.float32)[None]

    def lead(times):
        return Song("song", RATE, FRAMES, get_audio=lambda: clicks(times), get_backing=lambda: clicks([1, 2, 3]))

    found = said("onsets", [lead([1.02, 2.02]), lead([1.5, 2.5])])
    assert found == {"": 0.5, "by chance": pytest.approx(3 * 0.1 / 4, rel=1e-6), "F": 0.4, "a second": 0.5}
    assert not TABLE["onsets"].applies(sounding(clicks([1])))


@pytest.fixture
def songs():
    """Pairs of codes (sung, true), of unlike lengths."""
    rng = np.random.default_rng(0)
    return [(rng.integers(V, size=(n, K)), rng.integers(V, size=(m, K))) for n, m in [(5, 9), (12, 7), (4, 4)]]


@pytest.mark.parametrize("name", ["accuracy", "agreement"])
def test_codes_count_where_they_stand(songs, name):
    hits, of = np.zeros(K), 0
    for ours, wanted in songs:
        of += len(wanted)
        for t in range(len(wanted)):
            for k in range(K):
                hits[k] += t < len(ours) and ours[t, k] == wanted[t, k]
    known = (lambda wanted: {"truth": song(wanted)}) if name == "accuracy" else (lambda wanted: {"forced": wanted})
    found = said(name, [song(ours, **known(wanted)) for ours, wanted in songs])
    assert found == pytest.approx({"": hits.mean() / of, "codebook 0": hits[0] / of, "codebook 1": hits[1] / of})


def test_a_divergence_is_the_first_frame_that_differs():
    ours = np.zeros((6, K), int)
    late, early = ours.copy(), ours.copy()
    late[4, 1] = early[2, 0] = early[5, 0] = 1
    found = said("divergence", [song(ours, forced=forced) for forced in (late, early, ours, ours[:5])])
    assert found == pytest.approx({"frame": (4 + 2 + 6 + 5) / 4, "seconds": 0.425, "never": 0.25})


def test_distributions_of_codes_are_those_of_all_songs_together(songs):
    counts, true = np.zeros((K, V)), np.full((K, V), SMOOTHING)
    for ours, wanted in songs:
        for of, codes in ((counts, ours), (true, wanted)):
            for frame in codes:
                for k in range(K):
                    of[k, frame[k]] += 1
    smooth = counts + SMOOTHING
    entropy = [-sum(n / sum(row) * math.log(n / sum(row)) for n in row if n) for row in counts]
    kl = [sum(n / sum(row) * math.log(n / sum(row) / (m / sum(other))) for n, m in zip(row, other, strict=True))
          for row, other in zip(true, smooth, strict=True)]
    pairs = [song(ours, song(wanted)) for ours, wanted in songs]
    for name, expected in [("entropy", entropy), ("coverage", (counts > 0).mean(axis=1)), ("unigram KL", kl)]:
        found = said(name, pairs)
        assert found[""] == pytest.approx(np.mean(expected))
        assert [found["codebook 0"], found["codebook 1"]] == pytest.approx(list(expected))
    uniform = np.arange(V)[:, None] * np.ones(K, int)
    assert said("entropy", [song(uniform)])[""] == pytest.approx(math.log(V))
    assert said("unigram KL", [song(uniform, song(uniform))])[""] == 0


@pytest.mark.parametrize("columns", [K, 1])
def test_a_repetition_is_a_stretch_that_has_occurred_before(columns):
    codes = np.random.default_rng(1).integers(2, size=(60, columns))
    again = 0
    for start in range(60 - 3 + 1):
        again += any(np.array_equal(codes[start:start + 3], codes[before:before + 3]) for before in range(start))
    assert metrics.repeated(codes, 3) == (again, 58)
    assert metrics.repeated(codes[:2], 3) == (0, 0)


def test_lengths_and_ends():
    true = song(np.zeros((30, K), int))
    long, short = (song(np.zeros((n, K), int), true, limit=40) for n in (40, 25))
    assert said("length", [long, short]) == pytest.approx({"": 3.25, "true": 3, "off by": 0.75})
    assert said("ended", [long, short]) == {"": 0.5}


def test_sound_is_judged_sample_by_sample():
    time = np.arange(3 * RATE) / RATE
    loud, quiet = np.sin(2 * np.pi * 500 * time), 1e-3 * np.sin(2 * np.pi * 500 * time)
    loud[:7] = 1.5
    assert said("silence", [sounding(loud), sounding(quiet), sounding(quiet)]) == {"": pytest.approx(2 / 3)}
    clipped = np.count_nonzero(np.abs(loud.astype(np.float32)) >= 1)
    assert said("clipping", [sounding(loud)]) == {"": clipped / len(loud)}
    expected = pyloudnorm.Meter(RATE).integrated_loudness(0.1 * loud)  # by filters that are off a little at 8 kHz
    assert said("loudness", [sounding(0.1 * loud), sounding(0 * loud)])[""] == pytest.approx(expected, abs=0.3)
    assert math.isnan(said("loudness", [sounding(0 * loud)])[""])


def test_notes_are_those_that_the_lyrics_stand_for():
    lyrics = "[verse]\nMila tose, suta"
    wanted = lyric_notes(lyrics)
    time = np.arange(round(0.25 * RATE)) / RATE

    def sung(notes, lyrics=lyrics):
        tones = [sum(np.sin(2 * np.pi * n * frequency(note) * time) / n for n in range(1, 5)) for note in notes]
        audio = np.concatenate([np.pad(0.2 * tone, RATE // 10) for tone in tones])
        return Song("song", RATE, FRAMES, V, get_audio=lambda: audio[None].astype(np.float32), lyrics=lyrics)

    assert said("note error rate", [sung(wanted)]) == {"": 0.0}
    assert said("note error rate", [sung(wanted), sung(wanted[:2] + wanted[3:])])[""] == pytest.approx(1 / 12)
    assert not TABLE["note error rate"].applies(sung(wanted, "Love me do")), "nobody knows how these are sung"
    assert not TABLE["note error rate"].applies(sung(wanted, "")), "nor what"


def test_nothing_is_asked_of_a_song_that_lacks_what_it_needs():
    nothing = Song("song", RATE, FRAMES)
    assert not [metric.name for metric in METRICS if metric.applies(nothing)]
    assert {metric.name for metric in METRICS if metric.applies(sounding([0.0]))} == {
        "silence", "clipping", "loudness"}
    values = Song("song", RATE, FRAMES, None, lambda: np.zeros((3, K)), truth=song(np.zeros((3, K), int)))
    assert {metric.name for metric in METRICS if metric.applies(values)} == {"length"}
    assert len(TABLE) == len(METRICS)


def melodies(count):
    """Songs of other notes each, float32 [samples]."""
    rng, time = np.random.default_rng(2), np.arange(RATE // 4) / RATE
    return [np.concatenate([0.3 * np.sin(2 * np.pi * frequency(midi) * time * np.arange(1, 4)[:, None]).sum(0) / 3
                            for midi in rng.integers(60, 82, size=8)]).astype(np.float32) for _ in range(count)]


def test_true_songs_are_better_than_noisy_ones_and_those_than_other_songs():
    from autosong_jax.evaluation.distributions import frechet_distance, kernel_distance

    true, rng = melodies(12), np.random.default_rng(3)
    noisy = [audio + rng.normal(size=len(audio)) * audio.std() * 10 ** (-12 / 20) for audio in true]
    other = [*noisy[1:], noisy[0]]

    def distance(songs):
        return said("spectral distance", [sounding(ours, sounding(theirs)) for ours, theirs
                                          in zip(songs, true, strict=True)])[""]

    assert 0 == distance(true) < distance(noisy) < distance(other)
    embed = get_embedder("spectral", None).embed
    reference, near, far = (np.stack([embed(sounding(audio)) for audio in songs]) for songs in (
        melodies(24)[12:], true, noisy))
    for measure in (frechet_distance, kernel_distance):
        assert measure(reference, near).value < measure(reference, far).value
    assert reference.shape == (12, 32) and np.isfinite(reference).all()
    assert embed(sounding([])).shape == (32,)
