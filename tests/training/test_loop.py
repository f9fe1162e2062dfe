"""The loop: what it learns, skips, saves and refuses."""

from __future__ import annotations

import argparse
import dataclasses
import pkgutil
import signal
import weakref
from functools import partial

import pytest
import torch
from fixtures.training import Letters, ListData, ListLoader, differences, make_trainer, random_batch, small_config
from torch.utils._pytree import tree_leaves

from sammo.checkpoint import read_checkpoint
from sammo.data.concatenation import Concatenation, LongForm
from sammo.errors import UserError
from sammo.model_options import ModelOptions
from sammo.options import add_options, from_args
from sammo.regularize import ScheduledFloat, load_regularizer_state, regularizer_state
from sammo.training.config import TrainConfig
from sammo.training.diagnostics import diagnose
from sammo.training.guard import first_overflow, watch
from sammo.training.largest_batches import largest_batches, try_largest_batches
from sammo.training.randomness import draw_chunk, random_state


@pytest.fixture
def data():
    return ListData([random_batch(seed) for seed in range(4)])


@pytest.mark.parametrize("name", ["sammo", "zipformer"])
def test_learns(tmp_path, data, name):
    trainer = make_trainer(tmp_path, data, model=small_config(name), num_epochs=10, warm_step=10)
    before = trainer.loss(trainer.model, data.batches[0])[0].item()
    trainer.run()
    assert trainer.loss(trainer.model, data.batches[0])[0].item() < 0.6 * before
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == sorted(
        ["best-valid.pt", *(f"epoch-{epoch}.pt" for epoch in range(1, 11))]
    )


def test_averaged_model_is_the_mean_over_batches(tmp_path, data):
    trainer = make_trainer(tmp_path, data, average_period=1)
    states = []
    step = trainer._step

    def recorded(*args):
        result = step(*args)
        states.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return result

    trainer._step = recorded
    trainer.run()
    assert len(states) == 8
    for name, average in trainer.averaged.state.items():
        assert average.dtype == torch.float64
        expected = torch.stack([state[name].double() for state in states]).mean(0)
        torch.testing.assert_close(average, expected, rtol=1e-12, atol=1e-12)


def test_schedules_count_reference_batches(tmp_path, data):
    trainer = make_trainer(tmp_path, data, num_epochs=6, ref_duration=200.0)  # batches of 600 s: three each
    trainer.run()
    value = next(m for m in trainer.model.modules() if isinstance(m, ScheduledFloat) and len(m.schedule.xs) == 2)
    assert trainer.batch == 24
    assert value.value == value.schedule(20 * 3)
    assert trainer.optimization.scheduler.batch == 24 and trainer.optimization.scheduler.epoch == 5


def test_ctc_loss(tmp_path, data, caplog):
    caplog.set_level("INFO")
    trainer = make_trainer(tmp_path, data, model=small_config(use_ctc=True), ctc_loss_scale=0.5, log_interval=1)
    loss, (simple, pruned, ctc, _) = trainer.loss(trainer.model, data.batches[0])
    assert ctc > 0 and loss == simple + 0.1 * pruned + 0.5 * ctc
    trainer.run()
    assert ", ctc " in caplog.text and "ctc_output.weight" in trainer.model.state_dict()


def test_loss_scales():
    config = TrainConfig(warm_step=2000, simple_loss_scale=0.5)
    assert config.loss_scales(0) == (1.0, 0.1, 0.0)
    assert config.loss_scales(1000) == (0.75, pytest.approx(0.55), 0.0)
    assert config.loss_scales(2000) == config.loss_scales(9000) == (0.5, 1.0, 0.0)
    assert TrainConfig(warm_step=0).loss_scales(0) == (0.5, 1.0, 0.0)


def test_chunks_depend_on_the_batch_alone():
    config = small_config("zipformer").encoder
    drawn = set()
    for batch in range(100):
        assert draw_chunk(config, 42, batch) == draw_chunk(config, 42, batch)
        drawn.add(draw_chunk(config, 42, batch))
    assert {chunk for chunk, _ in drawn} == {16, 32, 64, -1}
    assert {left for chunk, left in drawn if chunk == -1} == {-1}
    assert {left for _, left in drawn} == {64, 128, 256, -1}


# ------------------------------------------------------------------------------------ ends


