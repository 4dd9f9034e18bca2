"""What a speech recogniser hears in songs: transcripts from a process of its own, and what they say of the lyrics."""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from autosong_jax.audio import io
from autosong_jax.cli import log
from autosong_jax.errors import UserError
from autosong_jax.evaluation.intervals import Sums
from autosong_jax.evaluation.lyrics import KINDS, Transcript, errors, rates, read_transcripts
from autosong_jax.evaluation.metrics import Metric, Song


def lyrics_metric(transcriber: str, language: str | None, folder: pathlib.Path) -> Metric:
    """Error rates of what is heard beside the lyrics: of characters (the metric itself), words and phonemes, of all
    songs and of those of each language.

    Args:
      transcriber: "whisper:ID".
      language: the code of that of all songs; else each counts for the one that it is heard in.
      folder: where transcripts are kept, and songs while they are heard.
    """
    check_transcriber(transcriber)

    def of_songs(songs: Sequence[Song]) -> list[Sums]:
        heard = _hear(songs, transcriber, language, folder)
        return [errors(song.lyrics, found.text, found.language) for song, found in zip(songs, heard, strict=True)]

    about = (f"error rate of what {transcriber} hears, beside the lyrics: of characters, of words and of phonemes, "
             "where the language has them, and of each language; the recogniser errs in the true songs, too")
    return Metric("lyrics", about, ("audio", "lyrics"), None, _rates, "less", f"{transcriber} {language or ''}".strip(),
                  of_songs)


def _rates(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    found = {kind: rates(sums, kind) for kind in KINDS}
    said = {f"{kind}s": found[kind].pop("") for kind in KINDS}
    said |= {f"{kind}s, {language}": rate for kind, of_kind in found.items() for language, rate in of_kind.items()}
    return {"": said["characters"]} | {name: rate for name, rate in said.items() if name != "characters"}


def _hear(songs: Sequence[Song], transcriber: str, language: str | None, folder: pathlib.Path) -> list[Transcript]:
    """What is heard in each song. Files are called after what they hold, so that nothing is heard twice."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        for song in songs:
            audio = song.anew().mono
            names.append(hashlib.sha256(np.ascontiguousarray(audio).tobytes()).hexdigest()[:32])
            io.write(pathlib.Path(directory) / f"{names[-1]}.flac", audio if len(audio) else np.zeros(1),
                     song.sample_rate)
        heard = transcribe(pathlib.Path(directory), folder / "transcripts.jsonl", transcriber, language)
    return [heard[name] for name in names]


def check_transcriber(transcriber: str) -> str:
    """The model that "whisper:ID" names. Raises UserError if it names none."""
    kind, _, model = transcriber.partition(":")
    if kind != "whisper" or not model:
        raise UserError(f"--transcriber={transcriber}: expected whisper:ID, such as whisper:openai/whisper-small")
    return str(pathlib.Path(model).absolute()) if pathlib.Path(model).is_dir() else model


def transcribe(folder: pathlib.Path, output: pathlib.Path, transcriber: str, language: str | None = None
               ) -> dict[str, Transcript]:
    """Has the songs of a folder transcribed, in a process of its own, which may import PyTorch.

    What `output` holds of the same recordings is not done again.

    Args:
      folder: of audio files.
      output: where transcripts go, JSON lines.
      transcriber: "whisper:ID", of which ID is a hub id or a directory.
      language: the code of that of all songs; found for each if None.

    Returns:
      Transcripts by song.

    Raises:
      UserError: no such transcriber, or it says that it cannot.
    """
    model = check_transcriber(transcriber)
    command = [sys.executable, "-m", "data_prep.transcribe", f"--input={folder.absolute()}",
               f"--output={output.absolute()}", f"--model={model}", *([f"--language={language}"] if language else [])]
    log.info("%s hears songs; those that it has heard are in %s", transcriber, output)
    done = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2])
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("error: ")
        raise UserError(f"--transcriber={transcriber}: {reason.removeprefix(f'--model={model} ')}")
    return read_transcripts(output, "transcripts")
