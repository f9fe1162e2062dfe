"""80-bin log-Mel filter-bank features, read from disk or computed on the fly by lhotse."""

from __future__ import annotations

import os
from typing import Iterable

import numpy as np
import torch
from lhotse import Fbank, FbankConfig
from lhotse.audio.backend import LibsndfileBackend, set_current_audio_backend
from lhotse.cut import Cut, MixedCut
from lhotse.cut.data import DataCut

from sammo.data.frames import NUM_MEL_BINS, SAMPLING_RATE, num_frames
from sammo.data.problems import brief, wrong_rate
from sammo.data.whole import shortfall
from sammo.errors import UserError
from sammo.geometry import PADDING_VALUE

# By default lhotse tries one reader after the other on a file that libsndfile cannot read, some of which start programs.
set_current_audio_backend(LibsndfileBackend())


def make_extractor() -> Fbank:
    """lhotse's Fbank as the whole recipe uses it: 80 bins, 16 kHz, 25 ms windows every 10 ms."""
    return Fbank(FbankConfig(sampling_rate=SAMPLING_RATE, num_mel_bins=NUM_MEL_BINS))


def collate_precomputed(cuts: Iterable[Cut]) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads the stored features of ``cuts`` -> features (N, T, 80) float32, padded with silence, lengths (N,) int64.

    Mixed cuts (noise added by CutMix) are mixed here, in the feature domain.
    """
    return _pad([torch.from_numpy(_load(cut)) for cut in cuts])


def collate_on_the_fly(cuts: Iterable[Cut], extractor: Fbank) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads the audio of ``cuts``, mixes it in the time domain and computes features; shapes as above."""
    return _pad([torch.from_numpy(_compute(cut, extractor)) for cut in cuts])


def _load(cut: Cut):
    if not cut.has_features:
        raise UserError(f"cut {cut.id} has no stored features; run prepare.sh or use --on-the-fly-feats true")
    for part in _parts(cut):
        if part.features is not None and part.features.storage_type == "lilcom_chunky":
            _check_file("features", part.id, part.features.storage_path)
    try:
        features = cut.load_features()
    except Exception as error:  # lilcom, tar and file errors have no common base
        raise UserError(
            f"the features of cut {cut.id} cannot be read from {_source(cut, audio=False)} ({brief(error)}); "
            "remove that file and run prepare.sh again"
        ) from error
    frames = num_frames(cut.duration)
    if features.ndim != 2 or features.shape[1] != NUM_MEL_BINS or abs(len(features) - frames) > 1:
        problem = f"have shape {features.shape}, expected {(frames, NUM_MEL_BINS)}"
    elif not np.isfinite(features).all():
        problem = "hold values that are no numbers"
    else:
        return features
    raise UserError(f"the features of cut {cut.id} {problem}; remove {_source(cut, audio=False)}, run prepare.sh again")


def _compute(cut: Cut, extractor: Fbank):
    audio = load_audio(cut)
    try:
        return extractor.extract(audio, cut.sampling_rate)
    except Exception as error:  # another sampling rate, more than one channel, hardly any samples
        raise UserError(f"no features of cut {cut.id}, audio of shape {audio.shape}: {brief(error)}") from error


def load_audio(cut: Cut):
    """Samples (channels, S) of ``cut`` at 16 kHz in [-1, 1]; UserError where they cannot be read."""
    if not cut.has_recording:
        raise UserError(f"cut {cut.id} has no recording, so its features cannot be computed on the fly")
    for part in _parts(cut):
        if part.recording is None:
            continue
        if part.sampling_rate != SAMPLING_RATE:
            raise UserError(wrong_rate(part.id, part.sampling_rate))
        for path in [str(source.source) for source in part.recording.sources if source.type == "file"]:
            _check_file("audio", part.id, path)
            lacking = shortfall(path)
            if lacking:
                raise UserError(f"the audio of cut {part.id}, {path}, is cut short: {lacking}; copy it again")
    try:
        return cut.load_audio()
    except Exception as error:  # lhotse's back-ends have no common error
        place = _source(cut, audio=True)
        raise UserError(f"the audio of cut {cut.id} cannot be read from {place} ({brief(error)})") from error


def _parts(cut: Cut) -> list[DataCut]:
    """The cuts that ``cut`` is mixed from, padding left out, or itself."""
    parts = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    return [part for part in parts if isinstance(part, DataCut)]


def _check_file(kind: str, cut_id: str, path: str) -> None:
    """UserError where a pipe, a device or a directory would be read in place of a file, which may never end."""
    if not os.path.isfile(path):
        what = "not a regular file" if os.path.exists(path) else "missing"
        raise UserError(f"the {kind} of cut {cut_id} cannot be read from {path}, which is {what}; run prepare.sh again")


def _source(cut: Cut, audio: bool) -> str:
    first = _parts(cut)[0]
    shard = getattr(first, "shard_origin", None)
    if shard is not None:
        return f"the shard of {shard}"
    if audio:
        assert first.recording is not None
        return str(first.recording.sources[0].source)
    assert first.features is not None
    return str(first.features.storage_path)


def _pad(matrices: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([matrix.size(0) for matrix in matrices], dtype=torch.int64)
    batch = torch.full((len(matrices), int(lengths.max()), matrices[0].size(1)), PADDING_VALUE)
    for row, matrix in zip(batch, matrices):
        row[: matrix.size(0)] = matrix
    return batch, lengths
