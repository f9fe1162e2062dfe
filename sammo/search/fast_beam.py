"""Fast beam search through k2, with a graph that allows every token sequence."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Callable

import torch
from torch import Tensor

from sammo.errors import UserError
from sammo.search.base import Hypothesis, Model, Searcher

IMPOSSIBLE = -1e30  # log-probability; finite, so that k2's sums stay numbers
SILENT = -1  # in place of a frame number


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


def _with_normal_tensors(function: Callable) -> Callable:
    """``function`` outside of inference mode, where decoding runs: k2's autograd functions ask tensors for their
    version counter, which those of inference mode do not have.
    """

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **options)

    return call


class BestPaths:
    """Best paths of the streams of one k2.RnntDecodingStreams as it was left, computed when first asked for.

    k2 can format only the group of streams that it has advanced, not a stream by itself.
    """

    def __init__(self, k2: Any, streams: Any, frame_counts: list[int]) -> None:
        self.k2 = k2
        self.streams = streams
        self.frame_counts = frame_counts
        self._paths: list[tuple[list[int], float]] | None = None

    @_with_normal_tensors
    def __getitem__(self, index: int) -> tuple[list[int], float]:
        """One label per searched frame (0: blank), and the path's log-probability."""
        if self._paths is None:
            lattice = self.streams.format_output(self.frame_counts)
            best = self.k2.shortest_path(lattice, use_double_scores=True)
            scores = best.get_tot_scores(use_double_scores=True, log_semiring=False).tolist()
            # -1 labels the arc into the final state.
            labels = [[x for x in best[i].labels.tolist() if x >= 0] for i in range(len(scores))]
            self._paths = list(zip(labels, scores))
        return self._paths[index]


@dataclass
class FastBeamState:
    """One stream: k2's decoding stream, which k2 changes in place, and the frames seen.

    Attributes:
      stream: k2.RnntDecodingStream.
      positions: frame numbers that were searched; frames that are not finite are missing, SILENT stands for the frame
        that follows each chunk.
      frames: frames seen.
      paths, index: where to find the best path; None before the first frame.
    """

    stream: Any
    positions: list[int]
    frames: int = 0
    paths: BestPaths | None = None
    index: int = 0


class FastBeamSearch(Searcher[FastBeamState]):
    """k2's pruned lattice search, one best path. States are not reusable: ``advance`` consumes them.

    Args:
      model, blank_penalty, temperature: see :class:`Searcher`.
      beam: log-probability beam.
      max_states, max_contexts: limits per stream and frame.

    Raises:
      UserError: k2 is missing, or blank is not token 0.
    """

    @_with_normal_tensors
    def __init__(
        self,
        model: Model,
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

    @_with_normal_tensors
    def start(self) -> FastBeamState:
        return FastBeamState(self.k2.RnntDecodingStream(self.graph), [])

    @_with_normal_tensors
    def advance(self, frames: Tensor, lengths: Tensor, states: list[FastBeamState]) -> list[FastBeamState]:
        batch = self.prepare(frames.clone(), lengths, states)
        following = [replace(state, frames=state.frames + length) for state, length in zip(states, lengths.tolist())]
        for row, n in enumerate(batch.order):
            searched = [states[n].frames + t for t in batch.positions[row]]
            following[n].positions = states[n].positions + searched + [SILENT]
        segments = batch.segments()
        for (start, stop, count), (*_, going_on) in zip(segments, [*segments[1:], (0, 0, 0)]):
            # One object per segment: k2 advances all of its streams together.
            streams = self.k2.RnntDecodingStreams([states[n].stream for n in batch.order[:count]], self.config)
            for t in range(start, stop):
                shape, contexts = streams.get_contexts()
                predicted = self.predict(contexts.to(torch.int64))
                rows = batch.frames[:count, t][shape.row_ids(1).to(torch.int64)]
                streams.advance(self.logits(rows, predicted).log_softmax(dim=-1))
            streams.terminate_and_flush_to_streams()
            ending = batch.order[going_on:count]
            paths = self._finish([states[n].stream for n in ending], [len(following[n].positions) for n in ending])
            for row, n in enumerate(ending):
                following[n].paths, following[n].index = paths, row
        return following

    def _finish(self, streams: list[Any], frame_counts: list[int]) -> BestPaths:
        """The paths of streams that have no more frames, after one that is certainly blank and costs nothing.

        The last frame goes to the arc into the final state; a symbol that was emitted there would be lost.
        """
        group = self.k2.RnntDecodingStreams(streams, self.config)
        _, contexts = group.get_contexts()
        log_probs = torch.full((contexts.shape[0], self.config.vocab_size), IMPOSSIBLE, device=self.device)
        log_probs[:, self.blank_id] = 0.0
        group.advance(log_probs)
        group.terminate_and_flush_to_streams()
        return BestPaths(self.k2, group, frame_counts)

    @_with_normal_tensors
    def result(self, state: FastBeamState, nbest: int = 1) -> list[Hypothesis]:
        if state.paths is None:
            return [Hypothesis([], [], 0.0)]
        labels, score = state.paths[state.index]
        found = [(label, t) for label, t in zip(labels, state.positions) if label > 0]
        return [Hypothesis([label for label, _ in found], [t for _, t in found], score)]