@pytest.mark.parametrize("name", ["sammo", "zipformer"])
def test_max_steps_and_going_on(tmp_path, data, name):
    model = small_config(name)
    whole = make_trainer(tmp_path / "whole", data, model=model)
    whole.run()
    first = make_trainer(tmp_path / "parts", data, model=model, max_steps=6)
    first.run()
    assert first.batch == 6 and "--max-steps" in first.reason_to_stop()
    checkpoint = read_checkpoint(tmp_path / "parts/epoch-2.pt")
    assert not checkpoint.epoch_done
    second = make_trainer(tmp_path / "parts", data, model=model)
    second.load(checkpoint)
    second.run()
    ends = [read_checkpoint(tmp_path / name / "epoch-2.pt") for name in ("whole", "parts")]
    # The stop validated once more, all else is the same to the last bit.
    same = {"wall_seconds": 0.0, "options": {}, "best_valid": 0.0}
    ends = [dataclasses.replace(end, training=dataclasses.replace(end.training, **same)) for end in ends]
    assert differences(*ends) == []


def test_time_budget(tmp_path, data):
    trainer = make_trainer(tmp_path, data, num_epochs=10000, time_budget_minutes=0.02)
    trainer.run()
    assert "time-budget" in trainer.reason_to_stop()
    last = max(tmp_path.glob("epoch-*.pt"), key=lambda path: int(path.stem.split("-")[1]))
    checkpoint = read_checkpoint(last)
    assert checkpoint.training.wall_seconds >= 1.2
    again = make_trainer(tmp_path, data, num_epochs=10000, time_budget_minutes=0.02)
    again.load(checkpoint)
    assert again.reason_to_stop()


def test_signal_saves_and_stops(tmp_path, data):
    trainer = make_trainer(tmp_path, data)
    step = trainer._step

    def interrupted(*args):
        if trainer.batch == 4:
            signal.raise_signal(signal.SIGTERM)
        return step(*args)

    trainer._step = interrupted
    with trainer.stop as stop:
        trainer.run()
    assert stop.received == signal.SIGTERM and stop.exit_code == 0
    checkpoint = read_checkpoint(tmp_path / "checkpoint-5.pt")
    assert checkpoint.batch_idx_train == 5 and checkpoint.epoch == 2 and checkpoint.training.sampler["batches"] == 1


def test_going_on_with_another_number_of_processes(tmp_path, data, caplog):
    """The same count of batches and everything that is no process's own; what is approximate is said."""
    whole = make_trainer(tmp_path / "whole", data, max_steps=2)
    whole.run()
    saved = read_checkpoint(tmp_path / "whole/epoch-1.pt")
    training = dataclasses.replace(
        saved.training, random=2 * saved.training.random, regularizers=2 * saved.training.regularizers
    )
    trainer = make_trainer(tmp_path, data, num_epochs=1)
    load_regularizer_state(trainer.model, dict.fromkeys(regularizer_state(trainer.model), False))
    trainer.load(dataclasses.replace(saved, training=training))
    assert "of 2 processes, these are 1: training goes on after its 2 batches, approximately" in caplog.text
    assert regularizer_state(trainer.model) == saved.training.regularizers[0]
    trainer.run()
    assert trainer.batch == 4 and trainer.epoch == 2


def test_keeps_the_last(tmp_path, data):
    make_trainer(tmp_path, data, save_every_n=1, keep_last_k=2).run()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*.pt")) == ["checkpoint-7.pt", "checkpoint-8.pt"]


def test_the_next_batch_comes_while_a_gpu_computes(tmp_path, data, monkeypatch):
    """After the backward pass was started and before its numbers are waited for; that processes agree on it, too."""
    events: list[str] = []
    trainer = make_trainer(tmp_path, data, num_epochs=1)

    class Loader(ListLoader):
        def __iter__(self):
            for batch in super().__iter__():
                events.append("batch")
                yield batch

    def note(owner, name):
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (events.append(name.strip("_")), function(*args))[1])

    monkeypatch.setattr(data, "train_dataloader", lambda *args: Loader(data.batches))
    for owner, name in ((trainer, "_backward"), (trainer.optimization, "measure"), (trainer, "_agree")):
        note(owner, name)
    note(trainer.world, "all")
    trainer.run()
    step = ["backward", "measure", "batch", "agree"]
    # Whether there is an epoch, and a batch in it.
    assert events[:3] == ["all", "batch", "all"] and events[3:-1] == 3 * step + ["backward", "measure", "agree"]


# ------------------------------------------------------------------------------------ not finite


