"""Hotwords, language model and fast beam search."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fixtures.search_toy import ToyLM, assert_same, plain_beam_search, toy_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sammo.errors import UserError
from sammo.search import ContextGraph, make_searcher

phrase_lists = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6)
sequences = st.lists(st.integers(1, 4), max_size=14)


def total_reward(graph: ContextGraph, tokens: list[int], strict: bool) -> float:
    total, state = 0.0, 0
    for token in tokens:
        reward, state = graph.step(state, token, strict)
        total += reward
    return total + graph.finalize(state)


@settings(max_examples=200, deadline=None)
@given(phrases=phrase_lists, tokens=sequences)
def test_strict_rewards_every_occurrence(phrases, tokens):
    graph = ContextGraph(phrases, context_score=0.5)
    expected = sum(
        0.5 * len(phrase)
        for phrase in set(phrases)
        for start in range(len(tokens))
        if tuple(tokens[start : start + len(phrase)]) == phrase
    )
    assert total_reward(graph, tokens, strict=True) == pytest.approx(expected)


@settings(max_examples=200, deadline=None)
@given(phrases=phrase_lists, tokens=sequences)
def test_beam_search_rewards_the_first_match_and_starts_anew(phrases, tokens):
    graph = ContextGraph(phrases, context_score=0.5)
    expected, since = 0.0, 0
    for end in range(1, len(tokens) + 1):
        seen = tuple(tokens[since:end])
        matches = [len(p) for p in phrases if seen[-len(p) :] == p]
        if matches:
            expected += 0.5 * max(matches)
            since = end
    assert total_reward(graph, tokens, strict=False) == pytest.approx(expected)


def test_own_scores_and_shared_tokens():
    graph = ContextGraph([[1, 2], [1, 3], [4]], context_score=1.0, scores=[0.0, 3.0, 0.5])
    assert total_reward(graph, [1, 3], strict=False) == pytest.approx(6.0)
    assert total_reward(graph, [4], strict=False) == pytest.approx(0.5)
    assert graph.step(0, 1) == (3.0, graph.children[0][1])  # the larger score of the two that share it
    assert total_reward(graph, [1, 4], strict=False) == pytest.approx(0.5)


def test_bad_hotwords():
    with pytest.raises(UserError, match="number 2"):
        ContextGraph([[1], []])
    with pytest.raises(UserError, match="2 hotwords but 1"):
        ContextGraph([[1], [2]], scores=[1.0])


def utterances(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(3, 20, 8, generator=generator, dtype=torch.float64), torch.tensor([20, 7, 13])


@pytest.mark.parametrize("beam_size", [1, 4, 8])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("use_graph, lm_scale", [(True, 0.0), (False, 0.4), (True, 0.4)])
def test_agrees_with_plain_search(beam_size, seed, use_graph, lm_scale):
    model = toy_model(seed=seed)
    frames, lengths = utterances(seed)
    phrases = [[1, 2], [3, 1, 4], [5], [2, 6, 7], [9, 9]]
    options: dict[str, Any] = dict(
        context_graph=ContextGraph(phrases, 1.5) if use_graph else None,
        lm=ToyLM(12) if lm_scale else None,
        lm_scale=lm_scale,
    )
    searcher = make_searcher(model, "modified_beam_search", beam_size, **options)
    found = searcher(frames, lengths, nbest=20)
    for hyps, sequence, length in zip(found, frames, lengths):
        assert_same(hyps, plain_beam_search(model, sequence[:length], beam_size, **options))

    # The same stream by stream in pieces of three frames.
    for n, length in enumerate(lengths.tolist()):
        state = searcher.start()
        for piece in frames[n : n + 1, :length].split(3, dim=1):
            (state,) = searcher.advance(piece, torch.tensor([piece.shape[1]]), [state])
        assert_same(searcher.result(state, nbest=20), found[n])


def test_hotwords_are_found():
    """A phrase that plain search does not find appears once it is rewarded enough."""
    model = toy_model()
    frames, lengths = utterances()
    phrase = [7, 3, 8]

    def contains(context_graph):
        found = make_searcher(model, "modified_beam_search", 8, context_graph=context_graph)(frames, lengths)
        return any(h[0].tokens[i : i + 3] == phrase for h in found for i in range(len(h[0].tokens)))

    assert not contains(None)
    assert contains(ContextGraph([phrase], 8.0))


def test_unfinished_hotword_is_taken_back():
    model = toy_model()
    frames, lengths = utterances()
    plain = make_searcher(model, "modified_beam_search", 1)(frames, lengths)
    for n, (hyp,) in enumerate(plain):
        graph = ContextGraph([[hyp.tokens[-1], 11, 11, 11]], 0.01)  # too little to change the search
        biased = make_searcher(model, "modified_beam_search", 1, context_graph=graph)(frames, lengths)[n]
        assert_same(biased, [hyp])


def test_blanks_are_not_scored_by_the_language_model():
    model, lm = toy_model(blank_bias=100.0), ToyLM(12)
    frames, lengths = utterances()
    plain = make_searcher(model, "modified_beam_search", 1)(frames, lengths)
    fused = make_searcher(model, "modified_beam_search", 1, lm=lm, lm_scale=0.7)(frames, lengths)
    assert fused == plain and all(h[0].tokens == [] for h in fused)
    assert lm.calls == 1  # the start of the sentence


class StatelessLM:
    def start(self, device):
        return None

    def step(self, tokens, state):
        return torch.full((len(tokens),), -math.log(12), dtype=torch.float64), state


def test_language_model_without_state():
    frames, lengths = utterances()
    options: dict[str, Any] = dict(lm=StatelessLM(), lm_scale=0.3)
    model = toy_model()
    found = make_searcher(model, "modified_beam_search", 4, **options)(frames, lengths, nbest=9)
    for hyps, sequence, length in zip(found, frames, lengths):
        assert_same(hyps, plain_beam_search(model, sequence[:length], 4, **options))


def test_fast_beam_search_says_how_to_get_k2(monkeypatch):
    monkeypatch.setitem(sys.modules, "k2", None)
    with pytest.raises(UserError, match="needs k2.*k2-fsa.github.io.*modified_beam_search"):
        make_searcher(toy_model(), "fast_beam_search")


def check_normal(*tensors: torch.Tensor) -> None:
    """As k2's autograd functions, which fail with "Inference tensors do not track version counter"."""
    assert not torch.is_inference_mode_enabled() and not any(tensor.is_inference() for tensor in tensors)


