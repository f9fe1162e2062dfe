"""How often a model recalls the cue, chunk by chunk, decoded by greedy search."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import torch

from sammo import geometry
from sammo.encoder import ENCODERS, EncoderConfig
from sammo.encoder.mixers import MIXERS
from sammo.memory.decoding import Condition, encode_chunks
from sammo.memory.recurrence import recurrent_mixers
from sammo.probe.recall import RecallTask, test_batches
from sammo.search import Hypothesis, make_searcher
from sammo.transducer import Transducer

BATCH_SECONDS = 200.0
FEATURES_AN_OUTPUT = geometry.STRIDE * geometry.OUTPUT_DOWNSAMPLING


class Recall(NamedTuple):
    """What is asked, and the answer: how often an encoder recalls. Chunks and left contexts in frames of 20 ms."""

    encoder: str
    chunk_size: int
    left_context_frames: int
    reset: bool  # the recurrent state is emptied before each chunk
    delay: float  # seconds
    sequences: int
    steps: int  # batches that the model was trained for
    answered: int = 0  # sequences in which a cue was repeated
    right: int = 0  # and it was the right one

    @property
    def question(self) -> Recall:
        """The same cell without its answer."""
        return self._replace(answered=0, right=0)

    @property
    def condition(self) -> Condition:
        """How the cell is decoded."""
        return Condition(self.chunk_size, self.left_context_frames, 0 if self.reset else None)

    @property
    def accuracy(self) -> float:
        """Share of the sequences."""
        return self.right / self.sequences

    @property
    def system(self) -> str:
        """The encoder as tables call it."""
        left = f", left context {self.left_context_frames}" if self.left_context_frames else ""
        return self.encoder.capitalize() + left + (", state emptied" if self.reset else "")

    @property
    def line(self) -> str:
        """The line of the table that the cell is in."""
        return f"{self.system}/{self.chunk_size}"


def conditions(model: Transducer, reset: bool) -> list[tuple[int, int, bool]]:
    """(chunk size, left context, emptied) of everything to measure: what the model was trained with."""
    config = model.config.encoder
    lefts = config.left_context_frames if config.left_context else (0,)
    found = [(chunk, left, False) for left in lefts for chunk in config.chunk_sizes]
    if reset and recurrent_mixers(model.encoder):
        found += [(chunk, left, True) for chunk, left, _ in found]
    return found


@torch.inference_mode()
def recall(model: Transducer, task: RecallTask, cells: Sequence[Recall]) -> list[Recall]:
    """Answers ``cells``, all of one delay and number of sequences, on the same sequences."""
    encoder = model.eval().encoder
    device = next(model.parameters()).device
    searcher = make_searcher(model, "greedy_search")
    delay, sequences = cells[0].delay, cells[0].sequences
    size = max(task.cues, int(BATCH_SECONDS / (delay + 2.0)))
    results = list(cells)
    for batch in test_batches(task, delay, sequences, size):
        features, lengths = batch["features"].to(device), batch["lengths"].to(device)
        for index, cell in enumerate(results):
            chunk, left = cell.chunk_size, cell.left_context_frames
            if cell.reset:
                frames, counts = encode_chunks(encoder, features, lengths, cell.condition)
            else:
                frames, counts, _ = encoder(features, lengths, chunk_size=chunk, left_context_frames=left)
            answered, right = count_right(task, batch, searcher(frames, counts), chunk)
            results[index] = cell._replace(answered=cell.answered + answered, right=cell.right + right)
    return results


def count_right(
    task: RecallTask, batch: dict[str, Any], hypotheses: Sequence[list[Hypothesis]], chunk_size: int
) -> tuple[int, int]:
    """(answered, right) of a batch and what was decoded of it in chunks of ``chunk_size``.

    An answer before the chunk in which the event may begin is a guess that an event will come: it does not count.
    """
    answered = right = 0
    for (best, *_), cue, onset in zip(hypotheses, batch["cues"], batch["onsets"]):
        found = task.answer(best.tokens)
        if found is None:
            continue
        said, place = found
        if FEATURES_AN_OUTPUT * best.timestamps[place] + geometry.STRIDE * chunk_size >= onset:
            answered += 1
            right += said == cue
    return answered, right


def reach(config: EncoderConfig, chunk_size: int, left_context_frames: int) -> float:
    """Seconds that a path through attention and convolutions can bridge at most; more can only come through a state.

    Left contexts add up: over layers, and in a layer of Zipformer over NLA and both self-attentions, each of which
    looks back from what the one before it made. Attention that stays in its chunk adds nothing to the convolutions.
    """
    looks, mixer = ENCODERS[config.encoder].looks_back, MIXERS[config.mixer]
    hops = looks + mixer.attends if config.left_context else 0
    recurrent = mixer.recurrent_leaf is not None
    frames = chunk_size
    for factor, layers, kernel in zip(config.downsampling, config.num_layers, config.conv_kernel):
        convolutions = looks * (kernel // 2) + (config.mamba_conv_kernel - 1) * recurrent
        frames += layers * (factor * convolutions + hops * left_context_frames)
    return frames / geometry.RATE
