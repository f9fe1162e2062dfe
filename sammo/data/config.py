"""Options of the data module."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sammo.corpora import find_corpus
from sammo.errors import UserError
from sammo.options import MOST_PROCESSES, Speech, check_range, option

if TYPE_CHECKING:
    from sammo.data.concatenation import LongForm

MOST_WORKERS = 8  # by default: about 20 audio hours a minute each, with noise and SpecAugment


@dataclass(frozen=True)
class DataConfig(Speech):
    """How batches are made of a corpus. Options have icefall's names where it has them."""

    transcript_mode: str = option("", "Transcript to learn, for CSJ fluent, disfluent or number; default: its own.")
    musan_dir: Path | None = option(None, "Directory with musan_cuts.jsonl.gz; default: --manifest-dir.")
    shar_dir: Path | None = option(None, "Directory of Shar shards to train from, written by local/make_shar.py.")
    max_duration: float = option(200.0, "Seconds of audio in a batch of one process.")
    min_duration: float = option(1.0, "Seconds; shorter cuts are left out of training. 0: none are.")
    max_cut_duration: float = option(20.0, "Seconds; longer cuts are left out of training. 0: none are.")
    num_buckets: int = option(30, "Most buckets of similar duration to draw batches from.")
    buffer_size: int = option(60000, "Cuts held in memory to shuffle and bucket; with Shar their data, too.")
    curriculum: str = option(
        "",
        "Short cuts first, EPOCHS:SECONDS,...: 8:2,4:4.5 is 8 epochs of cuts of at most 2 s, then 4 of cuts of at most "
        "4.5 s, then all cuts. Without alignments a model learns from short ones what sounds like what.",
    )
    shuffle: bool = option(True, "Shuffle the training cuts, differently in every epoch.")
    drop_last: bool = option(True, "Drop the incomplete batches at the end of an epoch.")
    speed_perturb: bool = option(False, "Train on the 0.9 and 1.1 speed copies, too.")
    on_the_fly_feats: bool = option(False, "Compute features from audio instead of reading stored ones.")
    enable_spec_aug: bool = option(True, "Use SpecAugment in training.")
    spec_aug_time_warp_factor: int = option(80, "Time-warping factor of SpecAugment; below 1: no warping.")
    enable_musan: bool = option(True, "Mix in noise in training, probability 0.5, 10 to 20 dB.")
    noise_only_share: float = option(
        0.0,
        "Share of the training utterances in whose place there is babble, noise or silence, with an empty transcript.",
    )
    leading_silence: float = option(
        0.0, "Most seconds of silence before a training utterance; batches grow by them, beyond --max-duration."
    )
    concatenate_cuts: bool = option(
        False, "Join the utterances of a batch, so that training goes through pauses with a state that is not empty."
    )
    duration_factor: float = option(1.0, "They become at most as long as this times the longest of the batch.")
    gap: float = option(1.0, "Seconds of silence between two; batches grow by them, beyond --max-duration.")
    long_form_from_epoch: int = option(
        1,
        "Epoch from which --noise-only-share, --leading-silence and --concatenate-cuts hold; before it a model learns "
        "from utterances alone.",
    )
    num_workers: int = option(
        -1,
        "Processes that make the batches; 0: the training process does. -1: as many as it has cores beside its own, "
        f"{MOST_WORKERS} at most.",
    )
    data_seed: int = option(0, "Seed of shuffling and augmentation.")

    def __post_init__(self) -> None:
        """UserError for values that cannot work."""
        if not 0 < self.max_duration < float("inf"):
            raise UserError(f"--max-duration must be above 0 seconds, got {self.max_duration}")
        check_range("--num-workers", max(self.num_workers, 0), 0, MOST_PROCESSES, "each is a process of this machine")
        if self.num_workers < -1 or self.num_buckets < 1 or self.buffer_size < 1:
            raise UserError("--num-workers must be at least -1, --num-buckets and --buffer-size at least 1")
        check_range("--noise-only-share", self.noise_only_share, 0, 0.9, "it is a share, and the others teach speech")
        check_range("--leading-silence", self.leading_silence, 0, 60, "it is seconds of silence in every utterance")
        check_range("--duration-factor", self.duration_factor, 1, 1000, "it is how often the longest utterance fits")
        check_range("--gap", self.gap, 0, 60, "it is seconds of silence in every row of a batch")
        bounds = {"--min-duration": self.min_duration, "--max-cut-duration": self.max_cut_duration}
        for name, value in bounds.items():
            if not 0 <= value < float("inf"):
                raise UserError(f"{name} must be seconds, 0 for no bound, got {value}")
        if 0 < self.max_cut_duration < self.min_duration:
            raise UserError(
                f"--min-duration {self.min_duration:g} is above --max-cut-duration {self.max_cut_duration:g}"
            )
        if self.long_form_from_epoch < 1:
            raise UserError(f"--long-form-from-epoch must be at least 1, the first, got {self.long_form_from_epoch}")
        self.longest(1)  # reads --curriculum
        find_corpus(self.manifest_dir, self.corpus)

    def workers(self) -> int:
        """Worker processes a loader: --num-workers, or what the cores of this machine allow."""
        if self.num_workers >= 0:
            return self.num_workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = os.environ.get("LOCAL_WORLD_SIZE", "")  # of torchrun; Slurm gives a task cores of its own
        share = cores // int(processes) if processes.isdigit() and int(processes) else cores
        return max(1, min(share - 1, MOST_WORKERS))

    def long_form(self, epoch: int | None = None) -> LongForm:
        """What ``epoch`` (from 1) has; None: the last ones."""
        from sammo.data.concatenation import Concatenation, LongForm  # loads PyTorch, which --help need not

        if epoch is not None and epoch < self.long_form_from_epoch:
            return LongForm()
        joined = Concatenation(self.duration_factor, self.gap) if self.concatenate_cuts else None
        return LongForm(self.noise_only_share, self.leading_silence, joined)

    def longest(self, epoch: int) -> float | None:
        """Seconds of the longest cuts of ``epoch`` (from 1), None for no limit; UserError for a wrong curriculum."""
        try:
            for stage in filter(None, self.curriculum.split(",")):
                epochs, seconds = stage.split(":")
                if int(epochs) < 1 or not float(seconds) > 0:
                    raise ValueError(stage)
                epoch -= int(epochs)
                if epoch < 1:
                    return float(seconds)
        except ValueError as error:
            raise UserError(f"--curriculum is EPOCHS:SECONDS,... such as 8:2,4:4.5, got {self.curriculum!r}") from error
        return None