class GreedyK2:
    """The part of k2's interface that fast beam search uses, keeping one path per stream.

    Like k2 it refuses tensors of inference mode, where decode.py runs, and gives the last frame to the final arc.
    It cannot show what only k2 itself does: pruning by beam, states and contexts, the shapes and types that its ragged
    tensors take, GPUs, whether several paths merge rightly, and whether its versions differ from this interface.
    """

    class RnntDecodingConfig(SimpleNamespace):
        pass

    class RnntDecodingStream:
        def __init__(self, graph):
            check_normal()
            self.labels, self.scores = [], []

    class RnntDecodingStreams:
        def __init__(self, streams, config):
            self.streams, self.config, self.flushed = streams, config, False

        def get_contexts(self):
            size = self.config.decoder_history_len
            history = [([0] * size + [x for x in s.labels if x])[-size:] for s in self.streams]
            shape = SimpleNamespace(row_ids=lambda axis: torch.arange(len(self.streams), dtype=torch.int32))
            return shape, torch.tensor(history, dtype=torch.int32)

        def advance(self, log_probs):
            check_normal(log_probs)
            assert not self.flushed and log_probs.shape == (len(self.streams), self.config.vocab_size)
            for stream, (score, label) in zip(self.streams, zip(*(x.tolist() for x in log_probs.max(dim=1)))):
                stream.labels.append(label)
                stream.scores.append(score)

        def terminate_and_flush_to_streams(self):
            self.flushed = True

        def format_output(self, num_frames):
            check_normal()
            assert self.flushed
            ends = [(s, count - 1) for s, count in zip(self.streams, num_frames) if count <= len(s.labels)]
            assert len(ends) == len(self.streams)
            return [(s.labels[:end], sum(s.scores[:end])) for s, end in ends]

    class Paths(list):
        def get_tot_scores(self, use_double_scores, log_semiring):
            return torch.tensor([path.score for path in self])

    @staticmethod
    def trivial_graph(max_token, device):
        check_normal()
        return max_token

    @staticmethod
    def shortest_path(lattice, use_double_scores):
        check_normal()
        return GreedyK2.Paths(SimpleNamespace(labels=torch.tensor(x + [-1]), score=score) for x, score in lattice)


def test_fast_beam_search_drives_k2(monkeypatch):
    monkeypatch.setitem(sys.modules, "k2", GreedyK2)
    model = toy_model(context_size=1)  # one symbol of context: k2's start context is greedy search's
    frames, lengths = utterances()
    searcher = make_searcher(model, "fast_beam_search")
    expected = make_searcher(model, "greedy_search")(frames, lengths)
    for found, want in zip(searcher(frames, lengths), expected):
        assert_same(found, want)
    states, results = [searcher.start() for _ in lengths], []
    for start in range(0, 20, 6):
        count = (lengths - start).clamp(0, 6)
        states = searcher.advance(frames[:, start : start + 6], count.clamp(max=20 - start), states)
        results.append([searcher.result(state)[0] for state in states])
    for found, want in zip(results[-1], expected):
        assert_same([found], want)
    assert results[0][0].tokens == expected[0][0].tokens[: len(results[0][0].tokens)]
    assert searcher.result(searcher.start())[0].tokens == []


def test_fast_beam_search_in_inference_mode(monkeypatch):
    """Where decode.py searches: made, fed and asked there."""
    monkeypatch.setitem(sys.modules, "k2", GreedyK2)
    model = toy_model(context_size=1)
    with torch.inference_mode():
        frames, lengths = utterances()
        assert frames.is_inference()
        searcher = make_searcher(model, "fast_beam_search")
        found = searcher(frames, lengths)
    for hyps, want in zip(found, make_searcher(model, "greedy_search")(*utterances())):
        assert_same(hyps, want)


def test_fast_beam_search_keeps_a_symbol_on_the_last_frame(monkeypatch):
    monkeypatch.setitem(sys.modules, "k2", GreedyK2)
    model = toy_model(context_size=1, blank_bias=-100.0)  # every frame emits
    frames, lengths = utterances()
    for (hyp, *_), length in zip(make_searcher(model, "fast_beam_search")(frames, lengths), lengths.tolist()):
        assert hyp.timestamps == list(range(length))
