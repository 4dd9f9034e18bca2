"""What the best of several songs is chosen by, by the names that users give it.

A ranker is one function here, which takes what stands after the colon of its name, and one entry of `RANKERS`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autosong_jax.errors import UserError

if TYPE_CHECKING:
    from autosong_jax.sampling.ranking import Candidate, Ranker

EXAMPLE = "clap:laion/clap-htsat-unfused"


def ranker(name: str, flag: str = "rank_by") -> "Ranker":
    """What ranks candidates, for `Singer.generate` and `Singer.edit`.

    Args:
      name: "likelihood", "notes", or "clap:" with the directory or hub id of a CLAP.
      flag: what it was given by, for errors.

    Raises:
      UserError: it is none of these, or what it needs cannot be had.
    """
    check(name, flag)
    kind, _, argument = name.partition(":")
    make = next(make for known, make in RANKERS.items() if known.partition(":")[0] == kind)
    return make(name, argument, flag)


def check(name: str, flag: str = "rank_by") -> None:
    """Raises UserError where `name` is the name of no ranker; loads nothing."""
    kind, colon, argument = name.partition(":")
    takes = {known.partition(":")[0]: ":" in known for known in RANKERS}
    if kind not in takes or takes[kind] != bool(argument) or (colon and not argument):
        raise UserError(f"{flag} {name!r}: expected {', '.join(list(RANKERS)[:-1])} or {list(RANKERS)[-1]}, such as "
                        f"{EXAMPLE}")


def likelihood(name: str, argument: str, flag: str) -> "Ranker":
    """How probable the model itself finds what it has sung: the highest mean log probability of a code.

    A masked model is judged by its rescorer where it has one, else by its pseudo-likelihood.
    """
    from autosong_jax.sampling.ranking import Ranker

    return Ranker(name, lambda candidate: candidate.log_likelihood(),
                  check=lambda singer, conditions: singer.check_likelihood())


def notes(name: str, argument: str, flag: str) -> "Ranker":
    """Whether the lyrics of a songbook are sung as its rule has them: the lowest note error rate."""
    from autosong_jax.evaluation.notes import LEAST_RATE, lyric_notes, note_error_rate, other_words, sung_notes
    from autosong_jax.sampling.ranking import Ranker

    def check(singer: Any, conditions: Mapping[str, Any]) -> None:
        lyrics = conditions.get("lyrics") or ""
        if others := other_words(lyrics):
            raise UserError(f"{flag} {name}: the lyrics hold {others[0]!r}, which has no notes; expected syllables "
                            "of a songbook alone, like `mila tose`")
        if not lyric_notes(lyrics):
            raise UserError(f"{flag} {name}: expected lyrics made of the syllables of a songbook, like `mila tose`")
        if singer.codec.sample_rate < LEAST_RATE:
            raise UserError(f"{flag} {name}: the codec has {singer.codec.sample_rate} Hz, expected {LEAST_RATE} or "
                            "more to hear notes in")

    def score(candidate: "Candidate") -> float:
        song = candidate.song
        heard = sung_notes(song.audio.mean(axis=0), song.sample_rate)
        return note_error_rate(lyric_notes(candidate.conditions["lyrics"]), heard)

    return Ranker(name, score, lowest=True, check=check)


def clap(name: str, argument: str, flag: str) -> "Ranker":
    """How well a song fits its description and genre: the highest cosine of the two embeddings of a CLAP."""
    from autosong_jax.evaluation.clap import load
    from autosong_jax.evaluation.clap import score as cosine
    from autosong_jax.sampling.ranking import Ranker

    model = load(argument, f"{flag} clap")
    embedded = functools.cache(lambda text: model.embed_text([text])[0])

    def text_of(conditions: Mapping[str, Any]) -> str:
        return ", ".join(filter(None, (conditions.get("description"), conditions.get("genre"))))

    def check(singer: Any, conditions: Mapping[str, Any]) -> None:
        if not text_of(conditions).strip():
            raise UserError(f"{flag} {name}: expected a description or a genre of the song, to compare its sound with")

    def score(candidate: "Candidate") -> float | None:
        audio = candidate.song.audio.mean(axis=0)
        if not audio.size:
            return None
        heard = model.embed_audio(audio, candidate.song.sample_rate)[0]
        return float(cosine(heard, embedded(text_of(candidate.conditions))))

    return Ranker(name, score, check=check)


RANKERS: dict[str, Callable[[str, str, str], "Ranker"]] = {"likelihood": likelihood, "notes": notes, "clap:ID": clap}
"""By their names, with ":" where something stands after it."""
