"""Shar shards: the same batches from them, and an error where one is short, damaged or missing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fixtures.data import make_corpus
from lhotse import CutSet, MonoCut
from make_shar import make_shar  # noqa: E402

from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.data.dataset import Batch
from sammo.data.manifests import read_cuts, write_cuts
from sammo.data.shar import PLACES
from sammo.data.sources import SHAR
from sammo.data.tokens import load_tokenizer
from sammo.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    fbank = make_corpus(tmp_path_factory.mktemp("corpus"))
    count = make_shar([fbank / "csj_cuts_train.jsonl.gz"], fbank / "shar", 8, "features", nj=1)
    assert count == 5
    return fbank


def load(corpus: Path, shar_dir: Path, epoch: int = 1, state=None, **options) -> list[Batch]:
    defaults = {"manifest_dir": corpus, "shar_dir": shar_dir, "max_duration": 12.0, "num_workers": 0}
    tokenizer = load_tokenizer(corpus.parent / "lang_char")
    module = CsjDataModule(DataConfig(**{**defaults, "drop_last": False, **options}), tokenizer)
    return list(module.train_dataloader(epoch, sampler_state=state))


def ids(batches: list[Batch]) -> list[str]:
    return [cut_id for batch in batches for cut_id in batch["cut_ids"]]


def test_every_cut_once_with_its_features(corpus):
    stored = {cut.id: cut for cut in CutSet.from_file(corpus / "csj_cuts_train.jsonl.gz")}
    batches = load(corpus, corpus / "shar", enable_musan=False, enable_spec_aug=False)
    assert sorted(ids(batches)) == sorted(stored)
    for batch in batches:
        for features, length, cut_id in zip(batch["features"], batch["lengths"], batch["cut_ids"]):
            assert np.allclose(features[:length].numpy(), stored[cut_id].load_features(), atol=1 / 32)


def test_workers_and_epochs(corpus):
    here, there = load(corpus, corpus / "shar"), load(corpus, corpus / "shar", num_workers=2)
    assert ids(here) == ids(there)
    assert all(np.array_equal(a["features"], b["features"]) for a, b in zip(here, there))
    assert ids(here) != ids(load(corpus, corpus / "shar", epoch=2))


def test_resuming(corpus):
    tokenizer = load_tokenizer(corpus.parent / "lang_char")
    config = DataConfig(
        manifest_dir=corpus, shar_dir=corpus / "shar", max_duration=12.0, num_workers=0, drop_last=False
    )
    loader = CsjDataModule(config, tokenizer).train_dataloader(2)
    iterator = iter(loader)
    next(iterator), next(iterator)
    state = loader.sampler.state_dict()
    assert ids(load(corpus, corpus / "shar", epoch=2, state=state)) == ids(load(corpus, corpus / "shar", epoch=2)[2:])


@pytest.mark.parametrize("speed_perturb", [False, True])
def test_speed_perturbed_copies_are_a_choice(corpus, tmp_path, speed_perturb):
    """Shards of a corpus and its copies: --speed-perturb decides, as it does without Shar."""
    copies = [cut.with_id(cut.id + "_sp0.9") for cut in CutSet.from_file(corpus / "csj_cuts_train.jsonl.gz")]
    CutSet(copies).to_file(tmp_path / "csj_cuts_train_sp0.9.jsonl.gz")
    manifests = [corpus / "csj_cuts_train.jsonl.gz", tmp_path / "csj_cuts_train_sp0.9.jsonl.gz"]
    assert make_shar(manifests, tmp_path / "shar", 8, "features", nj=1) == 10
    options = {"speed_perturb": speed_perturb, "enable_musan": False, "enable_spec_aug": False}
    found = ids(load(corpus, tmp_path / "shar", **options))
    assert len(found) == len(set(found)) == (80 if speed_perturb else 40)
    assert any(name.endswith("_sp0.9") for name in found) == speed_perturb
    with pytest.raises(UserError, match="no speed-perturbed copies"):
        load(corpus, corpus / "shar", speed_perturb=True)


@pytest.fixture
def copy(corpus, tmp_path) -> Path:
    shutil.copytree(corpus / "shar", tmp_path / "shar")
    return tmp_path / "shar"


def test_a_torn_shard(corpus, copy):
    path = copy / "features.000002.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        UserError,
        match=r"shard cuts.000002.jsonl.gz in .* has no features of cut train-\d+ \(EOFError: .* ends early",
    ):
        load(corpus, copy)


def test_an_archive_of_other_cuts(corpus, copy):
    shutil.copy(copy / "features.000001.tar", copy / "features.000000.tar")
    with pytest.raises(UserError, match=r"shard cuts.000000.jsonl.gz in .* has no features of cut train-\d+ \("):
        load(corpus, copy)


def test_a_manifest_that_ends_early(corpus, copy):
    make_shar([corpus / "csj_cuts_train.jsonl.gz"], copy.parent / "short", 3, "features", nj=1)
    shutil.copy(copy.parent / "short/cuts.000000.jsonl.gz", copy / "cuts.000000.jsonl.gz")
    with pytest.raises(UserError, match="shard cuts.000000.jsonl.gz in .* ends early: 3 of 8 cuts"):
        load(corpus, copy)


def test_shards_of_before(corpus, copy):
    """They do not say where in an archive a cut is."""
    cuts = list(read_cuts(copy / "cuts.000000.jsonl.gz", SHAR))
    for cut in cuts:
        assert isinstance(cut, MonoCut) and cut.custom
        del cut.custom[PLACES]
    write_cuts(copy / "cuts.000000.jsonl.gz", cuts)
    with pytest.raises(UserError, match="shard cuts.000000.jsonl.gz in .* is of an older layout; write it again"):
        load(corpus, copy)


def test_only_what_is_wanted_is_read(corpus, monkeypatch):
    """Of four processes each reads its quarter of the archives."""
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, begin: (read.append(size), pread(file, size, begin))[1])
    module = CsjDataModule(
        DataConfig(manifest_dir=corpus, shar_dir=corpus / "shar", max_duration=6.0, num_workers=0, drop_last=False),
        load_tokenizer(corpus.parent / "lang_char"),
    )
    list(module.train_dataloader(1, rank=1, world_size=4))
    whole = sum(path.stat().st_size for path in (corpus / "shar").glob("*.tar"))
    assert 0.1 * whole < sum(read) < 0.4 * whole


def test_missing_files(corpus, copy):
    (copy / "features.000001.tar").unlink()
    with pytest.raises(UserError, match="features.000001.tar is missing"):
        load(corpus, copy)
    (copy / "index.json").write_text("{")
    with pytest.raises(UserError, match="index.json is damaged"):
        load(corpus, copy)
    (copy / "index.json").unlink()
    with pytest.raises(UserError, match="missing or unfinished"):
        load(corpus, copy)


def test_writing_goes_on_where_it_stopped(corpus, copy):
    before = json.loads((copy / "index.json").read_text())
    (copy / "index.json").unlink()
    (copy / "cuts.000003.jsonl.gz").unlink()
    kept = (copy / "features.000001.tar").stat().st_mtime_ns
    assert make_shar([corpus / "csj_cuts_train.jsonl.gz"], copy, 8, "features", nj=1) == 5
    assert json.loads((copy / "index.json").read_text()) == before
    assert (copy / "features.000001.tar").stat().st_mtime_ns == kept
