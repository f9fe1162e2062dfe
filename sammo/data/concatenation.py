"""Utterances of a batch one behind the other, for training.

A model that has always begun with an empty state takes what it remembers of one utterance for a part of the next
(``sammo endurance`` measures it). Behind another utterance, the state is what a stream has there, and the loss goes through
the pause.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import torch
from torch import Tensor

from sammo.data.frames import num_frames
from sammo.geometry import PADDING_VALUE


class Concatenation(NamedTuple):
    """How utterances are put together: as by lhotse's CutConcatenate, which icefall's options set, on features.

    factor: they become at most as long as this times the longest of the batch.
    gap: seconds of digital silence between two.
    """

    factor: float
    gap: float

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of the utterances of each row: every utterance goes to the first row that has room for it (first fit)."""
        most, gap = int(self.factor * max(lengths)), num_frames(self.gap)
        groups: list[list[int]] = []
        taken: list[int] = []
        for index, length in enumerate(lengths):
            place = next((i for i, frames in enumerate(taken) if frames + gap + length <= most), None)
            if place is None:
                groups.append([index])
                taken.append(length)
            else:
                groups[place].append(index)
                taken[place] += gap + length
        order = sorted(range(len(groups)), key=lambda i: -taken[i])
        return [groups[i] for i in order]

    def join(self, features: Tensor, lengths: Tensor, groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """features (N, T, 80), lengths (N,) -> features (M, T', 80), lengths (M,), a row for each of the M groups."""
        gap = features.new_full((num_frames(self.gap), features.size(2)), PADDING_VALUE)
        rows = []
        for group in groups:
            pieces = [piece for index in group for piece in (gap, features[index, : lengths[index]])]
            rows.append(torch.cat(pieces[1:]))
        found = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING_VALUE)
        return found, torch.tensor([len(row) for row in rows], dtype=lengths.dtype)


class LongForm(NamedTuple):
    """What makes training batches like a stream that goes on: sounds without a text, silence, utterances one behind the other.

    noise_only_share: probability of an utterance to be replaced by noise.
    leading_silence: most seconds of silence before an utterance.
    concatenation: how utterances are joined; None: each is a row of its own.
    """

    noise_only_share: float = 0.0
    leading_silence: float = 0.0
    concatenation: Concatenation | None = None
