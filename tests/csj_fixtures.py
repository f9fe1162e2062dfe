"""A directory in the shape of CSJ with noise for speech: every id that lhotse asks for and a little to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from lhotse.recipes import csj

TRAINING = {"core": ["A01F0200", "D01F0300"], "noncore": ["S00F0400", "A02M0500"]}
SENTENCES = [
    ["(F_えー)", "今日", "は", "(D_お)", "音声", "の", "話", "を", "し", "ます"],
    ["(A_エーアイ;ＡＩ)", "が", "(W_コデ;これ)", "を", "聞き", "まし", "た"],
    ["(F_あのー)", "(?_研究)", "(D2_が)", "を", "(A_二;２)", "回", "続け", "た"],
    ["それ", "(M_は)", "(R_××)", "さん", "です"],
    ["最後", "に", "(笑_まとめ)", "ます"],
]


def sdb_line(name: str, segment: int, start: float, end: float, word: str, side: str = "L") -> str:
    """One word of ``name`` in segment number ``segment``."""
    time = f"{segment:04d} {start:09.3f}-{end:09.3f} {side}:-001-001"
    return "\t".join(["x", "x", name, time, "x", word, "x", "x", "x", word, "カナ", "名詞", "", "", "", "", ""])


def write_talk(csj_dir: Path, volume: str, name: str, seed: int, segments: int = 3) -> None:
    """Transcript and audio of one talk: segments of 1.5 s, 0.5 s apart."""
    rng = np.random.default_rng(seed)
    sides = ("L", "R") if name.startswith("D") else ("L",)
    lines = []
    for segment in range(segments):
        start = 0.2 + 2.0 * segment
        for side in sides:
            words = SENTENCES[int(rng.integers(len(SENTENCES)))]
            number = segment * len(sides) + sides.index(side) + 1
            lines += [sdb_line(name, number, start, start + 1.5, word, side) for word in words]
    sdb = csj_dir / "MORPH" / "SDB" / volume / f"{name}.sdb"
    sdb.parent.mkdir(parents=True, exist_ok=True)
    sdb.write_bytes(("\r\n".join(lines) + "\r\n").encode("shift_jis"))
    wav = csj_dir / "WAV" / volume
    wav.mkdir(parents=True, exist_ok=True)
    for side in sides:
        samples = rng.normal(0, 0.05, int(16000 * 2.0 * (segments + 0.2)))
        soundfile.write(wav / (f"{name}-{side}.wav" if len(sides) > 1 else f"{name}.wav"), samples, 16000)


def make_csj(csj_dir: Path) -> Path:
    """Writes the whole directory and returns it."""
    listed = [*csj._VALID, *csj._A01M0056, *(name for part in csj._EVAL for name in part)]
    for seed, name in enumerate(listed):
        write_talk(csj_dir, "noncore", name, seed, segments=1)
    for volume, names in TRAINING.items():
        for seed, name in enumerate(names):
            write_talk(csj_dir, volume, name, 1000 + seed, segments=12)
    return csj_dir


def make_musan(musan_dir: Path) -> Path:
    """A MUSAN-shaped directory, one file of 11 s a part."""
    rng = np.random.default_rng(0)
    for part in ("music", "noise", "speech"):
        directory = musan_dir / part / "set"
        directory.mkdir(parents=True)
        soundfile.write(directory / f"{part}-0000.wav", rng.normal(0, 0.05, 16000 * 11), 16000)
        (directory / "ANNOTATIONS").write_text(f"{part}-0000 genre N nobody\n", encoding="utf-8")
    return musan_dir
