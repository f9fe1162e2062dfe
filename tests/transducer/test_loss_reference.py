"""The loss against k2's values and other ways to compute it."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
import torch
import torchaudio
from fixtures.paths import REFERENCE

from sammo.transducer import full_loss, mutual_information, prune, prune_ranges, pruned_loss, smoothed_loss

VALUES = REFERENCE / "pruned_rnnt.npz"


@pytest.fixture(scope="module")
def k2():
    with np.load(VALUES) as arrays:
        values = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "meta"}
        return {**values, "meta": json.loads(bytes(arrays["meta"]))}


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=1e-6)


def test_recursion(k2):
    px, py = k2["mi/px"].clone().requires_grad_(), k2["mi/py"].clone().requires_grad_()
    scores, occupation = mutual_information(px, py, k2["boundary"], engine="native")
    close(scores, k2["mi/score"])
    grad_x, grad_y = torch.autograd.grad(scores.sum(), [px, py])
    close(grad_x, k2["mi/gpx"])
    close(grad_y, k2["mi/gpy"])
    close(occupation.px, k2["mi/gpx"])
    close(occupation.py, k2["mi/gpy"])


@pytest.mark.parametrize("case", ["smoothed_plain", "smoothed_smooth"])
def test_smoothed_loss(k2, case):
    scales = k2["meta"].get(case, {"lm_only_scale": 0.0, "am_only_scale": 0.0})
    lm, am = k2["lm"].clone().requires_grad_(), k2["am"].clone().requires_grad_()
    loss, occupation = smoothed_loss(
        lm,
        am,
        k2["symbols"],
        k2["boundary"],
        lm_scale=scales["lm_only_scale"],
        am_scale=scales["am_only_scale"],
        engine="native",
    )
    close(loss, k2[f"{case}/loss"])
    close(occupation.px, k2[f"{case}/px_grad"])
    close(occupation.py, k2[f"{case}/py_grad"])
    grad_lm, grad_am = torch.autograd.grad(loss.sum(), [lm, am])
    close(grad_lm, k2[f"{case}/glm"])
    close(grad_am, k2[f"{case}/gam"])


def test_pruning(k2):
    size = k2["meta"]["prune_range"]
    given = k2["smoothed_smooth/px_grad"], k2["smoothed_smooth/py_grad"]
    ranges = prune_ranges(*given, k2["boundary"], size)
    assert torch.equal(ranges, k2["ranges"])
    am, lm = prune(k2["am"], k2["lm"], ranges)
    assert torch.equal(am.expand_as(k2["am_pruned"]), k2["am_pruned"])
    assert torch.equal(lm, k2["lm_pruned"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_pruned_loss(k2, overwrite):
    leaf = k2["pruned/logits"].clone().requires_grad_()
    logits = leaf * 1.0
    loss = pruned_loss(logits, k2["symbols"], k2["ranges"], k2["boundary"], engine="native", overwrite_logits=overwrite)
    close(loss, k2["pruned/loss"])
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    close(grad, k2["pruned/glogits"])


def test_full_loss(k2):
    logits = (torch.tanh(k2["am"][:, :, None] + k2["lm"][:, None]) @ k2["W"]).requires_grad_()
    loss = full_loss(logits, k2["symbols"], k2["boundary"], engine="native")
    close(loss, k2["full/loss"])
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    close(grad, k2["full/glogits"])


def test_full_loss_is_torchaudios():
    torch.manual_seed(3)
    logits = torch.randn(4, 15, 8, 11, requires_grad=True)
    symbols = torch.randint(1, 11, (4, 7))
    frames, counts = torch.tensor([15, 9, 12, 1]), torch.tensor([7, 0, 3, 5])
    boundary = torch.stack([torch.zeros(4, dtype=torch.int64)] * 2 + [counts, frames], dim=1)
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0])
    loss = full_loss(logits, symbols, boundary, engine="native")
    (grad,) = torch.autograd.grad((loss * weight).sum(), logits)
    expected = torchaudio.functional.rnnt_loss(
        logits, symbols.int(), frames.int(), counts.int(), blank=0, reduction="none"
    )
    (expected_grad,) = torch.autograd.grad((expected * weight).sum(), logits)
    close(loss, expected)
    close(grad, expected_grad)


def alignments(symbols: int, frames: int):
    """All orders of emissions and frames, ending with a frame: emission flags of length S + T."""
    for places in combinations(range(symbols + frames - 1), symbols):
        yield [i in places for i in range(symbols + frames)]


def brute_force(logprobs, symbols, allowed=lambda t, s: True):
    """-log sum over alignments, logprobs (T, S + 1, V), cells outside ``allowed`` left out."""
    frames, scores = len(logprobs), []
    for path in alignments(len(symbols), frames):
        s = t = 0
        total = 0.0
        for emit in path:
            if not allowed(t, s):
                total = None
                break
            total = total + logprobs[t, s, symbols[s] if emit else 0]
            s, t = s + emit, t + (not emit)
        if total is not None:
            scores.append(total)
    return -torch.stack(scores).logsumexp(0)


@pytest.mark.parametrize("frames, symbols", [(1, 0), (4, 0), (1, 3), (4, 1), (3, 3), (5, 4)])
def test_full_loss_is_the_sum_over_alignments(frames, symbols):
    torch.manual_seed(frames)
    logits = torch.randn(1, frames, symbols + 1, 6, dtype=torch.float64)
    y = torch.randint(1, 6, (1, symbols))
    expected = brute_force(logits[0].log_softmax(-1), y[0].tolist())
    close(full_loss(logits, y, engine="native")[0], expected, 1e-12)


def test_simple_loss_is_the_sum_over_alignments():
    torch.manual_seed(5)
    lm, am = torch.randn(1, 4, 6, dtype=torch.float64), torch.randn(1, 5, 6, dtype=torch.float64)
    y = torch.randint(1, 6, (1, 3))
    joint = (am[0, :, None] + lm[0]).log_softmax(-1)
    unigram = lm[0].softmax(-1).mean(0).log()
    mixed = 0.6 * joint + 0.3 * lm[0].log_softmax(-1) + 0.1 * (am[0] + unigram).log_softmax(-1)[:, None]
    loss, _ = smoothed_loss(lm, am, y, lm_scale=0.3, am_scale=0.1, engine="native")
    close(loss[0], brute_force(mixed, y[0].tolist()), 1e-12)


def test_pruned_loss_is_the_sum_over_the_alignments_that_are_left():
    torch.manual_seed(6)
    begin = [0, 0, 1, 2, 2]
    ranges = torch.tensor(begin)[None, :, None] + torch.arange(3)
    logits = torch.randn(1, 5, 3, 6, dtype=torch.float64)
    y = torch.randint(1, 6, (1, 4))
    whole = torch.zeros(5, 5, 6, dtype=torch.float64)
    for t, start in enumerate(begin):
        whole[t, start : start + 3] = logits[0, t].log_softmax(-1)
    # The last position of a window emits into a position that the frame has not kept.
    expected = brute_force(whole, y[0].tolist(), lambda t, s: begin[t] <= s < begin[t] + 3)
    close(pruned_loss(logits, y, ranges, engine="native")[0], expected, 1e-12)


def test_gradients_in_float64():
    torch.manual_seed(7)
    boundary = torch.tensor([[0, 0, 3, 5], [0, 0, 0, 4], [0, 0, 2, 1]])
    y = torch.randint(1, 7, (3, 3))
    lm = torch.randn(3, 4, 7, dtype=torch.float64, requires_grad=True)
    am = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    for lm_scale, am_scale in [(0.0, 0.0), (0.25, 0.0), (0.25, 0.1), (0.0, 0.5)]:
        assert torch.autograd.gradcheck(
            lambda lm, am: smoothed_loss(lm, am, y, boundary, lm_scale=lm_scale, am_scale=am_scale, engine="native")[0],
            (lm, am),
        )
    logits = torch.randn(3, 5, 4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: full_loss(x, y, boundary, engine="native"), logits)
    _, occupation = smoothed_loss(lm, am, y, boundary, engine="native")
    ranges = prune_ranges(*occupation, boundary, 3)
    logits = torch.randn(3, 5, ranges.shape[2], 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pruned_loss(x, y, ranges, boundary, engine="native"), logits)
    px = torch.randn(3, 3, 6, dtype=torch.float64, requires_grad=True)
    py = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    shifted = torch.tensor([[1, 2, 3, 4], [2, 0, 2, 5], [0, 1, 1, 1]])
    assert torch.autograd.gradcheck(lambda px, py: mutual_information(px, py, shifted, engine="native")[0], (px, py))
