"""ScaledAdam and Eden against the original's numbers, and what a training run asks of them."""

from __future__ import annotations

import io
import json
import logging
import math

import numpy as np
import pytest
import torch
from fixtures.paths import REFERENCE

from sammo.errors import UserError
from sammo.optim import Eden, ScaledAdam, layout

SHAPES = {"w1": (6, 5), "w2": (6, 5), "bias": (5,), "one": (1,), "scalar": (), "conv": (4, 1, 3), "wide": (40, 30)}


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE / "scaled_adam.npz") as arrays:
        values = dict(arrays)
    return values, json.loads(bytes(values.pop("meta")))


def make_params(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.3) for name, shape in SHAPES.items()}


def set_grads(params: dict[str, torch.nn.Parameter], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params.values():
        p.grad = scale * torch.randn(p.shape, generator=generator)


def values(params: dict[str, torch.nn.Parameter]) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in params.values()]).clone()


@pytest.mark.parametrize("block", [layout.CPU_BLOCK, 1])
def test_reference(reference, monkeypatch, block):
    monkeypatch.setattr(layout, "CPU_BLOCK", block)
    arrays, meta = reference
    params = {name: torch.nn.Parameter(torch.tensor(arrays[f"p0/{name}"])) for name in meta["order"]}
    optimizer = ScaledAdam(
        params.items(),
        lr=meta["lr"],
        clipping_scale=meta["clipping_scale"],
        clipping_update_period=meta["clipping_update_period"],
    )
    scheduler = Eden(optimizer, **meta["eden"])
    for step in range(meta["steps"]):
        if step and step % meta["epoch_every"] == 0:
            scheduler.step_epoch()
        assert optimizer.param_groups[0]["lr"] == arrays["lr"][step]
        for name, p in params.items():
            p.grad = torch.tensor(arrays[f"grads/{name}"][step])
        optimizer.step()
        scheduler.step_batch()
        if step in meta["param_snapshots_after_step"]:
            for name, p in params.items():
                np.testing.assert_allclose(p.detach().numpy(), arrays[f"p/{name}/{step}"], rtol=0, atol=1e-5)


