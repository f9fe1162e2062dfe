"""A corpus of another sampling rate, or in letters that the units lack: one line before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.data import make_cuts
from lhotse import CutSet

from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.data.features import load_audio
from sammo.data.tokens import CharTokenizer, character_table
from sammo.errors import UserError


@pytest.fixture(scope="module")
def cuts(tmp_path_factory) -> CutSet:
    return make_cuts(tmp_path_factory.mktemp("cuts"), "train", 4, seed=1)


def module(directory: Path, cuts: CutSet, letters: str, **options) -> CsjDataModule:
    for part in ("train", "eval1"):
        cuts.to_file(directory / f"csj_cuts_{part}.jsonl.gz")
    config = DataConfig(manifest_dir=directory, enable_musan=False, num_workers=0, drop_last=False, **options)
    return CsjDataModule(config, CharTokenizer(character_table([letters])))


@pytest.mark.parametrize("on_the_fly", [False, True])
def test_another_sampling_rate(tmp_path, cuts, on_the_fly):
    resampled = cuts.drop_features().resample(8000)
    data = module(tmp_path, resampled, "あ", on_the_fly_feats=on_the_fly)
    message = "csj_cuts_.*: cut train-000.* has 8000 Hz, not 16000: resample its audio, or its manifest by lhotse's"
    for make in (lambda: data.test_dataloader("eval1"), lambda: data.train_dataloader(1)):
        with pytest.raises(UserError, match=message):
            make()
    with pytest.raises(UserError, match="has 8000 Hz, not 16000"):  # streaming_decode.py and parity
        load_audio(next(iter(resampled)))


def test_letters_that_are_no_units(tmp_path, cuts, caplog):
    caplog.set_level("INFO")
    texts = [cut.supervisions[0].custom["fluent"] for cut in cuts]
    data = module(tmp_path, cuts, "あいうえおかきくけこさし")
    data.train_survey()
    letters = sorted(set("すせそ") & set("".join(texts)))
    strange = sum(not set(text).isdisjoint(letters) for text in texts)
    assert letters and f"; {strange} with letters that are no units ({', '.join(letters)})" in caplog.text
    other = module(tmp_path, cuts, "abc")
    with pytest.raises(UserError, match="no letter of part train is a unit .*: pass the --lang of this corpus"):
        other.train_survey()
    assert len(other.test_dataloader("eval1")) > 0  # a test set is scored as it is
