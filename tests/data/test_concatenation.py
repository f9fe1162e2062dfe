"""Utterances of a batch one behind the other."""

from __future__ import annotations

import pytest
import torch
from fixtures.data import make_corpus

from sammo.data.concatenation import Concatenation
from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.data.tokens import load_tokenizer
from sammo.errors import UserError
from sammo.geometry import PADDING_VALUE

PLAIN = {"max_duration": 12.0, "num_workers": 0, "drop_last": False, "enable_musan": False, "enable_spec_aug": False}
JOINED = {"concatenate_cuts": True, "duration_factor": 3.0, "gap": 0.5}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    fbank = make_corpus(tmp_path_factory.mktemp("joined"))
    tokenizer = load_tokenizer(fbank.parent / "lang_char")

    def batches(epoch=1, **options):
        module = CsjDataModule(DataConfig(manifest_dir=fbank, **{**PLAIN, **options}), tokenizer)
        return list(module.train_dataloader(epoch))

    return batches


def test_groups_are_as_long_as_they_may_be():
    longer = Concatenation(2.0, 0.5)  # 50 frames
    assert longer.groups([400, 300, 300, 100]) == [[0, 1], [2, 3]]  # 750 of 800, 450
    assert Concatenation(1.0, 0.5).groups([400, 300, 100]) == [[0], [1], [2]]  # 450 do not fit
    assert Concatenation(1.1, 0.0).groups([400, 300, 140]) == [[1, 2], [0]]  # the longest row first


def test_rows_hold_the_utterances_and_pauses(load):
    """All that was in the batch, once, with silence between and its text in the same order."""
    plain, joined = load(), load(**JOINED)
    assert sum(len(batch["lengths"]) for batch in joined) < 0.7 * sum(len(batch["lengths"]) for batch in plain)
    for before, after in zip(plain, joined, strict=True):
        rows = dict(zip(before["cut_ids"], range(len(before["cut_ids"]))))
        for row, ids in enumerate(after["cut_ids"]):
            at, tokens = 0, []
            for index in map(rows.pop, ids.split(" + ")):
                length = int(before["lengths"][index])
                assert torch.equal(after["features"][row, at : at + length], before["features"][index, :length])
                pause = after["features"][row, at + length : at + length + 50]
                assert (pause == PADDING_VALUE).all()
                tokens += [token for token in before["tokens"][index].tolist() if token]
                at += length + 50
            assert after["lengths"][row] == at - 50 <= 3 * before["lengths"].max()
            assert [token for token in after["tokens"][row].tolist() if token] == tokens
        assert not rows


def test_with_all_augmentation_a_batch_is_a_function_of_its_seed(load):
    options = {**JOINED, "noise_only_share": 0.3, "leading_silence": 0.4, "enable_spec_aug": True}
    one, other = load(**options), load(**options)
    assert all(torch.equal(a["features"], b["features"]) and a["texts"] == b["texts"] for a, b in zip(one, other))


def test_the_first_epochs_are_of_utterances_alone(load):
    """Bit for bit; the last ones are those of a training that has always been so."""
    options = {**JOINED, "noise_only_share": 0.3, "leading_silence": 0.4}
    late = {**options, "long_form_from_epoch": 3}
    for epoch, same, other in ((2, {}, options), (3, options, {})):
        found, expected, others = load(epoch, **late), load(epoch, **same), load(epoch, **other)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a["features"], b["features"])
            assert a["cut_ids"] == b["cut_ids"] and a["texts"] == b["texts"]
        assert [batch["cut_ids"] for batch in found] != [batch["cut_ids"] for batch in others]


@pytest.mark.parametrize(
    "options", [{"long_form_from_epoch": 0}, {"duration_factor": 0.5}, {"gap": -1.0}, {"gap": float("nan")}]
)
def test_bad_values(options, tmp_path):
    with pytest.raises(UserError, match=next(iter(options)).replace("_", "-")):
        DataConfig(manifest_dir=tmp_path, **options)
