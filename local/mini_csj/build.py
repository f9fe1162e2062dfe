"""Build the talks: synthesize, write, skip what is there.  Every talk depends on the seed and its own id alone."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import threading
import wave
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.progress import progress

from . import acoustics, lexicon, sdb, voices, words
from .grammar import Grammar
from .script import JOINED, Script
from .talks import Talk, stream

VERSION = 3  # raise it when the same options would give other bytes
CONFIG_NAME = "mini_csj.json"
HOMOPHONES_NAME = "homophones.json"
LONGEST = 30.0  # seconds of one utterance
SHORTEST_REST = 1.5  # seconds of speech that are still worth another utterance
# Seconds between utterances: inside a paragraph they are below the 1 s at which the recipe stops joining, others are
# above.
PAUSES, PAUSES_BETWEEN = (0.2, 0.7), (1.1, 1.4)
QUIET = 10.0 ** (-8.0 / 20.0)  # level of (L ...), against normal speech


class Settings(NamedTuple):
    """What decides the bytes besides the plan: voices are paths of .htsvoice files, "" is the built-in one."""

    seed: int
    voices: tuple[str, ...] = ("",)


class Report(NamedTuple):
    """Of one talk: seconds of speech, of audio, number of utterances; made is False if it was there already."""

    speech: float
    audio: float
    utterances: int
    made: bool


def wav_path(root: Path, talk: Talk, name: str) -> Path:
    return root / "WAV" / talk.volume / f"{name}.wav"


def sdb_path(root: Path, talk: Talk) -> Path:
    return root / "MORPH" / "SDB" / talk.volume / f"{talk.id}.sdb"


def write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as out:
        out.write(data)


def synthesize(talk: Talk, settings: Settings) -> tuple[list[sdb.Segment], list[np.ndarray]]:
    """The utterances of a talk in order of time and the sound of each channel (T,) in [-1, 1]."""
    text_rng = random.Random(stream(settings.seed, talk.id, "text"))
    rng = np.random.default_rng(stream(settings.seed, talk.id, "sound"))
    sexes = (talk.sex, "F" if talk.sex == "M" else "M")
    speakers = [voices.draw_speaker(rng, sexes[i], settings.voices) for i in range(len(talk.names()))]
    script = Script(Grammar(talk.topic, talk.pool, text_rng, talk.number), text_rng, talk.seconds)
    now, turn = rng.uniform(0.3, 0.9), 0  # now: end of what was said last
    began = now  # of the joined cut
    placed: list[tuple[int, int, np.ndarray]] = []
    segments: list[sdb.Segment] = []
    while len(segments) < len(speakers) or script.left > SHORTEST_REST:
        line = script.next(room=JOINED - (now - began) - PAUSES[1])
        if line.opens and talk.dialogue and segments:  # each channel needs a word, or lhotse stops
            turn = 1 - turn if len(segments) == 1 or text_rng.random() < 0.5 else turn
        spoken = words.words_of(line.runs, text_rng)
        sound = voices.say(spoken, speakers[turn], rng)
        length = len(sound) / acoustics.RATE
        start = now + rng.uniform(*(PAUSES_BETWEEN if line.opens else PAUSES)) if segments else now
        if (
            length > LONGEST or not line.opens and start + length - began > JOINED - 0.01
        ):  # homophones would lose their cue
            script.refused()
            continue
        if any(run.slip == "L" for run in line.runs):
            sound = sound * QUIET
        first = round(start * 1000) * (acoustics.RATE // 1000)  # on a millisecond, so that the SDB times are exact
        start = first / acoustics.RATE
        placed.append((turn, first, sound))
        segments.append(sdb.Segment(start, start + length, spoken, "LR"[turn]))
        script.said(line, length)
        began, now = start if line.opens else began, start + length
        if talk.dialogue and len(segments) == 1:
            script.close()
    total = int((segments[-1].end + rng.uniform(0.3, 0.9)) * acoustics.RATE)
    channels = [np.zeros(total) for _ in speakers]
    for channel, first, sound in placed:
        channels[channel][first : first + len(sound)] += sound
    return segments, [voices.in_room(dry, speaker, rng) for dry, speaker in zip(channels, speakers)]


def _audio_seconds(path: Path) -> float:
    """Duration of a whole WAV file; 0 if it is missing, cut off or no WAV file."""
    try:
        with wave.open(str(path), "rb") as audio:
            count = audio.getnframes()
            whole = path.stat().st_size >= count * 2 + 44
            return count / audio.getframerate() if whole else 0.0
    except (OSError, EOFError, wave.Error):
        return 0.0


def _finished(root: Path, talk: Talk) -> Report | None:
    """Report of a talk that an earlier run finished, else None.  The SDB file is written last."""
    try:
        lines = sdb_path(root, talk).read_bytes().decode(sdb.ENCODING).splitlines()
        spans = {tuple(line.split("\t")[3].split(" ")[1].split("-")) for line in lines}
        times = [(float(start), float(end)) for start, end in spans]
    except (OSError, UnicodeDecodeError, IndexError, ValueError):
        return None
    audio = min(_audio_seconds(wav_path(root, talk, name)) for name in talk.names())
    if not times or audio < max(end for _, end in times):
        return None
    return Report(sum(end - start for start, end in times), audio * len(talk.names()), len(times), made=False)


def build_talk(root: Path, talk: Talk, settings: Settings) -> Report:
    """Write the WAV files and the SDB file of one talk, unless they are there."""
    done = _finished(root, talk)
    if done:
        return done
    segments, channels = synthesize(talk, settings)
    for name, sound in zip(talk.names(), channels):
        write_bytes(wav_path(root, talk, name), acoustics.wav_bytes(sound))
    write_bytes(sdb_path(root, talk), sdb.encode(sdb.sdb_lines(talk.id, segments)))
    seconds = sum(len(sound) for sound in channels) / acoustics.RATE
    return Report(sum(segment.end - segment.start for segment in segments), seconds, len(segments), made=True)


def _end_with_parent() -> None:
    """Workers of a killed run would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def run_jobs(jobs: Iterable[tuple[Any, Callable[..., Any], tuple[Any, ...]]], nj: int, desc: str) -> dict[Any, Any]:
    """{key: function(*arguments)} of (key, function, arguments) jobs in nj processes, with a progress bar."""
    jobs = list(jobs)
    if nj == 1 or len(jobs) < 2:
        return {key: function(*arguments) for key, function, arguments in progress(jobs, len(jobs), desc)}
    # spawn: a fresh interpreter per process, the same on every system
    with ProcessPoolExecutor(nj, multiprocessing.get_context("spawn"), initializer=_end_with_parent) as pool:
        futures = {pool.submit(function, *arguments): key for key, function, arguments in jobs}
        try:
            return {futures[done]: done.result() for done in progress(as_completed(futures), len(futures), desc)}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def claim(root: Path, options: dict[str, Any]) -> None:
    """Make root the home of a corpus with these options, or check that it already is.

    Raises UserError where root holds anything else, so that no other corpus is ever mixed with this one.
    """
    config = root / CONFIG_NAME
    wanted = {"version": VERSION, **options}
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file; give a directory")
    if config.is_file():
        try:
            found = json.loads(config.read_text(encoding="utf8"))
        except ValueError as error:
            raise UserError(f"{config} is not readable as JSON ({error}); delete {root} and run again") from error
        if found != wanted:
            differ = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
            raise UserError(
                f"{root} was made with other options ({', '.join(differ)}); delete it or choose another directory"
            )
    elif root.is_dir() and any(root.iterdir()):
        raise UserError(f"{root} is not empty and was not made by this script; choose another directory")
    write_bytes(config, (json.dumps(wanted, indent=2, sort_keys=True) + "\n").encode())


def homophone_table(plan: Iterable[Talk]) -> bytes:
    """JSON for evaluations that count how often a homophone is spelled right: the groups and the topic of every talk."""
    groups = [{"reading": g.reading, "spellings": g.spellings, "by_topic": g.by_topic} for g in lexicon.HOMOPHONES]
    talks = {name: talk.topic for talk in plan for name in talk.names()}
    return (
        json.dumps({"groups": groups, "talks": talks}, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    ).encode()


def voice_identity(path: str) -> str:
    """What the settings file says of a voice: built-in, or the hash of its bytes (its place may change)."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else "built-in"
