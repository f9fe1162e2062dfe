"""Batches: the same however they are made, resumable, shared between ranks, and clear about what is wrong."""

from __future__ import annotations

import gzip
import multiprocessing.process
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.data import make_corpus
from fixtures.training import make_batch
from lhotse import CutSet
from lhotse.cut import Cut

from sammo.data.config import DataConfig
from sammo.data.cuts import ManifestCuts
from sammo.data.datamodule import CsjDataModule
from sammo.data.dataset import WaitTimer
from sammo.data.features import make_extractor
from sammo.data.tokens import load_tokenizer
from sammo.errors import UserError
from sammo.signals import STOP_SIGNALS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return load_tokenizer(corpus.parent / "lang_char")


@pytest.fixture
def module(corpus, tokenizer):
    def make(**options) -> CsjDataModule:
        defaults = {"manifest_dir": corpus, "max_duration": 12.0, "num_workers": 0, "drop_last": False}
        return CsjDataModule(DataConfig(**{**defaults, **options}), tokenizer)

    return make


@pytest.fixture(scope="module")
def cuts(corpus) -> dict[str, Cut]:
    """All cuts of the corpus by their ids."""
    parts = ("train", "valid", "eval1")
    return {cut.id: cut for part in parts for cut in CutSet.from_file(corpus / f"csj_cuts_{part}.jsonl.gz")}


def same(left: list[dict], right: list[dict]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a["features"], b["features"])
        and torch.equal(a["lengths"], b["lengths"])
        and torch.equal(a["tokens"], b["tokens"])
        and a["cut_ids"] == b["cut_ids"]
        for a, b in zip(left, right)
    )


def test_batch_contents(module, tokenizer, cuts):
    batches = list(module().train_dataloader(1))
    ids = [cut_id for batch in batches for cut_id in batch["cut_ids"]]
    assert sorted(ids) == [f"train-{index:03d}" for index in range(40)]
    for batch in batches:
        assert batch["features"].shape == (len(batch["cut_ids"]), batch["lengths"].max(), 80)
        assert batch["features"].dtype == torch.float32 and batch["lengths"].dtype == torch.int64
        tokens = [tokenizer.encode(text) for text in batch["texts"]]
        assert batch["tokens"].shape == (len(tokens), max(map(len, tokens)))
        assert [[symbol for symbol in row if symbol] for row in batch["tokens"].tolist()] == tokens
        assert batch["texts"] == [cuts[cut_id].supervisions[0].custom["fluent"] for cut_id in batch["cut_ids"]]
        assert sum(cuts[cut_id].duration for cut_id in batch["cut_ids"]) <= 12.0


def test_without_augmentation_features_are_the_stored_ones(module, cuts):
    for batch in module(enable_musan=False, enable_spec_aug=False).train_dataloader(1):
        for features, length, cut_id in zip(batch["features"], batch["lengths"], batch["cut_ids"]):
            assert np.array_equal(features[:length].numpy(), cuts[cut_id].load_features())
            assert (features[length:] < -23.0).all()


def test_on_the_fly_features_are_close_to_the_stored_ones(module):
    options = {"enable_musan": False, "enable_spec_aug": False}
    stored = list(module(**options).train_dataloader(1))
    computed = list(module(**options, on_the_fly_feats=True).train_dataloader(1))
    for left, right in zip(stored, computed):
        # lilcom keeps multiples of 1/32
        assert torch.allclose(left["features"], right["features"], atol=0.05)


@pytest.mark.parametrize("on_the_fly", [False, True])
def test_a_batch_does_not_depend_on_who_makes_it(module, on_the_fly):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    here = list(module(on_the_fly_feats=on_the_fly).train_dataloader(1))
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    there = list(module(on_the_fly_feats=on_the_fly, num_workers=2).train_dataloader(1))
    assert same(here, there)


def test_making_batches_leaves_the_random_states_alone(module):
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = torch.rand(3), random.random(), np.random.rand()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    loader = iter(module().train_dataloader(1))
    next(loader), next(loader)
    assert torch.equal(torch.rand(3), expected[0]) and (random.random(), np.random.rand()) == expected[1:]


