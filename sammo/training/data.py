"""What training asks of data; :class:`sammo.data.datamodule.CsjDataModule` has it."""

from __future__ import annotations

from typing import Any, Iterator, Protocol, Sized

from sammo.data.concatenation import LongForm
from sammo.data.dataset import Batch
from sammo.data.manifests import Survey


class Sampler(Protocol):
    """Knows its place in an epoch."""

    batches: int  # of this epoch that were handed out

    def state_dict(self) -> dict[str, Any]: ...


class Loader(Sized, Protocol):
    """The batches of an epoch; its length is an estimate of their number."""

    sampler: Sampler

    def __iter__(self) -> Iterator[Batch]: ...


class Data(Protocol):
    """What a model is trained on, like CsjDataModule; ``metric`` is its error rate, "CER" or "WER"."""

    metric: str

    def train_dataloader(
        self, epoch: int, sampler_state: dict[str, Any] | None, rank: int, world_size: int
    ) -> Loader: ...

    def valid_dataloader(self, rank: int, world_size: int) -> Loader: ...

    def audio_seconds(self, epoch: int) -> float: ...

    def train_survey(self) -> Survey: ...

    def long_form(self) -> LongForm: ...
