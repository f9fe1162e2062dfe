"""Modified beam search: beam search with at most one symbol per frame, vectorized over streams and beams."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Mapping, NamedTuple

import torch
from torch import Tensor

from sammo.errors import UserError
from sammo.search.base import (
    Hypothesis,
    Model,
    Searcher,
    SortedBatch,
    Trail,
    check_tokens,
    checked_tensor,
    extend_trail,
    read_trail,
    trail_from,
    trail_tensors,
)
from sammo.search.context_graph import ROOT, ContextGraph
from sammo.search.lm import LanguageModel, LMState, map_tensors, stack_tensors

MOST_HYPOTHESES = 1000

# Odd constants that mix a symbol into the 64-bit fingerprint of a token sequence (wrapping multiplication).
_MIX_SYMBOL, _MIX_SEQUENCE = -7046029254386353131, -4658895280553007687


class Beam(NamedTuple):
    """K hypotheses of each of M streams. A slot of score -inf is empty.

    Attributes:
      score: (M, K) float64 log-probabilities; float32 would lose hours-long streams.
      prefix: (M, K) int64 fingerprints of the token sequences, equal where the sequences are.
      context: (M, K, context_size) last symbols.
      nodes: (M, K) states in the context graph.
      lm_state: of the language model, (M, K, ...) tensors; None without one.
    """

    score: Tensor
    prefix: Tensor
    context: Tensor
    nodes: Tensor
    lm_state: LMState


@dataclass
class BeamState:
    """One stream: its hypotheses (a :class:`Beam` without the stream dimension), their tokens, frames seen."""

    beam: Beam
    trails: list[Trail | None]
    frames: int = 0


class ModifiedBeamSearch(Searcher[BeamState]):
    """Keeps the ``beam_size`` best hypotheses per frame; those of the same tokens are added up.

    Each hypothesis is extended by blank or by one symbol; the best extensions by log-probability are kept,
    then given the rewards of hotwords and language model for the symbols that they emitted, then merged
    with those that have the same tokens, the time stamps being those of the better one. The final choice
    divides by the number of tokens (with the start context counted, as in icefall).

    Args:
      model, blank_penalty, temperature: see :class:`Searcher`.
      beam_size: hypotheses kept per frame.
      context_graph: hotwords.
      lm, lm_scale: language model and the weight of its log-probabilities; blanks are not scored.

    Raises:
      UserError: a beam size that is not between 1 and 1000.
    """

    def __init__(
        self,
        model: Model,
        beam_size: int = 4,
        blank_penalty: float = 0.0,
        temperature: float = 1.0,
        context_graph: ContextGraph | None = None,
        lm: LanguageModel | None = None,
        lm_scale: float = 0.0,
    ) -> None:
        super().__init__(model, blank_penalty, temperature)
        if not 1 <= beam_size <= MOST_HYPOTHESES:
            raise UserError(
                f"beam_size must be at least 1 and at most {MOST_HYPOTHESES}, got {beam_size}: every hypothesis is "
                "extended on every frame"
            )
        self.beam_size = beam_size
        self.context_graph = context_graph
        self.lm = lm
        self.lm_scale = lm_scale
        self._start_beam: Beam | None = None

    @torch.no_grad()
    def start(self) -> BeamState:
        if self._start_beam is None:
            self._start_beam = self._make_start_beam()
        return BeamState(self._start_beam, [None] * self.beam_size)

    def _make_start_beam(self) -> Beam:
        size, device = self.beam_size, self.joiner.output_linear.weight.device
        score = torch.full((size,), -math.inf, dtype=torch.float64, device=device)
        score[0] = 0.0
        context = torch.tensor(self.start_context(), device=device).expand(size, -1)
        zeros = torch.zeros(size, dtype=torch.int64, device=device)
        lm_state = None
        if self.lm is not None:
            lm_state = map_tensors(lambda x: x.expand(size, *x.shape[1:]), self.lm.start(device))
        return Beam(score, zeros, context, torch.full_like(zeros, ROOT), lm_state)

    @torch.no_grad()
    def advance(self, frames: Tensor, lengths: Tensor, states: list[BeamState]) -> list[BeamState]:
        batch = self.prepare(frames, lengths, states)
        following = [
            BeamState(state.beam, state.trails, state.frames + length)
            for state, length in zip(states, lengths.tolist())
        ]
        if not batch.order:
            return following
        beam = Beam(*map(stack_tensors, zip(*(states[n].beam for n in batch.order))))
        predicted = self.predict(beam.context.flatten(0, 1)).view(*beam.score.shape, -1)

        total, streams = batch.lengths[0], len(batch.order)
        parents = torch.arange(self.beam_size, device=beam.score.device).repeat(total, streams, 1)
        symbols = torch.full_like(parents, self.blank_id)
        finished: list[Beam] = []
        for start, stop, count in batch.segments():
            if count < beam.score.shape[0]:
                finished.append(_rows(beam, slice(count, None)))
                beam, predicted = _rows(beam, slice(count)), predicted[:count]
            for t in range(start, stop):
                beam, predicted, parents[t, :count], symbols[t, :count] = self._step(
                    batch.frames[:count, t], beam, predicted
                )
        beam = Beam(*(map_tensors(lambda *x: torch.cat(x), *parts) for parts in zip(beam, *reversed(finished))))
        self._collect(batch, beam, parents, symbols, states, following)
        return following

    def _step(self, frames: Tensor, beam: Beam, predicted: Tensor) -> tuple[Beam, Tensor, Tensor, Tensor]:
        """One frame (M, D). Returns the next beam and predictor output, and (M, K) parent slots and symbols."""
        streams, size = beam.score.shape
        rows = (beam.score.view(-1) > -math.inf).nonzero().squeeze(1)
        logits = self.logits(frames[rows // size], predicted.flatten(0, 1)[rows])
        width = min(size, logits.shape[1])
        best, candidates = logits.topk(width, dim=1)
        gain = (best - logits.logsumexp(dim=1, keepdim=True)).double()

        scores = beam.score.new_full((streams * size, width), -math.inf)
        scores[rows] = gain + beam.score.view(-1)[rows, None]
        tokens = candidates.new_full((streams * size, width), self.blank_id)
        tokens[rows] = candidates
        score, index = scores.view(streams, -1).topk(size, dim=1)
        parent = index // width
        symbol = tokens.view(streams, -1).gather(1, index)
        emits = symbol != self.blank_id

        at = (torch.arange(streams, device=parent.device).unsqueeze(1), parent)
        nodes = beam.nodes[at]
        if self.context_graph is not None:
            reward, nodes = _reward(self.context_graph, nodes, symbol, emits)
            score = score + reward
        lm_state = map_tensors(lambda x: x[at], beam.lm_state)
        if self.lm is not None:
            score, lm_state = _fuse(self.lm, self.lm_scale, score, lm_state, symbol, emits)

        prefix = beam.prefix[at]
        prefix = torch.where(emits, _extend_prefix(prefix, symbol), prefix)
        if size > 1:
            score = _merge(score, prefix)
        predicted, context = predicted[at], beam.context[at]
        new = (emits & (score > -math.inf)).nonzero(as_tuple=True)
        if new[0].numel():
            last = symbol[new]
            extended = torch.cat([context[new][:, 1:], last.unsqueeze(1)], dim=1)
            context[new] = extended
            predicted[new] = self.predict(extended)
        return Beam(score, prefix, context, nodes, lm_state), predicted, parent, symbol

    def _collect(
        self,
        batch: SortedBatch,
        beam: Beam,
        parents: Tensor,
        symbols: Tensor,
        states: list[BeamState],
        following: list[BeamState],
    ) -> None:
        """Follow the back-pointers and put the symbols of this chunk into the next states."""
        slot = torch.arange(self.beam_size, device=parents.device).expand(parents.shape[1], -1)
        path = torch.empty_like(symbols)
        for t in range(parents.shape[0] - 1, -1, -1):
            path[t] = symbols[t].gather(1, slot)
            slot = parents[t].gather(1, slot)
        paths, origins, alive = path.permute(1, 2, 0).tolist(), slot.tolist(), (beam.score > -math.inf).tolist()
        for row, n in enumerate(batch.order):
            offset, trails = states[n].frames, []
            for origin, symbols_of_slot, used in zip(origins[row], paths[row], alive[row]):
                pairs = zip(symbols_of_slot, batch.positions[row])
                found = [(s, offset + t) for s, t in pairs if s != self.blank_id] if used else []
                before = states[n].trails[origin] if used else None
                trails.append(extend_trail(before, [s for s, _ in found], [t for _, t in found]))
            following[n].trails = trails
            following[n].beam = _rows(beam, row)

    def result(self, state: BeamState, nbest: int = 1) -> list[Hypothesis]:
        # Without any, logits were beyond what the model's precision can hold.
        return [hyp for _, hyp in self._ranked(state)[:nbest]] or [Hypothesis([], [], -math.inf)]

    def _ranked(self, state: BeamState) -> list[tuple[int, Hypothesis]]:
        """Slots and their hypotheses, the best first."""
        found = []
        for slot, (score, node, trail) in enumerate(
            zip(state.beam.score.tolist(), state.beam.nodes.tolist(), state.trails)
        ):
            if score == -math.inf:
                continue
            if self.context_graph is not None:
                score += self.context_graph.finalize(node)
            found.append((slot, Hypothesis(*read_trail(trail), score)))
        return sorted(found, key=lambda item: -item[1].score / (len(item[1].tokens) + self.context_size))

    def restart(self, state: BeamState, keep_context: bool = True) -> BeamState:
        start, ranked = self.start(), self._ranked(state)
        beam = start.beam
        if keep_context and ranked:
            best = ranked[0][0]
            kept = (map_tensors(lambda x: x[best].expand_as(x), part) for part in _remembered(state.beam))
            beam = beam._replace(**dict(zip(REMEMBERED, kept)))
        return BeamState(beam, start.trails, state.frames)

    def facts(self) -> dict[str, Any]:
        hotwords = "" if self.context_graph is None else self.context_graph.digest()
        lm = {} if self.lm is None else {"lm": self.lm.digest, "lm_scale": self.lm_scale}
        return {**super().facts(), "beam_size": self.beam_size, "hotwords": hotwords, **lm}

    def to_tensors(self, state: BeamState) -> dict[str, Tensor]:
        tensors = {"frames": torch.tensor(state.frames), **_named(state.beam)}
        for slot, trail in enumerate(state.trails):
            tensors.update(trail_tensors(trail, f".{slot}"))
        return tensors

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> BeamState:
        start, vocab_size = self.start(), self.predictor.vocab_size
        found = iter([checked_tensor(tensors, name, example) for name, example in _named(start.beam).items()])
        beam = Beam(*(map_tensors(lambda _: next(found), part) for part in start.beam))
        check_tokens(beam.context, vocab_size)
        nodes = 1 if self.context_graph is None else len(self.context_graph.children)
        if not 0 <= int(beam.nodes.min()) <= int(beam.nodes.max()) < nodes:
            raise ValueError("its hypotheses stand at hotwords that there are not")
        if self.lm is not None:
            self.lm.check(beam.lm_state)
        trails = [trail_from(tensors, vocab_size, f".{slot}") for slot in range(self.beam_size)]
        return BeamState(beam, trails, int(tensors["frames"]))


REMEMBERED = ("context", "lm_state")  # of a hypothesis, what its next symbols depend on


def _remembered(beam: Beam) -> list[LMState]:
    return [getattr(beam, name) for name in REMEMBERED]


def _named(beam: Beam) -> dict[str, Tensor]:
    """The tensors of a beam, in their order."""
    tensors: dict[str, Tensor] = {}
    for name, part in zip(Beam._fields, beam):
        map_tensors(lambda x, name=name: tensors.setdefault(f"{name}.{len(tensors)}", x), part)
    return tensors


def _reward(graph: ContextGraph, nodes: Tensor, symbol: Tensor, emits: Tensor) -> tuple[Tensor, Tensor]:
    """Hotword rewards (M, K) of one frame's symbols, and the next nodes."""
    steps = [
        graph.step(node, token) if emit else (0.0, node)
        for node, token, emit in zip(*(x.flatten().tolist() for x in (nodes, symbol, emits)))
    ]
    reward = torch.tensor([r for r, _ in steps], dtype=torch.float64, device=nodes.device)
    following = torch.tensor([n for _, n in steps], device=nodes.device)
    return reward.view_as(nodes), following.view_as(nodes)


