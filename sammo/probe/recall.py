"""A recall task on features: at an event, the model must repeat the cue that it heard some time before.

    lead | cue | distractors, one about every half second, over the delay D | event | tail

A sequence is noise with patterns in it, each a smooth picture of 0.3 s by 80 bins that never changes. The transcript
has a symbol for every pattern, and after the event's the cue's once more: "cue 2, distractor 5, distractor 1, event,
cue 2". Cues are drawn evenly, distractors and the kind of the event without regard to them, so that guessing the last
symbol gives 1 / cues. Nor can the predictor know it, whose context of two symbols holds the event and the distractor
before it (from 0.4 s on there is one). A model that does better has carried the cue over D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Iterator, NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sammo import geometry
from sammo.transducer import pad_tokens

FEATURE_DIM = 80
PATTERN_FRAMES = 30
LEAD_FRAMES = (5, 45)  # drawn, so that no pattern has a place of its own in a chunk
TAIL_FRAMES = 40
GAP_FRAMES = 3  # at least between two patterns
MEAN_PERIOD_FRAMES = 45  # from one distractor's beginning to the next one's
PATTERN_RMS = 2.0  # the noise's is 1
VALID_SEQUENCES = 8  # of each delay
START_DELAY = 0.8  # seconds, the longest at first


@dataclass(frozen=True)
class RecallTask:
    """The patterns and their symbols: blank, cues, events, distractors. It is its own tokenizer.

    ``seed`` makes the patterns; sequences are made by the generators that are passed.
    """

    cues: int = 4
    events: int = 2
    distractors: int = 6
    seed: int = 0
    blank_id: int = 0

    @property
    def vocab_size(self) -> int:
        return 1 + self.cues + self.events + self.distractors

    @property
    def fingerprint(self) -> str:
        return f"recall-{self.cues}-{self.events}-{self.distractors}-{self.seed}"

    @property
    def chance(self) -> float:
        return 1.0 / self.cues

    def decode(self, ids: Sequence[int]) -> str:
        """The answer alone, a capital letter, or nothing: the CER that training reports is the share not recalled."""
        answer = self.answer(ids)
        return "" if answer is None else chr(ord("A") + answer[0])

    def answer(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        """The cue repeated after the last event, and the symbol's place; None where none was."""
        events = [place for place, token in enumerate(tokens) if self.cues < token <= self.cues + self.events]
        place = events[-1] + 1 if events else len(tokens)
        return (tokens[place] - 1, place) if place < len(tokens) and tokens[place] <= self.cues else None

    def patterns(self) -> Tensor:
        """(cues + events + distractors, 30, 80): pattern i is that of symbol i + 1."""
        generator = torch.Generator().manual_seed(self.seed)
        coarse = torch.randn(self.vocab_size - 1, 1, 4, 12, generator=generator)
        smooth = F.interpolate(coarse, (PATTERN_FRAMES, FEATURE_DIM), mode="bilinear", align_corners=True).squeeze(1)
        smooth = smooth - smooth.mean(dim=(1, 2), keepdim=True)
        return PATTERN_RMS * smooth / smooth.square().mean(dim=(1, 2), keepdim=True).sqrt()

    def batch(self, delays: Tensor, generator: torch.Generator, name: str = "recall") -> dict[str, Any]:
        """Sequences with these delays (N,), in seconds, as the data module's batches are; every cue equally often, as
        nearly as N allows. Besides, "cues" holds which it is, "onsets" the feature frame at which the event begins."""
        num = len(delays)
        cues = (torch.arange(num) % self.cues)[torch.randperm(num, generator=generator)].tolist()
        plans = [self._plan(*row, generator) for row in zip(cues, delays.tolist())]
        lengths = torch.tensor([plan.frames for plan in plans])
        features = torch.randn(num, int(lengths.max()), FEATURE_DIM, generator=generator)
        patterns = self.patterns()
        for row, plan in zip(features, plans):
            for start, pattern in plan.patterns:
                row[start : start + PATTERN_FRAMES] += patterns[pattern]
        tokens = [plan.tokens for plan in plans]
        return {
            "features": features,
            "lengths": lengths,
            "tokens": pad_tokens(tokens, self.blank_id),
            "texts": [self.decode(row) for row in tokens],
            "cut_ids": [f"{name}-{index}" for index in range(num)],
            "cues": cues,
            "onsets": [plan.patterns[-1][0] for plan in plans],
        }

    def _plan(self, cue: int, delay: float, generator: torch.Generator) -> _Plan:
        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        least = PATTERN_FRAMES + GAP_FRAMES
        lead = draw(*LEAD_FRAMES)
        end = lead + PATTERN_FRAMES + round(delay * geometry.FEATURE_RATE)
        places, place = [], lead
        while True:
            # A Poisson process, but for patterns that would overlap.
            free = torch.empty(()).exponential_(generator=generator).item()
            place += least + round(free * (MEAN_PERIOD_FRAMES - least))
            if place + least > end:
                break
            places.append(place)
        if not places and lead + 2 * least <= end:
            places.append(draw(lead + least, end - least + 1))
        distractors = [(place, draw(self.cues + self.events, self.vocab_size - 1)) for place in places]
        patterns = [(lead, cue), *distractors, (end, draw(self.cues, self.cues + self.events))]
        tokens = [pattern + 1 for _, pattern in patterns]
        return _Plan(patterns, [*tokens, cue + 1], end + PATTERN_FRAMES + TAIL_FRAMES)