def test_skips_what_is_not_finite(tmp_path, data, caplog):
    bad = random_batch(9)
    bad["features"][1, 3, 5] = float("nan")
    caplog.set_level("INFO")
    trainer = make_trainer(tmp_path, ListData([*data.batches, bad]), num_epochs=1, log_interval=1)
    step = trainer._step
    unchanged = []

    def checked(*args):
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        result = step(*args)
        unchanged.append(differences(before, trainer.model.state_dict()) == [])
        return result

    trainer._step = checked
    trainer.run()
    assert unchanged == [False] * 4 + [True]
    assert trainer.guard.skipped == 1 and all(p.isfinite().all() for p in trainer.model.parameters())
    kept = torch.load(tmp_path / "bad-batch-5-rank-0.pt", weights_only=True)
    assert kept["cut_ids"] == bad["cut_ids"]
    assert torch.equal(kept["features"].isnan(), bad["features"].isnan())
    assert "the features of cut cut-9-1" in caplog.text
    assert "loss nan" in caplog.text and "mean nan" not in caplog.text


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("forward", torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")),
        ("_balance_direction", RuntimeError("Triton Error [CUDA]: out of memory")),
        (
            "whitening_metric",
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ),
    ],
)
def test_skips_what_memory_does_not_suffice_for(tmp_path, data, caplog, monkeypatch, place, error):
    """In the forward pass, and in the backward pass of Balancer and Whiten, for tensors and for kernels."""
    monkeypatch.setattr("random.random", lambda: 0.0)  # all of them act
    trainer = make_trainer(tmp_path, data, num_epochs=1, max_nonfinite=1)
    seen, kept, trained = [], [], []

    def fail(*args, function=None):
        if trainer.batch == 2:
            raise type(error)(str(error))
        return function(*args) if function else None

    if place == "forward":
        trainer.model.encoder.stacks[1].register_forward_pre_hook(fail)
    else:
        place = f"sammo.regularize.gradients.{place}"
        monkeypatch.setattr(place, partial(fail, function=pkgutil.resolve_name(place)))
    trainer.model.encoder.stacks[0].layers[0].register_forward_hook(
        lambda module, inputs, output: seen.append(weakref.ref(tree_leaves(output)[0]))
    )
    give_up, step = trainer.parallel.give_up, trainer._step

    def checked(*args):
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        result = step(*args)
        trained.append(differences(before, trainer.model.state_dict()) != [])
        return result

    trainer.parallel.give_up = lambda: (kept.append(seen[-1]()), give_up())
    trainer._step = checked
    trainer.run()
    assert trained == [True, False, True, True] and trainer.guard.skipped == 1
    assert kept == [None]  # the batch's tensors are gone when its gradients are made
    assert "batch 2 skipped: 4 utterances x 0.6 s are too much for the GPU's memory: lower" in caplog.text
    assert torch.load(tmp_path / "bad-batch-2-rank-0.pt", weights_only=True)["cut_ids"][0] == "cut-1-0"


def test_stops_after_too_many_and_names_the_module(tmp_path, data):
    trainer = make_trainer(tmp_path, data, max_nonfinite=2)
    layer = trainer.model.encoder.stacks[1].layers[0].feedforward2
    layer.register_forward_hook(lambda module, inputs, output: output * float("inf"))
    message = r"3 batches of epoch 1 .* --max-nonfinite allows 2; .*encoder\.stacks\.1\.layers\.0\.feedforward2"
    with pytest.raises(UserError, match=message):
        trainer.run()
    assert trainer.guard.skipped == 3


def test_finds_overflow_of_a_gradient(tmp_path, data):
    trainer = make_trainer(tmp_path, data)
    model, batch = trainer.model, data.batches[0]

    def explode(module, inputs, output):
        output.register_hook(lambda gradient: gradient * float("inf"))

    model.joiner.encoder_proj.register_forward_hook(explode)
    where = first_overflow(model, batch, lambda: trainer.loss(model, batch)[0])
    assert where == "the gradient at the output of joiner.encoder_proj (Linear)"
    with torch.no_grad():
        model.joiner.output_linear.bias[0] = float("nan")
    assert first_overflow(model, batch, lambda: None) == "parameter joiner.output_linear.bias"


def test_diagnosis_leaves_no_trace(tmp_path, data):
    trainer = make_trainer(tmp_path, data)
    trainer.model.train()
    before = torch.get_rng_state()
    state = random_state(torch.device("cpu"))
    trainer._find_overflow(data.batches[0], state)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in trainer.model.parameters())


