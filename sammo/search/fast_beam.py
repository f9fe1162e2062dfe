"""Fast beam search through k2, with a graph that allows every token sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sammo.errors import UserError
from sammo.search.base import Hypothesis, Searcher


def import_k2() -> Any:
    """The k2 module, or a UserError that says how to get it."""
    try:
        import k2
    except ImportError as error:
        raise UserError(
            f"fast_beam_search needs k2 ({error}): install the wheel for your PyTorch and CUDA from "
            "https://k2-fsa.github.io/k2/installation/, or use --decoding-method modified_beam_search"
        ) from None
    return k2


@dataclass
class FastBeamState:
    """One stream: k2's decoding stream, which k2 changes in place, and the frames seen.

    Attributes:
        stream: k2.RnntDecodingStream.
        positions: frame numbers that were searched; frames that are not finite are missing.
        frames: frames seen.
    """

    stream: Any
    positions: list[int]
    frames: int = 0


class FastBeamSearch(Searcher):
    """k2's pruned lattice search, one best path. States are not reusable: ``advance`` consumes them.

    Args:
        beam: log-probability beam.
        max_states, max_contexts: limits per stream and frame.
    """

    def __init__(
        self,
        model: nn.Module,
        beam: float = 20.0,
        max_states: int = 64,
        max_contexts: int = 8,
        blank_penalty: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(model, blank_penalty, temperature)
        if self.blank_id != 0:
            raise UserError(f"fast_beam_search needs blank to be token 0, this model has {self.blank_id}")
        self.k2 = import_k2()
        self.device = self.joiner.output_linear.weight.device
        vocab_size = self.joiner.output_linear.out_features
        self.graph = self.k2.trivial_graph(vocab_size - 1, device=self.device)
        self.config = self.k2.RnntDecodingConfig(
            vocab_size=vocab_size,
            decoder_history_len=self.context_size,
            beam=beam,
            max_contexts=max_contexts,
            max_states=max_states,
        )

    def start(self) -> FastBeamState:
        return FastBeamState(self.k2.RnntDecodingStream(self.graph), [])

    @torch.no_grad()
    def advance(self, frames: Tensor, lengths: Tensor, states: list[FastBeamState]) -> list[FastBeamState]:
        walk = self.prepare(frames, lengths, states)
        for start, stop, count in walk.segments():
            # One object per segment: k2 advances all of its streams together.
            streams = self.k2.RnntDecodingStreams([states[n].stream for n in walk.order[:count]], self.config)
            for t in range(start, stop):
                shape, contexts = streams.get_contexts()
                predicted = self.predict(contexts.to(torch.int64))
                rows = walk.frames[:count, t][shape.row_ids(1).to(torch.int64)]
                streams.advance(self.logits(rows, predicted).log_softmax(dim=-1))
            streams.terminate_and_flush_to_streams()
        following = [
            replace(state, frames=state.frames + length) for state, length in zip(states, lengths.tolist())
        ]
        for row, n in enumerate(walk.order):
            searched = [states[n].frames + t for t in walk.positions[row]]
            following[n].positions = states[n].positions + searched
        return following

    @torch.no_grad()
    def result(self, state: FastBeamState, nbest: int = 1) -> list[Hypothesis]:
        if not state.positions:
            return [Hypothesis([], [], 0.0)]
        streams = self.k2.RnntDecodingStreams([state.stream], self.config)
        lattice = streams.format_output([len(state.positions)])
        path = self.k2.shortest_path(lattice, use_double_scores=True)
        # One label per frame, 0 for blank; the -1 before the final state is dropped.
        labels = [label for label in path.labels.tolist() if label >= 0]
        found = [(label, state.positions[t]) for t, label in enumerate(labels) if label > 0]
        score = path.get_tot_scores(use_double_scores=True, log_semiring=False).sum().item()
        return [Hypothesis([label for label, _ in found], [t for _, t in found], score)]
