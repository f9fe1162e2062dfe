"""A corpus for training and decoding: the loaders of its parts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lhotse import CutSet

from sammo.corpora import Corpus, find_corpus
from sammo.data.augmentation import NoiseMixer, make_spec_augment
from sammo.data.concatenation import LongForm
from sammo.data.config import DataConfig
from sammo.data.cuts import Cuts, ManifestCuts
from sammo.data.dataset import BatchLoader, SpeechDataset
from sammo.data.features import SAMPLING_RATE, make_extractor
from sammo.data.manifests import Survey, read_cuts, survey_manifests
from sammo.data.problems import wrong_rate
from sammo.data.quiet import Quiet
from sammo.data.sampling import FixedSampler, TrainSampler
from sammo.data.shar import SharCuts, shar_manifests
from sammo.data.sources import SHAR, Allowed
from sammo.data.tokens import Tokenizer
from sammo.errors import UserError
from sammo.options import plain_values


def check_units(corpus: Corpus, tokenizer: Tokenizer) -> None:
    """UserError for units that lose the spaces of a corpus that is scored by words."""
    if corpus.has_words and not tokenizer.has_words:
        raise UserError(
            f"{corpus.name} has words, but its units have no space between them; "
            "make them with the option --words of local/prepare_lang_char.py or local/train_bpe_model.py"
        )


class CsjDataModule:
    """Makes the loaders. Manifests are surveyed once each, and what is left out is logged."""

    def __init__(self, config: DataConfig, tokenizer: Tokenizer):
        self.config = config
        self.corpus: Corpus = find_corpus(config.manifest_dir, config.corpus)
        self.metric = self.corpus.metric
        self.mode = config.transcript_mode or self.corpus.default_mode
        self.tokenizer = tokenizer
        check_units(self.corpus, tokenizer)
        self.allowed = Allowed(urls=config.allow_urls)
        self._surveys: dict[str, Survey] = {}
        self._noise: CutSet | None = None

    def train_survey(self, epoch: int | None = None) -> Survey:
        """Number of cuts, hours and what is left out of the training part, or of its share that ``epoch`` trains on."""
        longest = None if epoch is None else self.config.longest(epoch)
        key = "train" if longest is None else f"train cuts of at most {longest:g} s"
        if key not in self._surveys:
            self._surveys[key] = survey_manifests(
                key,
                self._train_paths(),
                self.mode,
                self.tokenizer,
                longest=longest,
                allowed=self.allowed if self.config.shar_dir is None else SHAR,
                bounds=(self.config.min_duration, self.config.max_cut_duration),
            )
        return self._surveys[key]

    def options(self) -> dict[str, Any]:
        """What decides the training batches, to be kept in checkpoints: options, and a fingerprint of the cuts."""
        values = {"transcript_mode": self.mode, "train_cuts": self.train_survey().fingerprint}
        return {**plain_values(self.config), **values}

    def long_form(self, epoch: int | None = None) -> LongForm:
        """What ``epoch`` has of it; None: the last ones."""
        return self.config.long_form(epoch)

    def audio_seconds(self, epoch: int) -> float:
        """Audio that ``epoch`` trains on."""
        return self.train_survey(epoch).seconds

    def train_dataloader(
        self,
        epoch: int,
        sampler_state: dict[str, Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> BatchLoader:
        """The augmented batches of ``epoch`` for ``rank``; a function of the options, epoch and rank alone.

        Its length is an estimate of the number of batches in the whole epoch.

        Args:
          epoch: from 1.
          sampler_state: ``loader.sampler.state_dict()`` of an interrupted epoch, whose remaining batches come.
          rank, world_size: this process among all.
        """
        config = self.config
        survey = self.train_survey(epoch)
        if config.shar_dir is None:
            cuts: Cuts = ManifestCuts(self._train_paths(), survey, self.allowed)
        else:
            cuts = SharCuts(config.shar_dir, survey, epoch, config.data_seed, config.shuffle, config.speed_perturb)
        sampler = TrainSampler(
            cuts,
            survey,
            epoch=epoch,
            max_duration=config.max_duration,
            num_buckets=config.num_buckets,
            buffer_size=config.buffer_size,
            shuffle=config.shuffle,
            drop_last=config.drop_last,
            seed=config.data_seed,
            rank=rank,
            world_size=world_size,
        )
        if sampler_state is not None:
            sampler.load_state_dict(sampler_state)
        extractor = make_extractor() if config.on_the_fly_feats else None
        share, leading, concatenation = self.long_form(epoch)
        quiet = None
        if share or leading:
            recorded = list(self._noise_cuts()) if config.enable_musan else []
            quiet = Quiet(share, leading, recorded, extractor)
        dataset = SpeechDataset(
            cuts,
            self.tokenizer,
            self.mode,
            extractor=extractor,
            quiet=quiet,
            concatenation=concatenation,
            noise=NoiseMixer(self._noise_cuts()) if config.enable_musan else None,
            spec_augment=make_spec_augment(config.spec_aug_time_warp_factor) if config.enable_spec_aug else None,
        )
        return BatchLoader(dataset, sampler, config.workers(), on_batch=sampler.advance)

    def valid_dataloader(self, rank: int = 0, world_size: int = 1) -> BatchLoader:
        """The validation part without augmentation, each cut once over all ranks; ranks may differ by one batch."""
        return self._fixed_loader(self.corpus.valid, False, rank, world_size)

    def test_dataloader(self, part: str, rank: int = 0, world_size: int = 1) -> BatchLoader:
        """A part to decode, every cut that has text, longest first."""
        return self._fixed_loader(part, True, rank, world_size)

    def _fixed_loader(self, part: str, keep_long_texts: bool, rank: int, world_size: int) -> BatchLoader:
        paths = [self.corpus.manifest_path(self.config.manifest_dir, part)]
        key = f"{part}/{keep_long_texts}"
        if key not in self._surveys:
            self._surveys[key] = survey_manifests(
                part, paths, self.mode, self.tokenizer, keep_long_texts, allowed=self.allowed
            )
        cuts = ManifestCuts(paths, self._surveys[key], self.allowed)
        sampler = FixedSampler(cuts, self.config.max_duration, rank, world_size)
        extractor = make_extractor() if self.config.on_the_fly_feats else None
        dataset = SpeechDataset(cuts, self.tokenizer, self.mode, extractor)
        return BatchLoader(dataset, sampler, self.config.workers())

    def _train_paths(self) -> list[Path]:
        if self.config.shar_dir is not None:
            return shar_manifests(self.config.shar_dir, self.config.speed_perturb)
        suffixes = ["", "_sp0.9", "_sp1.1"] if self.config.speed_perturb else [""]
        return [self.corpus.manifest_path(self.config.manifest_dir, self.corpus.train + suffix) for suffix in suffixes]

    def _noise_cuts(self) -> CutSet:
        if self._noise is None:
            path = (self.config.musan_dir or self.config.manifest_dir) / "musan_cuts.jsonl.gz"
            if not path.is_file():
                raise UserError(f"no {path} for noise mixing; run prepare.sh or pass --enable-musan false")
            cuts = list(read_cuts(path, self.allowed))
            if not cuts:
                raise UserError(f"{path} holds no noise; run prepare.sh again or pass --enable-musan false")
            for cut in cuts:
                if cut.sampling_rate != SAMPLING_RATE:
                    raise UserError(f"{path}: {wrong_rate(cut.id, cut.sampling_rate)}")
            self._noise = CutSet(cuts)
            logging.info(f"noise: {len(cuts)} cuts from {path}")
        return self._noise
