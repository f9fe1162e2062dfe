"""From a batch of cuts to a batch of tensors, and the loader that training reads."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterable, Iterator, NamedTuple, TypedDict

import torch
from lhotse import CutSet, Fbank
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sammo.data.augmentation import NoiseMixer, seeded
from sammo.data.concatenation import Concatenation
from sammo.data.cuts import CutLine, Cuts
from sammo.data.features import collate_on_the_fly, collate_precomputed
from sammo.data.frames import num_frames
from sammo.data.quiet import Quiet
from sammo.data.tokens import Tokenizer
from sammo.data.transcripts import transcript
from sammo.errors import UserError
from sammo.signals import stop_signals_blocked
from sammo.transducer import pad_tokens


class Batch(TypedDict):
    """N utterances, the longest cut first, or N rows of several utterances each."""

    features: Tensor  # (N, T, 80) float32
    lengths: Tensor  # (N,) int64, frames without padding and noise filling, with leading silence
    tokens: Tensor  # (N, S) int64, ids of the output units, filled up with blank
    texts: list[str]  # "" where noise has taken the place of a cut
    cut_ids: list[str]  # "one + other" of utterances that are concatenated


class BatchRequest(NamedTuple):
    """What a sampler hands to the dataset: which cuts, and the seed of their augmentation (None: no augmentation)."""

    lines: list[CutLine]
    seed: int | None


class SpeechDataset(Dataset):
    """Map-style dataset over BatchRequest.

    Args:
      tokenizer: makes ids of texts.
      mode: kind of transcript.
      extractor: computes features from the audio; None: stored features are read.
      noise, quiet, concatenation, spec_augment: augmentation, of requests with a seed.
    """

    def __init__(
        self,
        cuts: Cuts,
        tokenizer: Tokenizer,
        mode: str,
        extractor: Fbank | None = None,
        noise: NoiseMixer | None = None,
        spec_augment: torch.nn.Module | None = None,
        quiet: Quiet | None = None,
        concatenation: Concatenation | None = None,
    ):
        self.cuts = cuts
        self.tokenizer = tokenizer
        self.mode = mode
        self.extractor = extractor
        self.noise = noise
        self.spec_augment = spec_augment
        self.quiet = quiet
        self.concatenation = concatenation

    def __getitem__(self, request: BatchRequest) -> Batch | UserError:
        # A worker's exception reaches the training process as a many-line trace, its return value as it is.
        try:
            cuts = CutSet([self.cuts.cut(line) for line in request.lines])
            if request.seed is None:
                return self._load(cuts, seed=None)
            with seeded(request.seed):
                return self._load(cuts, seed=request.seed)
        except UserError as error:
            return error

    def _load(self, cuts: CutSet, seed: int | None) -> Batch:
        cuts = cuts.sort_by_duration(ascending=False)
        clean = list(cuts)
        if seed is not None and self.noise is not None:
            cuts = self.noise(cuts, seed)
        if self.extractor is None:
            features, lengths = collate_precomputed(cuts)
        else:
            features, lengths = collate_on_the_fly(cuts, self.extractor)
        speech = torch.tensor([num_frames(cut.duration) for cut in clean], dtype=torch.int64)
        lengths = torch.minimum(lengths, speech)
        texts = [transcript(cut, self.mode) for cut in clean]
        cut_ids = [cut.id for cut in clean]
        if seed is not None and self.quiet is not None:
            features, lengths, replaced = self.quiet(features, lengths, seed)
            texts = ["" if gone else text for text, gone in zip(texts, replaced)]
        if seed is not None and self.concatenation is not None:
            groups = self.concatenation.groups(lengths.tolist())
            features, lengths = self.concatenation.join(features, lengths, groups)
            texts = [" ".join(filter(None, (texts[index] for index in group))) for group in groups]
            cut_ids = [" + ".join(cut_ids[index] for index in group) for group in groups]
        if seed is not None and self.spec_augment is not None:
            rows = torch.arange(len(lengths))
            segments = torch.stack([rows, torch.zeros_like(rows), lengths], dim=1)
            features = self.spec_augment(features, supervision_segments=segments)
        return {
            "features": features,
            "lengths": lengths,
            "tokens": pad_tokens([self.tokenizer.encode(text) for text in texts], self.tokenizer.blank_id),
            "texts": texts,
            "cut_ids": cut_ids,
        }


class BatchLoader:
    """Iterates batches; ``sampler`` decides which cuts, worker processes make the tensors.

    The sampler is asked ahead of time when there are workers, so the position that a checkpoint needs is counted
    here, where batches are handed out.
    """

    def __init__(
        self,
        dataset: SpeechDataset,
        sampler: Any,
        num_workers: int = 0,
        on_batch: Callable[[], None] | None = None,
    ):
        self.dataset = dataset
        self.sampler = sampler
        self.num_workers = num_workers
        self._on_batch = on_batch

    def __iter__(self) -> Iterator[Batch]:
        loader = DataLoader(
            self.dataset,
            sampler=self.sampler,
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=4 if self.num_workers else None,
            # Memory that the GPU can read by itself, while the process goes on.
            pin_memory=torch.cuda.is_available(),
            # Without one of its own it draws from the process's generator, and a resumed run would go astray.
            generator=torch.Generator(),
        )
        with stop_signals_blocked():  # in the workers for good
            batches = iter(loader)
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            if self._on_batch is not None:
                self._on_batch()
            yield batch

    def __len__(self) -> int:
        return len(self.sampler)


class WaitTimer:
    """Iterates ``loader`` and measures how long the caller waited for batches.

    ``waited`` and ``worked`` are seconds since the iteration began: inside of the loader, and in the caller's body.
    """

    def __init__(self, loader: Iterable[Batch]):
        self.loader = loader
        self.waited = 0.0
        self.worked = 0.0
        self.batches = 0
        self.audio_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        mark = time.perf_counter()
        for batch in self.loader:
            handed_out = time.perf_counter()
            self.waited += handed_out - mark
            self.batches += 1
            self.audio_seconds += float(batch["lengths"].sum()) / 100
            yield batch
            mark = time.perf_counter()
            self.worked += mark - handed_out
        self.waited += time.perf_counter() - mark

    @property
    def share(self) -> float:
        """Share of the time spent waiting, 0..1."""
        total = self.waited + self.worked
        return self.waited / total if total else 0.0

    def report(self) -> str:
        """One line for the end of an epoch."""
        return (
            f"waited {self.waited:.1f} s for data ({100 * self.share:.1f} % of the time), "
            f"{self.batches} batches, {self.audio_seconds / 3600:.2f} h of audio"
        )