class _Plan(NamedTuple):
    patterns: list[tuple[int, int]]  # (first frame, pattern)
    tokens: list[int]
    frames: int


@dataclass(frozen=True)
class Delays:
    """Delays of training in seconds: log-uniform between ``low`` and a bound that itself grows, log-linearly over the
    first ``growth`` batches, from ``start`` to ``high``. All sequences of a batch are about as long, so that little of
    it is padding."""

    low: float = 0.5
    high: float = 20.0
    start: float = START_DELAY
    growth: int = 0

    def draw(self, batch: int, num: int, generator: torch.Generator) -> Tensor:
        """(num,) for the batch of this number."""
        share = min(1.0, batch / self.growth) if self.growth else 1.0
        high = self.start * (self.high / self.start) ** share
        u = torch.rand((), generator=generator).item()
        middle = math.exp(math.log(self.low) + u * (math.log(high) - math.log(self.low)))
        return middle * (0.9 + 0.2 * torch.rand(num, generator=generator)).clamp(max=high / middle)


class _Sampler:
    def __init__(self, batches: int) -> None:
        self.batches = batches

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches}


class _Loader:
    """Batches from the one after those that the sampler has seen; any of them can be made again by its number."""

    def __init__(self, data: RecallData, start: int, rank: int, world_size: int) -> None:
        self.data, self.rank, self.world_size = data, rank, world_size
        self.sampler = _Sampler(start)

    def __len__(self) -> int:
        return self.data.steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self.sampler.batches < self.data.steps:
            batch = self.data.train_batch(self.sampler.batches)
            self.sampler.batches += 1
            yield {name: value[self.rank :: self.world_size] for name, value in batch.items()}


class RecallData:
    """What :class:`sammo.training.loop.Trainer` trains on: one epoch of ``steps`` batches, every one new.

    Args:
      sequences: in a batch; a multiple of the cues keeps each batch balanced.
      valid_delays: seconds; a batch of each is validated on.
    """

    metric = "CER"

    def __init__(
        self, task: RecallTask, steps: int, sequences: int, delays: Delays, valid_delays: Sequence[float], seed: int = 0
    ) -> None:
        self.task, self.steps, self.sequences, self.delays, self.seed = task, steps, sequences, delays, seed
        self.valid_delays = valid_delays

    def train_batch(self, index: int) -> dict[str, Any]:
        # Seeds of training are odd, those of tests even: none is shared.
        generator = torch.Generator().manual_seed(2 * (1_000_003 * self.seed + index) + 1)
        return self.task.batch(self.delays.draw(index, self.sequences, generator), generator, f"train-{index}")

    def train_dataloader(
        self, epoch: int, sampler_state: dict[str, int] | None = None, rank: int = 0, world_size: int = 1
    ) -> _Loader:
        return _Loader(self, sampler_state["batches"] if sampler_state else 0, rank, world_size)

    def audio_seconds(self, epoch: int) -> float:
        return float(self.steps)  # only its share of all epochs matters

    def valid_dataloader(self, rank: int = 0, world_size: int = 1) -> Iterator[dict[str, Any]]:
        for delay in self.valid_delays:
            [batch] = test_batches(self.task, delay, VALID_SEQUENCES, VALID_SEQUENCES, seed=1)
            yield {name: value[rank::world_size] for name, value in batch.items()}


def test_batches(task: RecallTask, delay: float, sequences: int, size: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """``sequences`` of one delay (s), in batches of ``size`` at most."""
    generator = torch.Generator().manual_seed(2 * (1_000_003 * seed + round(1000 * delay)))
    for done in range(0, sequences, size):
        yield task.batch(torch.full((min(size, sequences - done),), delay), generator, f"test-{delay:g}-{done}")
