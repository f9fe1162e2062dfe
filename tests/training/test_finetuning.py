"""Training from another model's weights, and with parts that stay as they are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from fixtures.training import Letters, ListData, checkpoint_of, random_batch, small_config

from sammo.checkpoint import read_checkpoint, write_checkpoint
from sammo.errors import UserError
from sammo.signals import StopRequest
from sammo.training.config import TrainConfig
from sammo.training.distributed import World
from sammo.training.finetuning import OF_UNITS, freeze, init_from, part_of
from sammo.training.run import train
from sammo.transducer import Transducer

FACTS = {"preset": "tiny", "transcript_mode": "fluent"}


def saved(path, name="sammo", fingerprint="letters", seed=1, **overrides):
    """A checkpoint of random weights, the running average other than the model; returns both states."""
    torch.manual_seed(seed)
    checkpoint = checkpoint_of(Transducer(small_config(name, **overrides)), fingerprint)
    average = {key: value * 1.5 if value.is_floating_point() else value for key, value in checkpoint.model.items()}
    write_checkpoint(path, dataclasses.replace(checkpoint, model_avg=average))
    return checkpoint.model, average


def fresh(name="sammo", **overrides):
    torch.manual_seed(2)
    model = Transducer(small_config(name, **overrides))
    return model, {key: value.clone() for key, value in model.state_dict().items()}


def taken(model, before, source):
    """Names that were taken over; all others must be as they were."""
    found = set()
    for name, value in model.state_dict().items():
        if name in source and source[name].shape == value.shape and torch.equal(value, source[name]):
            found.add(name)
        else:
            assert torch.equal(value, before[name]), name
    return found


@pytest.mark.parametrize("avg", [1, 0])
def test_the_same_model(tmp_path, avg):
    states = saved(tmp_path / "epoch-1.pt")
    for path in (tmp_path, tmp_path / "epoch-1.pt"):
        model, before = fresh()
        init_from(model, path, avg, "letters")
        assert taken(model, before, states[avg]) == set(before)


@pytest.mark.parametrize("size", [12, 15])
def test_other_units_get_new_output_layers(tmp_path, caplog, size):
    caplog.set_level("INFO")
    _, average = saved(tmp_path / "epoch-1.pt")
    model, before = fresh(vocab_size=size)
    init_from(model, tmp_path, 1, "other letters")
    assert taken(model, before, average) == {name for name in before if not name.startswith(OF_UNITS)}
    assert "taken over: frontend" in caplog.text and "new: predictor" in caplog.text


@pytest.mark.parametrize("source, target", [("zipformer", "sammo"), ("sammo", "zipformer")])
def test_another_mixer_is_new(tmp_path, caplog, source, target):
    caplog.set_level("INFO")
    _, average = saved(tmp_path / "epoch-1.pt", source)
    model, before = fresh(target)
    init_from(model, tmp_path, 1, "letters")
    assert taken(model, before, average) == {name for name in before if ".mixer." not in name}
    new = next(line for line in caplog.messages if line.startswith("  new: "))
    assert new.startswith("  new: mixer ") and new.count(" tensors") == 1
    assert any(line.startswith("  left behind: mixer ") for line in caplog.messages)


def test_imported_models_of_unknown_units(tmp_path, caplog):
    _, average = saved(tmp_path / "pretrained.pt", fingerprint="unknown")
    model, before = fresh()
    init_from(model, tmp_path / "pretrained.pt", 1, "letters")
    assert taken(model, before, average) == set(before) and "does not say its units" in caplog.text


def test_refusals(tmp_path):
    saved(tmp_path / "epoch-1.pt")
    with pytest.raises(UserError, match=r"encoder.* is \(.*\) there and \(.*\) here; give the model the same sizes"):
        init_from(fresh(feedforward_dim=(64, 64))[0], tmp_path, 1, "letters")
    (tmp_path / "pretrained.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="--init-from: .*pretrained.pt is damaged .*goes through sammo import-icefall"):
        init_from(fresh()[0], tmp_path / "pretrained.pt", 1, "letters")
    with pytest.raises(UserError, match="no checkpoint, experiment directory or package"):
        init_from(fresh()[0], tmp_path / "nothing", 1, "letters")
    with pytest.raises(UserError, match="--freeze decoder: no such part; there are frontend, .*predictor, joiner"):
        freeze(fresh()[0], ["decoder"])
    with pytest.raises(UserError, match="leaves nothing to train"):
        freeze(fresh()[0], {part_of(name) for name in fresh()[1]})


def run(exp_dir, epochs=1, **options):
    defaults = {"tensorboard": False, "average_period": 1, "valid_interval": 1000, "device": "cpu"}
    config = TrainConfig(exp_dir=exp_dir, num_epochs=epochs, **{**defaults, **options})
    data = ListData([random_batch(seed) for seed in range(2)])
    return train(config, small_config(), data, Letters(), World(), StopRequest(), FACTS, 600.0)


@pytest.mark.parametrize("frozen", [("encoder",), ("frontend", "predictor"), ("mixer", "encoder.stacks.1")])
def test_frozen_parts_stay_as_they_are(tmp_path, frozen, caplog):
    caplog.set_level("INFO")
    _, average = saved(tmp_path / "before.pt")
    run(tmp_path / "exp", init_from=tmp_path / "before.pt", freeze=frozen)
    assert "frozen: " in caplog.text and "taken over: " in caplog.text
    after = read_checkpoint(tmp_path / "exp/epoch-1.pt")
    model = Transducer(small_config())
    moved = {name for name, _ in model.named_parameters() if not torch.equal(after.model[name], average[name])}
    assert not [name for name in moved if part_of(name) in frozen or name.startswith(tuple(f"{p}." for p in frozen))]
    # Of the others some stay too within two steps: layers are dropped at first.
    assert "joiner" in {part_of(name) for name in moved}
    assert frozen != ("frontend", "predictor") or "encoder" in {part_of(name) for name in moved}
    # It resumes with the same parts frozen, from its own weights, and with no others.
    caplog.clear()
    trainer = run(tmp_path / "exp", 2, init_from=tmp_path / "before.pt", freeze=frozen)
    assert trainer.batch == 4 and "has no effect: this training goes on from its own checkpoint" in caplog.text
    with pytest.raises(UserError, match="--freeze was .*, is .*--init-from it in a new"):
        run(tmp_path / "exp", 3)
