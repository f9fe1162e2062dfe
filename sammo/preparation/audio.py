"""Audio as a corpus needs it: whole, 16 kHz, one channel. What is so already stays where it is."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Iterator, Sequence

import soundfile
import torch

from sammo.data.frames import SAMPLING_RATE
from sammo.errors import UserError
from sammo.files import atomic_path, atomic_write, parse_json
from sammo.preparation.recordings import Utterance
from sammo.progress import progress
from sammo.streaming.audio import stream_audio

AS_THEY_ARE = ("WAV", "WAVEX", "FLAC")
NOTES = "checked.jsonl"  # of what was read before, a line a file


@dataclass(frozen=True)
class Checked:
    """What reading a file through came to.

    ``audio`` is a file of 16 kHz and one channel with ``samples``; ``problem`` is why there is none. ``size`` and
    ``modified`` (nanoseconds) are those of ``path`` when it was read.
    """

    path: str
    size: int
    modified: int
    audio: str = ""
    samples: int = 0
    problem: str = ""


def check_audio(utterances: Sequence[Utterance], directory: Path, nj: int) -> list[Checked]:
    """Reads every file once, with ``nj`` processes, and converts into ``directory`` what is not 16 kHz and mono.

    Interrupted, it goes on where it stopped: what was read is noted, and is read again where the file has changed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    known = {checked.path: checked for checked in _noted(directory / NOTES)}
    done: dict[str, Checked] = {}
    todo = []
    for utterance in utterances:
        path = str(utterance.path.resolve())
        old = known.get(path)
        if old and _is_as_noted(old):
            done[utterance.id] = old
        else:
            todo.append(utterance)
    check = partial(_check, directory=directory.resolve())
    with atomic_write(directory / NOTES) as notes:  # without what is out of date or was cut short
        notes.writelines(f"{json.dumps(dataclasses.asdict(checked))}\n" for checked in done.values())
    with open(directory / NOTES, "a", encoding="utf-8") as notes:
        for utterance, checked in zip(todo, progress(_run(check, todo, nj), len(todo), "reading audio")):
            done[utterance.id] = checked
            print(json.dumps(dataclasses.asdict(checked)), file=notes, flush=True)
    return [done[utterance.id] for utterance in utterances]


def _run(check: partial, todo: Sequence[Utterance], nj: int) -> Iterator[Checked]:
    if nj == 1 or len(todo) < 2:
        yield from map(check, todo)
        return
    try:
        with ProcessPoolExecutor(min(nj, len(todo)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(check, todo, chunksize=max(1, min(16, len(todo) // (4 * nj))))
    except BrokenProcessPool as error:
        raise UserError("a process was killed, out of memory perhaps; run again with a lower --nj") from error


def _noted(path: Path) -> Iterator[Checked]:
    """What earlier runs have read; a line that a kill has cut short is none."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            yield Checked(**parse_json(line))
        except (ValueError, TypeError):
            continue


def _is_as_noted(old: Checked) -> bool:
    try:
        status = os.stat(old.path)
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (old.size, old.modified) and os.path.isfile(old.audio or old.path)


def _check(utterance: Utterance, directory: Path) -> Checked:
    path = utterance.path.resolve()
    status = path.stat()
    checked = Checked(str(path), status.st_size, status.st_mtime_ns)
    try:
        if _is_ready(path):
            return dataclasses.replace(checked, audio=str(path), samples=sum(map(len, stream_audio(path))))
        audio = directory / f"{utterance.id}.wav"
        audio.parent.mkdir(parents=True, exist_ok=True)
        samples = 0
        with atomic_path(audio) as temporary:
            with soundfile.SoundFile(temporary, "w", SAMPLING_RATE, 1, "PCM_16", format="WAV") as file:
                for piece in stream_audio(path):
                    file.write(piece.numpy())
                    samples += len(piece)
        return dataclasses.replace(checked, audio=str(audio), samples=samples)
    except UserError as error:
        # The table has the path already, and nothing here takes files that are cut short.
        problem = re.sub(r",? or (pass )?--allow-truncated true", "", str(error))
        problem = problem.removeprefix(f"{path} ").removeprefix(f"{path}, ")
        return dataclasses.replace(checked, problem=problem)


def _is_ready(path: Path) -> bool:
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, RuntimeError, TypeError):
        return False  # stream_audio says why
    return info.samplerate == SAMPLING_RATE and info.channels == 1 and info.format in AS_THEY_ARE