def _fuse(
    lm: LanguageModel, scale: float, score: Tensor, state: LMState, symbol: Tensor, emits: Tensor
) -> tuple[Tensor, LMState]:
    """Scores (M, K) with what the language model says to one frame's symbols, and its state after them."""
    new = (emits & (score > -math.inf)).nonzero(as_tuple=True)
    if not new[0].numel():
        return score, state
    log_probs, following = lm.step(symbol[new], map_tensors(lambda x: x[new], state))
    score = score.index_put(new, scale * log_probs.to(score.dtype), accumulate=True)
    return score, map_tensors(lambda x, y: x.index_put(new, y), state, following)


def _rows(beam: Beam, rows: slice | int) -> Beam:
    return Beam(*(map_tensors(lambda x: x[rows], part) for part in beam))


def _extend_prefix(prefix: Tensor, symbol: Tensor) -> Tensor:
    """Fingerprints after one more symbol; different sequences collide with probability 2^-64."""
    mixed = (prefix ^ ((symbol + 1) * _MIX_SYMBOL)) * _MIX_SEQUENCE
    return mixed ^ (mixed >> 32)


def _merge(score: Tensor, prefix: Tensor) -> Tensor:
    """Add up (M, K) scores of equal prefixes in their first slot, and empty the others."""
    used = score > -math.inf
    same = (prefix.unsqueeze(2) == prefix.unsqueeze(1)) & used.unsqueeze(2) & used.unsqueeze(1)
    again = same.tril(diagonal=-1).any(dim=2)
    total = score.unsqueeze(1).masked_fill(~same, -math.inf).logsumexp(dim=2)
    return total.masked_fill(again, -math.inf)
