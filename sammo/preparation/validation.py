"""Checks of cut manifests: one supervision a cut, inside of the cut, with text; features of 80 bins, all of them stored."""

from __future__ import annotations

from pathlib import Path

from sammo.data.frames import FRAME_SHIFT, NUM_MEL_BINS, num_frames
from sammo.data.manifests import read_records, survey_manifests
from sammo.data.tokens import Tokenizer
from sammo.errors import UserError

TOLERANCE = 1e-3  # seconds


def check_cut(cut: dict, archives: dict[str, int]) -> str | None:
    """One line about what is wrong with ``cut``, None where nothing is. ``archives`` caches file sizes."""
    if len(cut.get("supervisions", [])) != 1:
        return f"{len(cut.get('supervisions', []))} supervisions, expected 1"
    supervision = cut["supervisions"][0]
    # Supervision times count from the start of the cut, which trimming may round.
    start, end = supervision["start"], supervision["start"] + supervision["duration"]
    if start < -TOLERANCE or end > cut["duration"] + TOLERANCE:
        return f"the supervision ({start} to {end} s) is outside of the cut ({cut['duration']} s)"
    return check_features(cut, archives)


def check_features(cut: dict, archives: dict[str, int]) -> str | None:
    """The same for the features of ``cut``."""
    features = cut.get("features")
    if features is None:
        return "no features"
    if features["num_features"] != NUM_MEL_BINS or abs(features["frame_shift"] - FRAME_SHIFT) > 1e-9:
        return f"{features['num_features']} bins every {features['frame_shift']} s, expected {NUM_MEL_BINS} every 0.01"
    if abs(features["num_frames"] - num_frames(cut["duration"])) > 1:
        return f"{features['num_frames']} frames for {cut['duration']} s"
    path = features["storage_path"]
    if features["storage_type"] != "lilcom_chunky":
        return None if (Path(path) / features["storage_key"]).is_file() else f"its features are missing from {path}"
    if path not in archives:
        archives[path] = Path(path).stat().st_size if Path(path).is_file() else -1
    # A key is the chunks' start and their lengths in bytes.
    if archives[path] < sum(map(int, features["storage_key"].split(","))):
        return f"its features are missing from {path}; remove the directory of that file and run prepare.sh again"
    return None


def validate(manifest: Path, tokenizer: Tokenizer | None, mode: str) -> str:
    """A line about the size of ``manifest`` and its unusable cuts; UserError with its first problem."""
    archives: dict[str, int] = {}
    ids: set[str] = set()
    speech = not manifest.name.startswith("musan_")
    for cut in read_records(manifest):
        problem = check_cut(cut, archives) if speech else check_features(cut, archives)
        if cut["id"] in ids:
            problem = "the id occurs twice"
        if problem:
            raise UserError(f"{manifest}: cut {cut['id']}: {problem}")
        ids.add(cut["id"])
    if not ids:
        raise UserError(f"{manifest} is empty")
    if not speech:
        return f"{manifest.name}: {len(ids)} cuts"
    return survey_manifests(manifest.name, [manifest], mode, tokenizer).report()
