"""Which options a training may be resumed with: those that decide what it learns are compared with its checkpoint."""

from __future__ import annotations

import dataclasses
import logging

import pytest
from fixtures.training import ListData, make_trainer, random_batch

from sammo.checkpoint import read_checkpoint
from sammo.data.config import DataConfig
from sammo.errors import UserError
from sammo.training.config import TrainConfig
from sammo.training.resuming import CUTS, FIXED, FREE, check_options

OPTIONS = {item.name: item.default for schema in (TrainConfig, DataConfig) for item in dataclasses.fields(schema)}
NOW = {**OPTIONS, CUTS: "abc"}


def test_every_option_is_decided_upon():
    """New ones are compared unless they are named here."""
    assert OPTIONS.keys() >= FREE and OPTIONS.keys() - FREE >= FIXED
    assert {"num_epochs", "num_workers", "log_interval", "world_size", "device", "max_steps"} <= FREE
    compared = {
        "base_lr",
        "lr_epochs",
        "seed",
        "ctc_loss_scale",
        "max_duration",
        "curriculum",
        "speed_perturb",
        "data_seed",
    }
    assert compared.isdisjoint(FREE)


@pytest.mark.parametrize(
    "change, line",
    [
        ({"base_lr": 0.03}, "--base-lr was 0.045, is 0.03. Give what .* or pass --may-change base-lr to go on"),
        ({"base_lr": 0.03, "seed": 1}, "--seed was 42, is 1; --base-lr was 0.045, is 0.03.* --may-change seed,base-lr"),
        ({"curriculum": "2:2"}, "--curriculum was '', is 2:2"),
        ({"freeze": ("frontend",)}, "--freeze was '', is frontend. Give .* or --init-from it in a new --exp-dir"),
        ({CUTS: "def"}, "the training cuts .train-cuts. were others than .* --may-change train-cuts"),
        ({CUTS: "def", "min_duration": 0.5}, "options: --min-duration was 1.0, is 0.5. Give"),
        ({"enable_musan": False}, "--enable-musan was True, is False"),
    ],
)
def test_what_may_not_change(change, line, caplog):
    with pytest.raises(UserError, match=line):
        check_options(NOW, {**NOW, **change})
    if "freeze" in change:
        return
    with caplog.at_level(logging.WARNING):
        check_options(NOW, {**NOW, **change}, [name.replace("_", "-") for name in change])
    assert caplog.text.count("going on with a change") == len(change.keys() - {CUTS} or change)


def test_what_may_change():
    free = {name: f"not {NOW[name]}" for name in FREE}
    check_options(NOW, {**NOW, **free})
    older = {name: value for name, value in NOW.items() if name not in ("base_lr", CUTS)}
    check_options(older, {**NOW, "base_lr": 0.1})  # of before these were kept
    check_options({**NOW, "gone": 3, "freeze": []}, NOW)


@pytest.mark.parametrize("saved", [[[]], {"a": 1}, "a\nb" * 1000, 10**4000, object(), float("nan")])
def test_whatever_a_checkpoint_says(saved):
    with pytest.raises(UserError) as caught:
        check_options({**NOW, "seed": saved, "freeze": saved}, NOW)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["num-epochs", "freeze", "nonsense"])
def test_what_cannot_be_allowed(name):
    with pytest.raises(UserError, match=f"--may-change {name}: that cannot be allowed to change; what can: .*base-lr"):
        check_options(NOW, NOW, [name])


def test_a_trainer_compares_and_takes_the_change(tmp_path):
    data = ListData([random_batch(0)])
    make_trainer(tmp_path, data, num_epochs=1).run()
    checkpoint = read_checkpoint(tmp_path / "epoch-1.pt")
    make_trainer(tmp_path, data, num_epochs=9, save_every_n=3).load(checkpoint)
    with pytest.raises(UserError, match="--base-lr was 0.045, is 0.01"):
        make_trainer(tmp_path, data, base_lr=0.01).load(checkpoint)
    rates = []
    for change in ({}, {"base_lr": 0.0045, "may_change": ("base-lr",)}):
        trainer = make_trainer(tmp_path, data, **change)
        trainer.load(checkpoint)
        trainer._step(random_batch(1))
        rates.append(trainer.optimization.numbers()["lr"])
    assert rates[1] == pytest.approx(rates[0] / 10)
    assert trainer.options["base_lr"] == 0.0045