def test_inf_check(tmp_path, data):
    trainer = make_trainer(tmp_path, data, inf_check=True)
    trainer.model.predictor.register_forward_hook(lambda module, inputs, output: output / 0)
    with pytest.raises(UserError, match="not finite: the output of predictor"):
        trainer.run()


def test_watch_is_silent_on_a_sound_model(tmp_path, data):
    trainer = make_trainer(tmp_path, data)
    with watch(trainer.model, at_once=True) as finding:
        trainer.loss(trainer.model, data.batches[0])[0].backward()
    assert finding.where == ""


def test_half_precision(tmp_path, data):
    trainer = make_trainer(tmp_path, data, precision="bf16", num_epochs=3)
    trainer.run()
    assert trainer.guard.skipped == 0
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


# ------------------------------------------------------------------------------------ the rest


def test_diagnostics(tmp_path, data):
    trainer = make_trainer(tmp_path, data)
    with diagnose(trainer.model) as found:
        trainer.loss(trainer.model, data.batches[0])[0].backward()
    text = "\n".join(found.lines())
    assert "predictor: output" in text and "predictor: gradient of output" in text
    assert "joiner.output_linear.weight: value" in text


def test_largest_batches_are_tried(tmp_path, data):
    import numpy as np

    durations = np.array([1.0, 2.0, 4.0])
    batches = list(largest_batches(durations, 8.0, 12, LongForm()))
    assert batches[0]["features"].shape == (2, 400, 80) and batches[-1]["features"].shape == (8, 100, 80)
    longer = next(largest_batches(durations, 8.0, 12, LongForm(leading_silence=1.5)))
    joined = list(largest_batches(durations, 8.0, 12, LongForm(concatenation=Concatenation(4.0, 0.5))))
    for alone, together in zip(batches, joined, strict=True):
        assert len(together["features"]) < len(alone["features"])
        assert together["features"].size(1) > 2 * alone["features"].size(1)
        assert together["tokens"].size(1) >= 2 * alone["tokens"].size(1)
    assert longer["features"].shape == (2, 550, 80) and longer["lengths"].tolist() == [550, 550]
    trainer = make_trainer(tmp_path, data)
    before = dict.fromkeys(regularizer_state(trainer.model), False)
    load_regularizer_state(trainer.model, before)
    try_largest_batches(trainer, durations, 8.0, LongForm())
    assert regularizer_state(trainer.model) == before

    def too_large(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    trainer.loss = too_large
    with pytest.raises(
        UserError, match="tried before training: 2 utterances x 4.0 s are too much for the GPU's memory: lower"
    ):
        try_largest_batches(trainer, durations, 8.0, LongForm())


def test_other_model_or_units(tmp_path, data):
    trainer = make_trainer(tmp_path, data, num_epochs=1)
    trainer.run()
    checkpoint = read_checkpoint(tmp_path / "epoch-1.pt")
    other = make_trainer(tmp_path, data, model=small_config(d_state=64))
    with pytest.raises(UserError, match="another model: d_state is 32 there and 64 here; use another --exp-dir"):
        other.load(checkpoint)
    other = make_trainer(tmp_path, data)
    other.tokenizer = Letters(fingerprint="others")
    with pytest.raises(UserError, match="other output units"):
        other.load(checkpoint)


def parse(*words):
    parser = argparse.ArgumentParser()
    add_options(parser, TrainConfig)
    add_options(parser, ModelOptions)
    return parser.parse_args(list(words))


def test_options():
    config = from_args(TrainConfig, parse("--use-fp16", "true", "--exp-dir", "x", "--base-lr", "0.01"))
    assert config.precision == "fp16" and config.base_lr == 0.01 and str(config.exp_dir) == "x"
    args = parse("--encoder", "zipformer", "--chunk-size", "16,-1", "--joiner-dim", "64", "--preset", "tiny")
    model = from_args(ModelOptions, args).to_config(30)
    assert model.encoder.name == "zipformer" and model.encoder.chunk_sizes == (16, -1) and model.joiner_dim == 64
    assert model.predictor_dim == 128
    for words, message in (
        (["--base-lr", "0"], "--base-lr must be above 0"),
        (["--use-fp16", "true", "--use-bf16", "true"], "choose one precision, not bf16 and fp16"),
        (["--prune-range", "1"], "--prune-range"),
        (["--max-steps", "-1"], "--max-steps"),
    ):
        with pytest.raises(UserError, match=message):
            from_args(TrainConfig, parse(*words))
    with pytest.raises(SystemExit):
        parse("--chunk-size", "16,x")