def test_epochs_and_seeds_differ(module):
    first, second = list(module().train_dataloader(1)), list(module().train_dataloader(2))
    assert not same(first, second)
    assert not same(first, list(module(data_seed=1).train_dataloader(1)))
    assert same(first, list(module().train_dataloader(1)))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_inside_an_epoch(module, workers):
    whole = list(module().train_dataloader(3))
    loader = module(num_workers=workers).train_dataloader(3)
    taken = []
    for batch in loader:
        taken.append(batch)
        if len(taken) == 4:
            state = loader.sampler.state_dict()
            break
    assert state["batches"] == 4  # not the number that the workers have asked for
    resumed = module(num_workers=workers).train_dataloader(3, sampler_state=state)
    assert same(whole, taken + list(resumed))
    assert resumed.sampler.state_dict()["batches"] == len(whole)


def test_a_rank_builds_its_own_cuts_alone(module, monkeypatch):
    """However many there are, and resuming builds none that were trained on."""
    built = []
    build = ManifestCuts._build
    monkeypatch.setattr(
        ManifestCuts, "_build", lambda self, record, place: (built.append(record["id"]), build(self, record, place))[1]
    )
    loader = module(max_duration=6.0).train_dataloader(1, rank=2, world_size=3)
    batches = list(loader)
    assert sorted(built) == sorted(cut_id.partition("_dup")[0] for batch in batches for cut_id in batch["cut_ids"])
    assert 5 < len(built) < 20
    built.clear()
    state = {**loader.sampler.state_dict(), "batches": len(batches) - 1}
    rest = list(module(max_duration=6.0).train_dataloader(1, sampler_state=state, rank=2, world_size=3))
    assert same(rest, batches[-1:]) and len(built) == len(rest[0]["cut_ids"])


def test_a_manifest_that_changes_in_use(module, corpus, tmp_path):
    data = module(manifest_dir=damaged(corpus, tmp_path, lambda cut: cut), musan_dir=corpus)
    loader = data.train_dataloader(1)
    damaged(corpus, tmp_path, lambda cut: cut.truncate(duration=0.9 * cut.duration, preserve_id=True))
    with pytest.raises(UserError, match="csj_cuts_train.jsonl.gz was changed while it was in use"):
        list(loader)


