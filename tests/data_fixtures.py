"""A synthetic corpus in the shape that prepare.sh leaves behind: noise as speech, random characters as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, LilcomChunkyWriter, Recording, SupervisionSegment
from lhotse.cut import MonoCut

from sammo.data.features import make_extractor
from sammo.data.tokens import character_table, format_token_table

ALPHABET = "あいうえおかきくけこさしすせそ"


def make_recording(path: Path, seconds: float, seed: int) -> Recording:
    """White noise of ``seconds`` at 16 kHz in ``path``."""
    samples = np.random.default_rng(seed).normal(0, 0.05, int(seconds * 16000)).astype(np.float32)
    soundfile.write(path, samples, 16000)
    return Recording.from_file(path, recording_id=path.stem)


def make_cuts(directory: Path, name: str, count: int, seed: int) -> CutSet:
    """``count`` cuts of 1 to 4 seconds with text in every mode, features stored in ``directory``."""
    rng = np.random.default_rng(seed)
    cuts = []
    for index in range(count):
        seconds = round(float(rng.uniform(1.0, 4.0)), 2)
        cut_id = f"{name}-{index:03d}"
        recording = make_recording(directory / f"{cut_id}.wav", seconds, seed + index)
        text = "".join(rng.choice(list(ALPHABET), size=int(seconds * 3)))
        supervision = SupervisionSegment(
            id=cut_id,
            recording_id=recording.id,
            start=0.0,
            duration=seconds,
            text=text,
            speaker=name,
            custom={"fluent": text, "disfluent": "え" + text, "number": text, "raw": text},
        )
        cuts.append(
            MonoCut(id=cut_id, start=0.0, duration=seconds, channel=0, recording=recording, supervisions=[supervision])
        )
    return CutSet(cuts).compute_and_store_features(
        make_extractor(), str(directory / f"feats_{name}"), storage_type=LilcomChunkyWriter, progress_bar=False
    )


def make_corpus(directory: Path, train: int = 40, valid: int = 6) -> Path:
    """Writes manifests, features and data/lang_char under ``directory`` and returns the manifest directory."""
    fbank = directory / "fbank"
    fbank.mkdir(parents=True)
    make_cuts(fbank, "train", train, seed=1).to_file(fbank / "csj_cuts_train.jsonl.gz")
    for offset, part in enumerate(("valid", "eval1")):
        make_cuts(fbank, part, valid, seed=1000 + 100 * offset).to_file(fbank / f"csj_cuts_{part}.jsonl.gz")
    noise = [cut.drop_supervisions() for cut in make_cuts(fbank, "musan", 4, seed=5000)]
    CutSet(noise).to_file(fbank / "musan_cuts.jsonl.gz")
    lang = directory / "lang_char"
    lang.mkdir()
    (lang / "tokens.txt").write_text(format_token_table(character_table([ALPHABET])), encoding="utf-8")
    (lang / "lang_type").write_text("char\n", encoding="utf-8")
    return fbank
