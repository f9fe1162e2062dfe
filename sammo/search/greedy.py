"""Greedy search: the most likely symbol of every frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Mapping

import torch
from torch import Tensor

from sammo.search.base import (
    Hypothesis,
    Searcher,
    Trail,
    check_tokens,
    checked_tensor,
    extend_trail,
    read_trail,
    trail_from,
    trail_tensors,
)


@dataclass
class GreedyState:
    """One stream: its context (context_size,), log-probability () in float64, tokens, and frames seen."""

    context: Tensor
    score: Tensor
    trail: Trail | None = None
    frames: int = 0


class GreedySearch(Searcher[GreedyState]):
    """At most one symbol per frame; the predictor runs only for streams that emitted one."""

    def start(self) -> GreedyState:
        device = self.joiner.output_linear.weight.device
        context = torch.tensor(self.start_context(), device=device)
        return GreedyState(context, torch.zeros((), dtype=torch.float64, device=device))

    @torch.no_grad()
    def advance(self, frames: Tensor, lengths: Tensor, states: list[GreedyState]) -> list[GreedyState]:
        batch = self.prepare(frames, lengths, states)
        following = [
            GreedyState(state.context, state.score, state.trail, state.frames + length)
            for state, length in zip(states, lengths.tolist())
        ]
        if not batch.order:
            return following
        contexts = torch.stack([states[n].context for n in batch.order])
        scores = torch.stack([states[n].score for n in batch.order])
        predicted = self.predict(contexts)
        emitted = torch.full((batch.lengths[0], len(batch.order)), self.blank_id, device=contexts.device)
        for start, stop, count in batch.segments():
            for t in range(start, stop):
                logits = self.logits(batch.frames[:count, t], predicted[:count])
                best, symbols = logits.max(dim=1)
                scores[:count] += best - logits.logsumexp(dim=1)
                emitted[t, :count] = symbols
                rows = (symbols != self.blank_id).nonzero().squeeze(1)
                if rows.numel():
                    contexts[rows] = torch.cat([contexts[rows, 1:], symbols[rows, None]], dim=1)
                    predicted[rows] = self.predict(contexts[rows])

        for row, n, symbols in zip(range(len(batch.order)), batch.order, emitted.t().tolist()):
            offset, positions = states[n].frames, batch.positions[row]
            found = [(s, offset + t) for s, t in zip(symbols, positions) if s != self.blank_id]
            following[n].context, following[n].score = contexts[row], scores[row]
            following[n].trail = extend_trail(states[n].trail, [s for s, _ in found], [t for _, t in found])
        return following

    def result(self, state: GreedyState, nbest: int = 1) -> list[Hypothesis]:
        tokens, timestamps = read_trail(state.trail)
        return [Hypothesis(tokens, timestamps, state.score.item())]

    def restart(self, state: GreedyState, keep_context: bool = True) -> GreedyState:
        start = self.start()
        return replace(start, context=state.context if keep_context else start.context, frames=state.frames)

    def to_tensors(self, state: GreedyState) -> dict[str, Tensor]:
        counts = {"context": state.context, "score": state.score, "frames": torch.tensor(state.frames)}
        return {**counts, **trail_tensors(state.trail)}

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> GreedyState:
        start, vocab_size = self.start(), self.predictor.vocab_size
        context = checked_tensor(tensors, "context", start.context)
        check_tokens(context, vocab_size)
        score, frames = checked_tensor(tensors, "score", start.score), int(tensors["frames"])
        return GreedyState(context, score, trail_from(tensors, vocab_size), frames)