def test_resume_is_bit_exact():
    def make(params):
        optimizer = ScaledAdam(params.items(), lr=0.05, clipping_scale=2.0, clipping_update_period=12)
        return optimizer, Eden(optimizer, 100, 2, warmup_batches=20)

    def run(params, optimizer, scheduler, steps):
        for step in steps:
            set_grads(params, step, scale=30.0 if step % 17 == 16 else 1.0)
            optimizer.step()
            scheduler.step_batch()

    for stop in (0, 1, 7, 18, 30):
        params = make_params()
        optimizer, scheduler = make(params)
        run(params, optimizer, scheduler, range(stop))
        file = io.BytesIO()
        torch.save({"params": params, "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
        run(params, optimizer, scheduler, range(stop, 40))

        file.seek(0)
        saved = torch.load(file, weights_only=True)
        resumed = make_params(seed=1)
        for name, p in resumed.items():
            p.data.copy_(saved["params"][name])
        optimizer2, scheduler2 = make(resumed)
        optimizer2.load_state_dict(saved["optimizer"])
        scheduler2.load_state_dict(saved["scheduler"])
        run(resumed, optimizer2, scheduler2, range(stop, 40))
        assert torch.equal(values(params), values(resumed))
        assert optimizer.clipping_stats()[0] == optimizer2.clipping_stats()[0]


def test_loading_copies():
    """The state that was loaded from is not changed by later steps."""
    params = make_params()
    optimizer = ScaledAdam(params.items())
    set_grads(params, 0)
    optimizer.step()
    other = make_params(seed=2)
    loaded = ScaledAdam(other.items())
    loaded.load_state_dict(optimizer.state_dict())
    before = optimizer.state_dict()["state"][0]["delta"].clone()
    set_grads(other, 1)
    loaded.step()
    assert torch.equal(optimizer.state_dict()["state"][0]["delta"], before)


def test_state_of_other_parameters_is_refused():
    params = make_params()
    optimizer = ScaledAdam(params.items())
    set_grads(params, 0)
    optimizer.step()
    state = optimizer.state_dict()
    renamed = {("x" + name): p for name, p in make_params().items()}
    with pytest.raises(UserError, match="other parameters"):
        ScaledAdam(renamed.items()).load_state_dict(state)
    reshaped = make_params()
    reshaped["w1"] = torch.nn.Parameter(torch.zeros(5, 6))
    with pytest.raises(UserError, match="w1 has shape"):
        ScaledAdam(reshaped.items()).load_state_dict(state)
    with pytest.raises(UserError, match="1 groups"):
        ScaledAdam([{"params": [p]} for p in params.values()]).load_state_dict(state)


def test_none_gradients_count_as_zero():
    results = []
    for use_none in (True, False):
        params = make_params()
        optimizer = ScaledAdam(params.values(), clipping_scale=2.0)
        for step in range(15):
            set_grads(params, step)
            for index, p in enumerate(params.values()):
                if (step + index) % 3 == 0:
                    p.grad = None if use_none else torch.zeros_like(p)
            optimizer.step()
        results.append(values(params))
    assert torch.equal(*results)
    params = make_params()
    optimizer = ScaledAdam(params.values(), clipping_scale=2.0)
    before = values(params)
    optimizer.step()  # no gradient at all
    assert torch.equal(before, values(params))


def test_batching_does_not_mix_parameters():
    """Without clipping, a parameter moves the same alone and among others."""
    together, alone = make_params(), make_params()
    optimizers = [ScaledAdam(together.values())] + [ScaledAdam([p]) for p in alone.values()]
    for step in range(12):
        set_grads(together, step)
        set_grads(alone, step)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(values(together), values(alone))


def test_four_ways_to_give_parameters():
    results = []
    for form in (
        lambda p: p.values(),
        lambda p: p.items(),
        lambda p: [{"params": list(p.values())[:3], "lr": 0.03}, {"params": list(p.values())[3:]}],
        lambda p: [{"named_params": list(p.items())[:3]}, {"named_params": list(p.items())[3:], "lr": 0.03}],
    ):
        params = make_params()
        optimizer = ScaledAdam(form(params), lr=0.03)
        for step in range(6):
            set_grads(params, step)
            optimizer.step()
        results.append(values(params))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_group_options_differ():
    params = make_params()
    pairs = list(params.items())
    optimizer = ScaledAdam([{"named_params": pairs[:2], "lr": 0.0}, {"named_params": pairs[2:]}], lr=0.1)
    before = values(params)
    set_grads(params, 0)
    optimizer.step()
    moved = values(params) != before
    assert not moved[:60].any() and moved[60:].all()


def test_clipping_is_reported_and_explained(caplog):
    params = make_params()
    optimizer = ScaledAdam(params.items(), clipping_scale=2.0, clipping_update_period=10)
    assert optimizer.clipping_stats()[0].threshold is None
    with caplog.at_level(logging.INFO, logger="sammo.optim"):
        for step in range(11):
            set_grads(params, step)
            optimizer.step()
        assert "quartiles" in caplog.text
        caplog.clear()
        set_grads(params, 11)
        assert params["conv"].grad is not None
        params["conv"].grad *= 1e4
        before = values(params)
        optimizer.step()
    stats = optimizer.clipping_stats()[0]
    assert stats.threshold and stats.scale < 0.01 and stats.norm > stats.threshold
    assert stats.scale == pytest.approx(stats.threshold / stats.norm)
    assert stats.fraction_clipped == pytest.approx(0.5)  # the estimate at step 10 counts step 10 and this one
    assert "dominated by conv: 1.00" in caplog.text and "usual size: conv " in caplog.text
    assert (values(params) - before).abs().max() < 0.1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 3, 25])
def test_gradients_that_are_not_finite_are_dropped(bad, at):
    params = make_params()
    optimizer = ScaledAdam(params.items(), clipping_scale=2.0)
    for step in range(30):
        set_grads(params, step)
        if step == at:
            gradient = params["w2"].grad
            assert gradient is not None
            gradient[0, 0] = bad
        optimizer.step()
        assert optimizer.clipping_stats()[0].scale == (0.0 if step == at else optimizer.clipping_stats()[0].scale)
    assert values(params).isfinite().all()


def test_many_gradients_that_are_not_finite_stop_training():
    params = make_params()
    optimizer = ScaledAdam(params.items(), clipping_scale=2.0)
    with pytest.raises(UserError, match="not finite"):
        for step in range(11):
            set_grads(params, step, scale=math.nan)
            optimizer.step()


