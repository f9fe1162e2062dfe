"""A noise set in the layout of MUSAN: music, noise and babble, all synthetic, five minutes by default."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import acoustics, voices, words
from .build import Settings, write_bytes
from .grammar import Grammar
from .lexicon import TOPICS
from .talks import stream

COUNTS = {"music": 6, "noise": 8, "speech": 6}
SUBSET = "synthetic"
TALKERS = 3  # voices in one babble
_NOISES = ("white", "pink", "brown", "hum")


class Item(NamedTuple):
    """One file: the part (music, noise, speech), its number and its length in seconds."""

    part: str
    number: int
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.part}-{SUBSET}-{self.number:04d}"


def plan_musan(minutes: float) -> list[Item]:
    """All files, of equal length, minutes in all."""
    seconds = round(60 * minutes / sum(COUNTS.values()), 3)
    return [Item(part, number, seconds) for part, count in COUNTS.items() for number in range(count)]


def item_path(root: Path, item: Item) -> Path:
    return root / item.part / SUBSET / f"{item.name}.wav"


def write_texts(root: Path, plan: list[Item]) -> None:
    """The LICENSE and ANNOTATIONS files; lhotse reads those of music: id, genres, vocals, musician."""
    for part in COUNTS:
        items = [item for item in plan if item.part == part]
        rows = {
            "music": [f"{item.name} electronic N synthetic" for item in items],
            "noise": [f"{item.name} {_NOISES[item.number % len(_NOISES)]}" for item in items],
            "speech": [f"{item.name} - japanese" for item in items],
        }[part]
        write_bytes(root / part / SUBSET / "ANNOTATIONS", ("\n".join(rows) + "\n").encode())
        write_bytes(root / part / SUBSET / "LICENSE", voices.NOTICE.encode())


def _music(rng: np.random.Generator, count: int) -> np.ndarray:
    """A walk through triads of one key, each note a few harmonics with a plucked envelope."""
    out = np.zeros(count)
    scale = np.array([0, 2, 4, 5, 7, 9, 11])
    key, beat = rng.uniform(48, 60), int(rng.uniform(0.3, 0.6) * acoustics.RATE)
    for start in range(0, count, beat):
        degree = int(rng.integers(7))
        length = min(2 * beat, count - start)
        time = np.arange(length) / acoustics.RATE
        for step in (0, 2, 4):
            octave, index = divmod(degree + step, 7)
            frequency = 440.0 * 2.0 ** ((key + scale[index] + 12 * octave - 69) / 12)
            for harmonic in range(1, 5):
                out[start : start + length] += (
                    np.sin(2 * np.pi * harmonic * frequency * time) * np.exp(-3 * time) / harmonic
                )
    return out


def _noise(rng: np.random.Generator, count: int, kind: str) -> np.ndarray:
    """Stationary noise of a colour whose level wanders, or the hum of a machine on mains frequency."""
    time = np.arange(count) / acoustics.RATE
    if kind == "hum":
        base = float(rng.choice((50.0, 60.0)))
        hum = sum(np.sin(2 * np.pi * base * k * time + rng.uniform(0, 2 * np.pi)) / k for k in range(1, 12))
        return hum + 0.2 * acoustics.coloured_noise(rng, count, 3.0)
    noise = acoustics.coloured_noise(rng, count, {"white": 0.0, "pink": 3.0, "brown": 6.0}[kind])
    return noise * (1.0 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * time + rng.uniform(0, 2 * np.pi)))


def _babble(rng: np.random.Generator, text_rng: random.Random, count: int, settings: Settings) -> np.ndarray:
    """Several speakers at once; what they say comes from the training clauses."""
    out = np.zeros(count)
    for talker in range(TALKERS):
        speaker = voices.draw_speaker(rng, "MF"[talker % 2], settings.voices)
        grammar = Grammar(text_rng.choice(list(TOPICS)), "train", text_rng)
        at = 0
        while at < count:
            sound = voices.say(words.words_of(grammar.with_slips([grammar.clause()]), text_rng), speaker, rng)[
                : count - at
            ]
            out[at : at + len(sound)] += sound
            at += len(sound) + int(0.2 * acoustics.RATE)
    return out


def build_item(root: Path, item: Item, settings: Settings) -> float:
    """Write one file unless it is there; its duration in seconds."""
    path, count = item_path(root, item), int(item.seconds * acoustics.RATE)
    if path.is_file() and path.stat().st_size == 44 + 2 * count:
        return item.seconds
    rng = np.random.default_rng(stream(settings.seed, "musan", item.name))
    if item.part == "music":
        sound = _music(rng, count)
    elif item.part == "noise":
        sound = _noise(rng, count, _NOISES[item.number % len(_NOISES)])
    else:
        text_rng = random.Random(stream(settings.seed, "musan", item.name, "text"))
        sound = _babble(rng, text_rng, count, settings)
    write_bytes(path, acoustics.wav_bytes(0.5 * sound / np.abs(sound).max()))
    return item.seconds