def test_resuming_with_other_ranks(module):
    """As much of the epoch is left."""
    whole = module().train_dataloader(3)
    state = {**whole.sampler.state_dict(), "batches": 4}
    for world_size in (1, 2, 3):
        loaders = [
            module().train_dataloader(3, sampler_state=state, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        assert [loader.sampler.batches for loader in loaders] == world_size * [4 // world_size]
        ids = [cut_id for loader in loaders for batch in loader for cut_id in batch["cut_ids"]]
        assert 0.5 < len(ids) / (40 * (1 - 4 / len(list(whole)))) < 1.5


@pytest.mark.parametrize("gpu", [False, True])
def test_batches_for_a_gpu_are_in_pinned_memory(module, monkeypatch, gpu):
    given = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("sammo.data.dataset.DataLoader", lambda *args, **options: given.update(options) or [])
    assert list(module().valid_dataloader()) == [] and given["pin_memory"] == gpu


def test_workers_leave_signals_to_training(module, monkeypatch):
    """Slurm sends its warning to the loader's processes, too, maybe before their first line; every batch still comes."""
    wanted = list(module().train_dataloader(1))
    start, children = multiprocessing.process.BaseProcess.start, []

    def signal_them():
        for child in children:
            for number in STOP_SIGNALS:
                os.kill(child.pid, number)

    def start_and_signal(process):
        start(process)
        children.append(process)
        signal_them()

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start_and_signal)
    loader = iter(module(num_workers=2).train_dataloader(1))
    batches = [next(loader)]
    signal_them()
    assert same(wanted, batches + list(loader)) and len(children) == 2
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(STOP_SIGNALS)


def test_curriculum(module, cuts):
    """The first epochs see short cuts alone, the next ones longer ones, too, the rest everything."""
    durations = [cuts[cut_id].duration for batch in module().train_dataloader(1) for cut_id in batch["cut_ids"]]
    short, long = sorted(durations)[len(durations) // 3], sorted(durations)[2 * len(durations) // 3]
    data = module(curriculum=f"1:{short},2:{long}")
    limits = [short, long, long, None, None]
    assert [data.config.longest(epoch) for epoch in range(1, 6)] == limits
    for epoch, limit in enumerate(limits, start=1):
        wanted = sorted(d for d in durations if limit is None or d <= limit)
        found = sorted(cuts[cut_id].duration for batch in data.train_dataloader(epoch) for cut_id in batch["cut_ids"])
        assert found == wanted and data.audio_seconds(epoch) == pytest.approx(sum(wanted))
    state = data.train_dataloader(1).sampler.state_dict()
    with pytest.raises(UserError, match="other training cuts"):
        module().train_dataloader(1, sampler_state=state)


def test_cuts_out_of_bounds_are_not_trained_on(module, cuts, caplog):
    """Bounds are for training: what is decoded or validated stays whole. Without options they are the original's."""
    assert (DataConfig().min_duration, DataConfig().max_cut_duration) == (1.0, 20.0)
    durations = [cuts[cut_id].duration for batch in module().train_dataloader(1) for cut_id in batch["cut_ids"]]
    caplog.set_level("INFO")
    data = module(min_duration=2.0, max_cut_duration=3.0)
    found = [cuts[cut_id].duration for batch in data.train_dataloader(1) for cut_id in batch["cut_ids"]]
    assert sorted(found) == sorted(d for d in durations if 2.0 <= d <= 3.0) and found
    below, above = sum(d < 2.0 for d in durations), sum(d > 3.0 for d in durations)
    assert f"{below} with fewer seconds than --min-duration" in caplog.text
    assert f"{above} with more seconds than --max-cut-duration" in caplog.text
    for loader in (data.valid_dataloader(), data.test_dataloader("eval1")):
        found = [cuts[cut_id].duration for batch in loader for cut_id in batch["cut_ids"]]
        assert any(duration < 2.0 or duration > 3.0 for duration in found)


def test_resuming_with_other_options_is_refused(module, corpus):
    state = module().train_dataloader(1).sampler.state_dict()
    with pytest.raises(UserError, match="max_duration 12.0, now it is 20.0"):
        module(max_duration=20.0).train_dataloader(1, sampler_state=state)
    with pytest.raises(UserError, match="other training cuts"):
        module(transcript_mode="disfluent").train_dataloader(1, sampler_state={**state, "cuts": "x"})


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_get_as_many_batches_and_share_the_cuts(module, world_size, drop_last):
    shares = [
        list(module(drop_last=drop_last).train_dataloader(1, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    ids = [cut_id for share in shares for batch in share for cut_id in batch["cut_ids"]]
    originals = [name for name in ids if "_dup" not in name]
    assert len(originals) == len(set(originals))
    assert len(originals) == 40 if not drop_last else 20 < len(originals) <= 40


def test_valid_and_test_are_fixed_and_whole(module, cuts):
    valid = list(module().valid_dataloader())
    assert same(valid, list(module().valid_dataloader()))
    ids = [cut_id for rank in range(2) for batch in module().valid_dataloader(rank, 2) for cut_id in batch["cut_ids"]]
    assert sorted(ids) == [f"valid-{index:03d}" for index in range(6)]
    durations = [cuts[cut_id].duration for batch in module().test_dataloader("eval1") for cut_id in batch["cut_ids"]]
    assert durations == sorted(durations, reverse=True) and len(durations) == 6


def damaged(corpus: Path, directory: Path, change) -> Path:
    """A manifest directory whose training cuts went through ``change``."""
    cuts = CutSet.from_file(corpus / "csj_cuts_train.jsonl.gz")
    CutSet([change(cut) for cut in cuts]).to_file(directory / "csj_cuts_train.jsonl.gz")
    return directory


def test_unusable_cuts_are_left_out_and_counted(module, corpus, tmp_path, caplog):
    def change(cut):
        custom = cut.supervisions[0].custom
        number = int(cut.id[-3:])
        custom["fluent"] = "" if number < 2 else "あ" * 200 if number < 5 else custom["fluent"]
        return cut

    options = {"manifest_dir": damaged(corpus, tmp_path, change), "musan_dir": corpus}
    with caplog.at_level("INFO"):
        loader = module(**options).train_dataloader(1)
    assert "left out 2 with no text, 3 with more symbols than encoder frames" in caplog.text
    ids = {cut_id for batch in loader for cut_id in batch["cut_ids"]}
    assert ids == {f"train-{index:03d}" for index in range(5, 40)}
    # A test part keeps its hard cuts.
    (tmp_path / "csj_cuts_eval1.jsonl.gz").write_bytes((tmp_path / "csj_cuts_train.jsonl.gz").read_bytes())
    tested = {cut_id for batch in module(**options).test_dataloader("eval1") for cut_id in batch["cut_ids"]}
    assert tested == {f"train-{index:03d}" for index in range(2, 40)}


def test_empty_missing_and_damaged_manifests(module, corpus, tmp_path):
    def silence(cut):
        cut.supervisions[0].custom["fluent"] = ""
        return cut

    with pytest.raises(UserError, match="part train is empty .*40 with no text"):
        module(manifest_dir=damaged(corpus, tmp_path, silence)).train_dataloader(1)
    with pytest.raises(UserError, match="no .*csj_cuts_eval7.jsonl.gz"):
        module().test_dataloader("eval7")
    content = (corpus / "csj_cuts_train.jsonl.gz").read_bytes()
    (tmp_path / "csj_cuts_train.jsonl.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged after line"):
        module(manifest_dir=tmp_path).train_dataloader(1)
    with gzip.open(tmp_path / "csj_cuts_train.jsonl.gz", "wt") as file:
        file.write("not json\n")
    with pytest.raises(UserError, match="is damaged after line 1"):
        module(manifest_dir=tmp_path).train_dataloader(1)
    with pytest.raises(UserError, match="no transcript in mode 'reading'.*disfluent, fluent, number"):
        module(transcript_mode="reading").train_dataloader(1)
    with pytest.raises(UserError, match="musan_cuts.jsonl.gz for noise mixing"):
        module(musan_dir=tmp_path).train_dataloader(1)


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_features_name_cut_and_file(module, corpus, tmp_path, workers):
    def move(cut):
        cut.features.storage_path = str(tmp_path / "gone.lca")
        return cut

    loader = module(manifest_dir=damaged(corpus, tmp_path, move), musan_dir=corpus, num_workers=workers)
    with pytest.raises(UserError, match=r"the features of cut train-\d+ cannot be read from .*gone.lca") as error:
        list(loader.train_dataloader(1))
    assert "\n" not in str(error.value)


def test_missing_audio_names_cut_and_file(module, corpus, tmp_path):
    def move(cut):
        cut.recording.sources[0].source = str(tmp_path / "gone.wav")
        return cut

    loader = module(manifest_dir=damaged(corpus, tmp_path, move), musan_dir=corpus, on_the_fly_feats=True)
    with pytest.raises(UserError, match=r"the audio of cut train-\d+ cannot be read from .*gone.wav"):
        list(loader.train_dataloader(1))


def test_too_little_data_for_one_batch(module):
    with pytest.raises(UserError, match="do not fill one batch"):
        list(module(drop_last=True, max_duration=1000.0).train_dataloader(1))


def test_speed_copies_take_turns(module, corpus, tmp_path):
    cuts = CutSet.from_file(corpus / "csj_cuts_train.jsonl.gz").subset(first=10).to_eager()
    cuts.to_file(tmp_path / "csj_cuts_train.jsonl.gz")
    for speed in (0.9, 1.1):
        copies = CutSet([cut.drop_features().perturb_speed(speed) for cut in cuts]).compute_and_store_features(
            make_extractor(), str(tmp_path / f"feats{speed}"), progress_bar=False
        )
        copies.to_file(tmp_path / f"csj_cuts_train_sp{speed}.jsonl.gz")
    options = {"speed_perturb": True, "min_duration": 0.0}  # a copy of a cut of 1 s is shorter than that
    batches = module(manifest_dir=tmp_path, musan_dir=corpus, **options).train_dataloader(1)
    ids = [cut_id for batch in batches for cut_id in batch["cut_ids"]]
    assert len(ids) == 30 and sum("_sp0.9" in name for name in ids) == 10


def test_wait_timer_tells_waiting_from_working(monkeypatch):
    clock = [5.0]
    monkeypatch.setattr("sammo.data.dataset.time.perf_counter", lambda: clock[0])

    batch = make_batch(torch.zeros(2, 100, 80), torch.tensor([100, 50]), [[], []], "cut")

    def slow():
        for _ in range(3):
            clock[0] += 0.5
            yield batch

    timer = WaitTimer(slow())
    for _ in timer:
        clock[0] += 0.25
    assert (timer.batches, timer.audio_seconds) == (3, pytest.approx(4.5))
    assert (timer.waited, timer.worked, timer.share) == (1.5, 0.75, pytest.approx(2 / 3))
    assert timer.report().startswith("waited 1.5 s for data (66.7 % of the time), 3 batches")
