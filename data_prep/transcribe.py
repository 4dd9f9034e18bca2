"""Writes down what is sung in recordings, as a speech recogniser (Whisper) hears it.

    python -m data_prep.transcribe --input songs --output transcripts.jsonl --model openai/whisper-small

--input is a folder of audio files, or of folders that hold an audio.* each, as data_prep.export takes them. A line of
the output is a song: {"song": "NAME", "text": "what was heard", "language": "en", ...}. Started again it goes on where
it was; what another model heard, in another language or in another recording of that name, is heard again.

Recordings are cut into windows of at most 30 s, where they are quietest; what is silent is not listened to. Unless it
is given, the language is that of the first window with sound. At each step the most probable token is taken.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
from absl import flags

from autosong_jax import cli, outputs
from autosong_jax.errors import UserError
from autosong_jax.evaluation.lyrics import Transcript, read_transcripts
from autosong_jax.weights.files import file_digest

FLAGS = flags.FLAGS
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SILENT = -60.0
"""dB: the RMS of a window below which nothing is to be heard in it."""
_SEARCHED = 5.0  # s before the end of a window, in which it is cut
_PAUSE = 0.2  # s that are quiet where it is cut


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("input", None, "Folder of recordings.", required=True)
    flags.DEFINE_string("output", None, "File for the transcripts, .jsonl.", required=True)
    flags.DEFINE_string("model", "openai/whisper-small", "A Whisper: hub id, or directory in the format of "
                        "transformers.")
    flags.DEFINE_string("language", None, "Code of the language of all recordings, such as en. By default it is found "
                        "for each.")
    flags.DEFINE_integer("batch", 8, "Windows that are heard at a time.", lower_bound=1)
    flags.DEFINE_enum("device", None, ["cpu", "cuda"], "By default the GPU if there is one.")


def main() -> None:
    outputs.check_file(FLAGS.output, (".jsonl",), "--output")
    songs = find_recordings(pathlib.Path(FLAGS.input))

    from data_prep import hub

    hub.locate(FLAGS.model, "--model")
    made_by = f"{FLAGS.model} {hub.revision(FLAGS.model)}"
    todo = keep(pathlib.Path(FLAGS.output), songs, made_by, FLAGS.language)
    if todo:
        with hub.torch_needed("--model", FLAGS.model):
            from data_prep.whisper import Whisper

        model = Whisper(FLAGS.model, FLAGS.device)
        if FLAGS.language:
            model.check_language(FLAGS.language)
        hear(todo, pathlib.Path(FLAGS.output), model, made_by, FLAGS.language, FLAGS.batch)
    cli.say(f"{FLAGS.output}: {len(songs)} songs, of which {len(todo)} were heard now")


def find_recordings(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The recordings in a folder and those below, by the names of their songs: NAME.flac and NAME/audio.flac are both
    NAME. Beside an audio.* nothing else is one.

    Raises:
      UserError: there is none, or two have the same name.
    """
    if not folder.is_dir():
        raise UserError(f"--input={folder}: expected a folder of recordings")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    whole = {path.parent for path in files if path.stem == "audio"}
    songs: dict[str, pathlib.Path] = {}
    for path in files:
        if path.parent in whole and path.stem != "audio":
            continue
        place = path.parent if path.stem == "audio" and path.parent != folder else path.with_suffix("")
        name = place.relative_to(folder).as_posix()
        if name in songs:
            raise UserError(f"--input={folder}: {path.relative_to(folder)} and {songs[name].relative_to(folder)} are "
                            "recordings of one name: remove one")
        songs[name] = path
    if not songs:
        raise UserError(f"--input={folder}: expected files that end in {', '.join(SUFFIXES)}; found none")
    return songs


