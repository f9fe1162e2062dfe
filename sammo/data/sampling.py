"""Which cuts make a batch: dynamic bucketing for training, fixed batches for valid and test."""

from __future__ import annotations

from typing import Any, Iterator

from torch.utils.data import Sampler

from sammo.data.augmentation import batch_seed
from sammo.data.bucketing import bucketed
from sammo.data.cuts import CutLine, Cuts
from sammo.data.dataset import BatchRequest
from sammo.data.manifests import Survey, duration_bins
from sammo.errors import UserError

# A bucket that holds fewer batches than this loses too much of its data to the incomplete last one.
BATCHES_PER_BUCKET = 8


class TrainSampler(Sampler[BatchRequest]):
    """One epoch of batches, see :func:`sammo.data.bucketing.bucketed`; can be resumed in the middle of an epoch.

    Every rank draws the batches of all, of lines of manifests, and hands out its own: all ranks get the same number.

    ``batches`` counts what training has received (BatchLoader advances it); ``state_dict`` is a position that a new
    sampler of the same options takes up by skipping as many batches, which reads manifests but no features.

    Args:
      cuts: of the epoch.
      survey: of these cuts.
      epoch: from 1.
      max_duration: seconds of audio in a batch of one rank.
      num_buckets: an upper bound.
      buffer_size: cuts that are shuffled among each other.
      shuffle, drop_last, seed: as of DynamicBucketingSampler.
      rank, world_size: this process among all.
    """

    def __init__(
        self,
        cuts: Cuts,
        survey: Survey,
        *,
        epoch: int,
        max_duration: float,
        num_buckets: int,
        buffer_size: int,
        shuffle: bool = True,
        drop_last: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.epoch = epoch
        self.batches = 0
        self._start = 0
        self._rank = rank
        self._seed = seed
        total = survey.seconds
        buckets = int(total / (max_duration * world_size * BATCHES_PER_BUCKET))
        bins = duration_bins(survey.durations, min(num_buckets, max(1, buckets)))
        self._options = {
            "seed": seed,
            "world_size": world_size,
            "max_duration": float(max_duration),
            "num_buckets": len(bins) + 1,
            "buffer_size": buffer_size,
            "shuffle": shuffle,
            "drop_last": drop_last,
            "cuts": survey.fingerprint,
        }
        self._estimate = max(1, int(total / (max_duration * world_size)))
        self._total = total
        self._cuts, self._bins = cuts, bins

    def __iter__(self) -> Iterator[BatchRequest]:
        options = self._options
        steps = bucketed(
            self._cuts.lines(),
            self._bins,
            max_duration=options["max_duration"],
            buffer_size=options["buffer_size"],
            world_size=options["world_size"],
            shuffle=options["shuffle"],
            drop_last=options["drop_last"],
            seed=f"{self._seed}/{self.epoch if options['shuffle'] else 0}",
        )
        index = -1
        for index, batches in enumerate(steps):
            if index >= self._start:
                yield BatchRequest(batches[self._rank], batch_seed(self._seed, self.epoch, self._rank, index))
        if index < 0:
            size = options["max_duration"] * options["world_size"]
            raise UserError(
                f"{self._total:.0f} s of training audio do not fill one batch a rank ({size:.0f} s): "
                "lower --max-duration or pass --drop-last false"
            )

    def __len__(self) -> int:
        """Batches of the epoch, estimated from durations (the buckets' incomplete batches make it inexact)."""
        return self._estimate

    def advance(self) -> None:
        """Counts one batch as received."""
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batches": self.batches, **self._options}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes where ``state`` was taken. UserError where it belongs to other data or other options.

        With another number of ranks as much of the epoch is left, in batches of their own.
        """
        for name, value in self._options.items():
            if state.get(name) != value and name != "world_size":
                if name == "cuts":
                    raise UserError("the checkpoint stopped inside an epoch over other training cuts than these")
                raise UserError(
                    f"the checkpoint stopped inside an epoch with {name} {state.get(name)}, now it is {value}: "
                    "resume with the same options or from the end of an epoch"
                )
        self.epoch = state["epoch"]
        self.batches = self._start = state["batches"] * state["world_size"] // self._options["world_size"]


class FixedSampler(Sampler[BatchRequest]):
    """The same batches every time: cuts sorted by duration, at most ``max_duration`` seconds with padding.

    A rank gets every ``world_size``-th batch, each cut exactly once over all ranks; ranks can differ by one batch,
    so nothing collective may happen per batch.
    """

    def __init__(self, cuts: Cuts, max_duration: float, rank: int = 0, world_size: int = 1):
        self._batches: list[list[CutLine]] = []
        batch: list[CutLine] = []
        longest = 0.0
        for line in sorted(cuts.lines(), key=lambda line: -line.duration):
            longest = longest if batch else line.duration
            if batch and longest * (len(batch) + 1) > max_duration:
                self._batches.append(batch)
                batch, longest = [], line.duration
            batch.append(line)
        if batch:
            self._batches.append(batch)
        self._batches = self._batches[rank::world_size]

    def __iter__(self) -> Iterator[BatchRequest]:
        return (BatchRequest(batch, None) for batch in self._batches)

    def __len__(self) -> int:
        return len(self._batches)
