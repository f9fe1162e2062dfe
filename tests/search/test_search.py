"""Greedy and modified beam search: the original's results, chunks, batches, n-best, odd input."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch
from fixtures.search_toy import assert_same, plain_beam_search, reference, reference_model, toy_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sammo.errors import UserError
from sammo.search import Hypothesis, make_searcher

SETTINGS = [("greedy_search", 1), ("modified_beam_search", 1), ("modified_beam_search", 4), ("modified_beam_search", 8)]


def reference_batch():
    arrays, meta = reference()
    return torch.tensor(arrays["encoder_out"]), torch.tensor(arrays["encoder_out_lens"]), meta["results"]


def utterances(count: int, longest: int = 30, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    lengths[0] = longest
    return 2.0 * torch.randn(count, longest, 8, generator=generator, dtype=torch.float64), lengths


@pytest.mark.parametrize("method, beam_size", SETTINGS)
def test_reference(method, beam_size):
    frames, lengths, results = reference_batch()
    expected = results[method if method == "greedy_search" else f"{method}_{beam_size}"]
    found = make_searcher(reference_model(), method, beam_size)(frames, lengths)
    assert [hyps[0].tokens for hyps in found] == expected["hyps"]
    assert [hyps[0].timestamps for hyps in found] == expected["timestamps"]


def test_reference_parts():
    """The predictor and joiner themselves."""
    arrays, _ = reference()
    model = reference_model()
    y = torch.tensor(arrays["decoder/y"])
    with torch.no_grad():
        torch.testing.assert_close(model.predictor(y), torch.tensor(arrays["decoder/out"]))
        joined = model.joiner(torch.tensor(arrays["joiner/enc"]), torch.tensor(arrays["joiner/dec"]))
        torch.testing.assert_close(joined, torch.tensor(arrays["joiner/out"]))


@pytest.mark.parametrize("beam_size", [1, 2, 4, 8, 20])
@pytest.mark.parametrize("context_size", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"blank_penalty": 1.5, "temperature": 1.7}])
def test_beam_search_agrees_with_plain_one(beam_size, context_size, options):
    model = toy_model(context_size=context_size, seed=beam_size)
    frames, lengths = utterances(3, 20, seed=context_size)
    found = make_searcher(model, "modified_beam_search", beam_size, **options)(frames, lengths, nbest=100)
    for hyps, sequence, length in zip(found, frames, lengths):
        assert_same(hyps, plain_beam_search(model, sequence[:length], beam_size, **options))


def test_greedy_is_beam_one():
    model = toy_model()
    frames, lengths = utterances(4)
    choices: tuple[dict[str, Any], ...] = ({}, {"blank_penalty": 2.0}, {"temperature": 2.0})
    for options in choices:
        greedy = make_searcher(model, "greedy_search", **options)(frames, lengths)
        beam = make_searcher(model, "modified_beam_search", 1, **options)(frames, lengths)
        for one, other in zip(greedy, beam):
            assert_same(one, other)


def test_blank_penalty_and_temperature():
    model = toy_model(blank_bias=4.0)
    frames, lengths = utterances(4)

    def count(**options):
        return sum(len(h[0].tokens) for h in make_searcher(model, "greedy_search", **options)(frames, lengths))

    assert count() < count(blank_penalty=3.0) < count(blank_penalty=30.0) == int(lengths.sum())
    assert count(temperature=3.0) == count()


@pytest.mark.parametrize("method, beam_size", SETTINGS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_chunks_and_batches_change_nothing(method, beam_size, seed, sizes):
    """Any split points, per stream; any batch in any order; empty chunks: the offline result."""
    model = toy_model(seed=seed % 7)
    frames, lengths = utterances(4, 25, seed=seed)
    searcher = make_searcher(model, method, beam_size)
    offline = [searcher(frames[n : n + 1, : lengths[n]], lengths[n : n + 1], nbest=9)[0] for n in range(4)]

    choose, size = random.Random(seed), itertools.cycle(sizes + [1])
    states, done = [searcher.start() for _ in range(4)], [0] * 4
    while any(done[n] < lengths[n] for n in range(4)):
        rows = choose.sample(range(4), choose.randint(1, 4))
        counts = [min(next(size), int(lengths[n]) - done[n]) for n in rows]
        chunk = torch.full((len(rows), max(counts), 8), math.nan, dtype=torch.float64)  # padding is never looked at
        for row, (n, count) in enumerate(zip(rows, counts)):
            chunk[row, :count] = frames[n, done[n] : done[n] + count]
        following = searcher.advance(chunk, torch.tensor(counts), [states[n] for n in rows])
        for n, count, state in zip(rows, counts, following):
            states[n] = state
            done[n] += count
    for state, expected in zip(states, offline):
        assert_same(searcher.result(state, nbest=9), expected)


@pytest.mark.parametrize("method, beam_size", SETTINGS)
def test_old_states_stay_valid(method, beam_size):
    """A stream can be continued twice from one state, and asked for results in between."""
    searcher = make_searcher(toy_model(), method, beam_size)
    frames, _ = utterances(3, 30)
    length = torch.tensor([30])
    middle = searcher.advance(frames[:1], length, [searcher.start()])
    partial = searcher.result(middle[0], nbest=5)
    ends = [searcher.advance(frames[n : n + 1], length, middle)[0] for n in (1, 2, 1)]
    assert_same(searcher.result(middle[0], nbest=5), partial, 0.0)
    for n, end in zip((1, 2, 1), ends):
        whole = torch.cat([frames[:1], frames[n : n + 1]], dim=1)
        assert_same(searcher.result(end, nbest=5), searcher(whole, torch.tensor([60]), nbest=5)[0])


@pytest.mark.parametrize("method, beam_size", [SETTINGS[0], SETTINGS[2]])
def test_many_chunks(method, beam_size):
    searcher = make_searcher(toy_model(), method, beam_size)
    frames, _ = utterances(1, 20)
    frames = frames.repeat(1, 20, 1)
    state = searcher.start()
    for frame in frames.split(1, dim=1):
        (state,) = searcher.advance(frame, torch.tensor([1]), [state])
    assert_same(searcher.result(state, nbest=9), searcher(frames, torch.tensor([400]), nbest=9)[0])
    assert len(searcher.result(state)[0].tokens) > 200


@pytest.mark.parametrize("method, beam_size", SETTINGS)
def test_nothing_to_search(method, beam_size):
    searcher = make_searcher(toy_model(), method, beam_size)
    empty = [Hypothesis([], [], 0.0)]
    assert searcher(torch.zeros(2, 0, 8, dtype=torch.float64), torch.tensor([0, 0])) == [empty, empty]
    assert searcher(torch.zeros(0, 5, 8, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)) == []
    frames, _ = utterances(2, 10)
    found = searcher(frames, torch.tensor([0, 10]))
    assert found[0] == empty
    assert_same(found[1], searcher(frames[1:], torch.tensor([10]))[0])


@pytest.mark.parametrize("method, beam_size", SETTINGS)
def test_frames_that_are_not_finite_emit_nothing(method, beam_size):
    searcher = make_searcher(toy_model(), method, beam_size)
    frames, lengths = utterances(3, 20)
    expected = searcher(frames, lengths)
    spoilt = torch.cat([frames, frames[:1]])
    spoilt[3, 4] = math.nan
    spoilt[3, 9, 2] = math.inf
    found = searcher(spoilt, torch.cat([lengths, torch.tensor([20])]))
    for one, other in zip(found, expected):
        assert_same(one, other)
    kept = [t for t in range(20) if t not in (4, 9)]
    clean = searcher(frames[:1, kept], torch.tensor([18]))[0][0]
    assert found[3][0].tokens == clean.tokens
    assert found[3][0].timestamps == [kept[t] for t in clean.timestamps]
    nothing = searcher(torch.full((1, 5, 8), math.nan, dtype=torch.float64), torch.tensor([5]))[0]
    assert nothing == [Hypothesis([], [], 0.0)]


def test_nbest():
    searcher = make_searcher(toy_model(), "modified_beam_search", 8)
    frames, lengths = utterances(3)
    for hyps, best in zip(searcher(frames, lengths, nbest=5), searcher(frames, lengths)):
        assert len(hyps) == 5 and len(best) == 1 and hyps[0] == best[0]
        normalized = [h.score / (len(h.tokens) + 2) for h in hyps]
        assert normalized == sorted(normalized, reverse=True)
        assert len({tuple(h.tokens) for h in hyps}) == 5
        assert all(len(h.timestamps) == len(h.tokens) and h.timestamps == sorted(set(h.timestamps)) for h in hyps)


def test_score_is_the_sum_over_alignments():
    """With a beam wider than the number of sequences nothing is pruned: scores are exact marginals."""
    model = toy_model(vocab_size=3, context_size=2)
    frames, _ = utterances(1, 4)
    hyps = make_searcher(model, "modified_beam_search", 200)(frames, torch.tensor([4]), nbest=1000)[0]
    assert len(hyps) == 1 + 2 + 4 + 8 + 16
    assert sum(math.exp(h.score) for h in hyps) == pytest.approx(1.0, abs=1e-5)


def test_long_streams_keep_their_precision():
    """Score differences stay exact however low the score: the same tail after 20,000 frames as at the start."""
    model = toy_model(context_size=1)
    searcher = make_searcher(model, "modified_beam_search", 4)
    frames, _ = utterances(1, 20)
    (state,) = searcher.advance(frames, torch.tensor([20]), [searcher.start()])
    far = state.beam._replace(score=state.beam.score - 1e5)
    (near_end,) = searcher.advance(frames, torch.tensor([20]), [state])
    (far_end,) = searcher.advance(frames, torch.tensor([20]), [type(state)(far, state.trails, state.frames)])
    torch.testing.assert_close(far_end.beam.score + 1e5, near_end.beam.score, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "method, options, message",
    [
        ("beam", {}, "unknown decoding method"),
        ("modified_beam_search", {"beam_size": 0}, "beam_size"),
        ("greedy_search", {"temperature": 0.0}, "temperature"),
        ("greedy_search", {"context_graph": object()}, "modified_beam_search"),
        ("fast_beam_search", {"lm": object()}, "modified_beam_search"),
    ],
)
def test_bad_options(method, options, message):
    with pytest.raises(UserError, match=message):
        make_searcher(toy_model(), method, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("method, beam_size", SETTINGS)
def test_reference_on_gpu(method, beam_size):
    frames, lengths, results = reference_batch()
    expected = results[method if method == "greedy_search" else f"{method}_{beam_size}"]
    found = make_searcher(reference_model().cuda(), method, beam_size)(frames.cuda(), lengths.cuda())
    assert [hyps[0].tokens for hyps in found] == expected["hyps"]
    assert [hyps[0].timestamps for hyps in found] == expected["timestamps"]