def test_scalars_and_small_parameters():
    scalar, small = torch.nn.Parameter(torch.tensor(0.29)), torch.nn.Parameter(torch.full((3, 3), 1e-7))
    zero = torch.nn.Parameter(torch.zeros(3, 3))
    optimizer = ScaledAdam([scalar, small, zero], lr=0.5, scalar_max=0.3)
    for _ in range(40):
        for p in (scalar, small, zero):
            p.grad = -torch.ones_like(p)
        optimizer.step()
    assert scalar.item() == pytest.approx(0.3)
    assert small.min() > 1e-5 and zero.min() > 1e-6


def test_largest_scale():
    rms = []
    for param_max_rms in (1.0, 3.0):
        p = torch.nn.Parameter(torch.tensor([[0.9, -0.9], [-0.9, 0.9]]))
        optimizer = ScaledAdam([p], lr=0.02, scalar_lr_scale=1.0, param_max_rms=param_max_rms)
        for step in range(200):
            # Asks for growth on average; single steps mostly cancel out.
            p.grad = torch.randn(2, 2, generator=torch.Generator().manual_seed(step)) - 0.2 * p.detach().sign()
            optimizer.step()
        rms.append(p.detach().square().mean().sqrt().item())
    assert rms[0] < 1.2 < 2.0 < rms[1]


def test_sparse_gradients_are_refused():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(UserError, match="sparse"):
        ScaledAdam(embedding.parameters()).step()


def test_it_learns_and_takes_a_closure():
    torch.manual_seed(0)
    inputs, target = torch.randn(64, 8), torch.randn(8, 4)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    optimizer = ScaledAdam(model.named_parameters(), lr=0.05, clipping_scale=2.0)

    def closure():
        optimizer.zero_grad()
        loss = (model(inputs) - inputs @ target).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(150)]
    assert losses[-1] < 0.1 * losses[0]


def test_float16_and_noncontiguous_parameters():
    half = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.float16))
    turned = torch.nn.Parameter(torch.ones(4, 6).t())
    optimizer = ScaledAdam([half, turned], lr=0.1)
    half.grad, turned.grad = torch.ones_like(half), torch.ones(4, 6).t()
    optimizer.step()
    assert (half < 1).all() and (turned < 1).all()


def test_eden():
    optimizer = ScaledAdam(make_params().values(), lr=0.04)
    scheduler = Eden(optimizer, lr_batches=100, lr_epochs=4, warmup_batches=10, warmup_start=0.25)
    assert optimizer.param_groups[0]["lr"] == 0.04
    scheduler.step_batch(0)
    assert scheduler.get_last_lr() == [0.04 * 0.25]
    scheduler.step_batch(100)
    scheduler.step_epoch(4)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.04 * 0.5**0.5)
    rates = []
    for _ in range(5):
        scheduler.step_batch()
        rates.append(scheduler.get_last_lr()[0])
    assert scheduler.batch == 105 and rates == sorted(rates, reverse=True)
    with pytest.raises(UserError):
        Eden(optimizer, 100, 4, warmup_start=1.5)
    with pytest.raises(UserError):
        Eden(optimizer, 0, 4)


@pytest.mark.gpu
def test_gpu_agrees_with_cpu():
    results = []
    for device in ("cpu", "cuda"):
        params = {name: torch.nn.Parameter(p.detach().to(device)) for name, p in make_params().items()}
        optimizer = ScaledAdam(params.items(), clipping_scale=2.0)
        for step in range(30):
            generator = torch.Generator().manual_seed(step)
            for p in params.values():
                p.grad = torch.randn(p.shape, generator=generator).to(device)
            optimizer.step()
        results.append(values(params).cpu())
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def test_plain_parameters_take_adam_steps():
    """A step of constant sign moves a plain parameter by its own rate, whatever its size; others by their rms."""
    big = {"log": torch.nn.Parameter(torch.full((6,), 4.7)), "weight": torch.nn.Parameter(torch.full((6,), 4.7))}
    optimizer = ScaledAdam(big.items(), lr=0.01, betas=(0.0, 0.98), plain_lr_scale={"log": 0.03})
    for p in big.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = {name: 4.7 - p.detach().mean().item() for name, p in big.items()}
    assert moved["log"] == pytest.approx(0.01 * 0.03, rel=1e-3)
    assert moved["weight"] == pytest.approx(0.01 * 4.7, rel=1e-3)


@pytest.mark.parametrize("scales", [{"nobody": 0.1}, {"log": 0.0}])
def test_plain_rates_that_cannot_be(scales):
    with pytest.raises(UserError, match="plain_lr_scale"):
        ScaledAdam([("log", torch.nn.Parameter(torch.ones(2)))], plain_lr_scale=scales)
