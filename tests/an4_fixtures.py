"""A small AN4 in the shape of CMU's distribution, and where the real one is, if it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# A copy of the real corpus: the environment variable AN4_DIR, or beside the repository.
AN4_DIR = Path(os.environ.get("AN4_DIR", ROOT.parent / "shared/corpora/an4"))
SPEAKERS = {"an4_clstk": ("fabc", "fdef", "fghi2", "mabc", "mdef", "mghi"), "an4test_clstk": ("fxyz", "mxyz")}
SENTENCES = ("YES", "RUBOUT G M E F THREE NINE", "ENTER FOUR FIVE", "B A O Z", "JULY TWENTY SIXTH")


def speech_like(seconds: float, seed: int) -> np.ndarray:
    """(S,) int16 at 16 kHz: noise whose neighbouring samples correlate at 0.9, as those of speech do."""
    noise = np.random.default_rng(seed).normal(0, 1, int(seconds * 16000))
    samples = np.empty_like(noise)
    last = 0.0
    for index, value in enumerate(noise):
        last = samples[index] = 0.9 * last + value
    return np.round(800 * samples).astype(np.int16)


def sphere(samples: np.ndarray, order: str, **changes: str) -> bytes:
    """A NIST SPHERE file; ``changes`` replace header fields, None leaves one out."""
    fields = {
        "channel_count": "-i 1",
        "sample_count": f"-i {len(samples)}",
        "sample_rate": "-i 16000",
        "sample_n_bytes": "-i 2",
        "sample_byte_format": "-s2 " + {"<": "01", ">": "10"}[order],
        "sample_coding": "-s3 pcm",
        **changes,
    }
    lines = [f"{name} {value}" for name, value in fields.items() if value is not None]
    header = "\n".join(["NIST_1A", "   1024", *lines, "end_head", ""]).encode()
    return header.ljust(1024) + samples.astype(order + "i2").tobytes()


def make_an4(directory: Path, order: str = ">", utterances: int = 3, sph: bool = False) -> Path:
    """Writes etc and wav with .raw files in byte ``order``, or .sph files, and returns ``directory``."""
    (directory / "etc").mkdir(parents=True)
    number = 0
    for (volume, speakers), name in zip(SPEAKERS.items(), ("train", "test")):
        ids, lines = [], []
        for speaker in speakers:
            (directory / "wav" / volume / speaker).mkdir(parents=True)
            for _ in range(utterances):
                number += 1
                stem = f"an{number}-{speaker}-b"
                samples = speech_like(1.5 + 0.1 * (number % 4), number)
                audio = directory / "wav" / volume / speaker / (stem + (".sph" if sph else ".raw"))
                audio.write_bytes(sphere(samples, order) if sph else samples.astype(order + "i2").tobytes())
                text = SENTENCES[number % len(SENTENCES)]
                ids.append(f"{volume}/{speaker}/{stem}")
                # As in the original: only the training lines have marks.
                lines.append(f"<s> {text} </s> ({stem})" if name == "train" else f"{text.lower()} ({stem})")
        for kind, content in (("fileids", ids), ("transcription", lines)):
            (directory / "etc" / f"an4_{name}.{kind}").write_text("\n".join(reversed(content)) + "\n")
    return directory