def keep(output: pathlib.Path, songs: dict[str, pathlib.Path], made_by: str, language: str | None
         ) -> dict[str, pathlib.Path]:
    """Removes from a file of transcripts what is to be heard again, and returns the recordings that are to be heard.

    Args:
      output: the file, which need not be there.
      songs: recordings by name; transcripts of others stay.
      made_by: the model and its revision.
      language: of all songs; None where it has to be found.
    """
    known = read_transcripts(output, "--output") if output.exists() else {}
    kept = [found for name, found in known.items() if name not in songs or (
        (found.model, found.digest, found.told) == (made_by, file_digest(songs[name]), language is not None)
        and language in (None, found.language))]
    unfinished = output.with_name(f".unfinished-{output.name}")
    unfinished.write_text("".join(map(_line, kept)), encoding="utf-8")
    os.replace(unfinished, output)
    return {name: path for name, path in songs.items() if name not in {found.song for found in kept}}


def hear(songs: dict[str, pathlib.Path], output: pathlib.Path, model, made_by: str, language: str | None, batch: int
         ) -> None:
    """Adds the transcripts of songs to a file, each once it is complete.

    Args:
      songs: recordings by name.
      output: the file.
      model: a `whisper.Whisper`.
      made_by: what the transcripts say that they are from.
      language: of all songs; None where it has to be found.
      batch: windows at a time, of any songs.
    """
    texts: dict[str, list[str]] = {name: [] for name in songs}
    left: dict[str, int] = {}  # windows that are still to be heard
    languages = dict.fromkeys(songs, language)

    def finish(name: str, file) -> None:
        text = " ".join(filter(None, texts.pop(name)))
        file.write(_line(Transcript(name, text, languages[name] or "", language is not None, made_by,
                                    file_digest(songs[name]))))
        file.flush()
        progress.update()

    with output.open("a", encoding="utf-8") as file, cli.progress(total=len(songs), unit="song") as progress:
        waiting: list[tuple[str, np.ndarray]] = []

        def hear_waiting() -> None:
            unknown = {name: window for name, window in reversed(waiting) if languages[name] is None}
            if unknown:
                languages.update(zip(unknown, model.detect(list(unknown.values())), strict=True))
            heard = model.hear([window for _, window in waiting], [languages[name] for name, _ in waiting])
            for (name, _), text in zip(waiting, heard, strict=True):
                texts[name].append(text)
                left[name] -= 1
                if not left[name]:
                    finish(name, file)
            waiting.clear()

        for name, path in songs.items():
            windows = list(_windows(path, model.sample_rate, model.seconds))
            left[name] = len(windows)
            if not windows:
                finish(name, file)
            for window in windows:
                waiting.append((name, window))
                if len(waiting) == batch:
                    hear_waiting()
        if waiting:
            hear_waiting()


def _line(found: Transcript) -> str:
    return json.dumps(asdict(found), ensure_ascii=False) + "\n"


def _windows(path: pathlib.Path, rate: int, seconds: float) -> Iterator[np.ndarray]:
    """The windows of a recording in which there is something to hear: float32 [samples]."""
    from autosong_jax.audio import io

    audio = io.read(path, rate, 1)[0][0]
    for start, stop in cut(audio, rate, seconds):
        window = audio[start:stop]
        if 20 * np.log10(max(np.sqrt(np.mean(np.square(window, dtype=np.float64))), 1e-9)) >= SILENT:
            yield window


def cut(audio: np.ndarray, rate: int, seconds: float) -> list[tuple[int, int]]:
    """Where to cut float [samples]: spans of at most so many seconds, each of which but the last ends in the middle of
    the quietest 0.2 s of its last 5 s (or its second half, if that is shorter)."""
    longest, pause = round(seconds * rate), max(round(_PAUSE * rate), 1)
    searched = max(min(round(_SEARCHED * rate), longest // 2), pause)
    spans, start = [], 0
    while len(audio) - start > longest:
        first = start + longest - searched
        energy = np.concatenate([[0.0], np.cumsum(np.square(audio[first:start + longest], dtype=np.float64))])
        stop = first + int(np.argmin(energy[pause:] - energy[:-pause])) + pause // 2
        spans.append((start, stop))
        start = stop
    return [*spans, (start, len(audio))]


if __name__ == "__main__":
    define_flags()
    cli.run(main)
