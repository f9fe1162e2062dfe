"""What a manifest may name: files that are read as data, and nothing that runs.

lhotse reads more than that: a recording's source may be a shell command, a path that begins with "pipe:" is one, too,
SPHERE and Opus files are handed to a shell by name, and some storage types of features are pickles. Whoever can write
a manifest could then run programs as whoever reads it. Every reader of cuts therefore asks the functions below, which
know what is allowed and refuse the rest; see docs/security.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable

STORAGE = ("lilcom_chunky", "lilcom_files", "numpy_files")  # read without pickle
TRANSFORMS = ("Speed", "Tempo", "Resample", "Volume")  # arithmetic on samples, no files
FACTORS = (0.1, 10.0)  # of Speed and Tempo
CUTS = ("MonoCut", "MultiCut")
LONGEST = 1e6  # seconds of a cut: 11 days
LONGEST_PATH = 4096  # characters
CHUNKS = re.compile(r"\d{1,15}(,\d{1,15})*", re.ASCII)  # offset of the first, lengths in bytes
URL = re.compile(r"https?://[^\s\x00-\x1f]+")
# lhotse puts the names of these files into a command line, some of them without quotes.
SHELLED = (".sph", ".opus")
PLAIN_NAME = re.compile(r"[\w./+:=@%,][\w./+:=@%,-]*", re.ASCII)


@dataclass(frozen=True)
class Allowed:
    """Sources beside plain files: ``urls`` of http and https; ``shar``, placeholders that a Shar archive fills."""

    urls: bool = False
    shar: bool = False


FILES = Allowed()
SHAR = Allowed(shar=True)


def check_cut(cut: Any, allowed: Allowed = FILES) -> str | None:
    """What is wrong with ``cut`` (a JSON value): not a cut of one recording, or naming what is not allowed; or None."""
    if not isinstance(cut, dict):
        return f"not a cut but {_kind(cut)}"
    if not is_name(cut.get("id")):
        return f"its id is {_short(cut.get('id'))}, not a line of text"
    if cut.get("type") not in CUTS:
        return f"its type is {_short(cut.get('type'))}, not {' or '.join(CUTS)}"
    if not _in_range(cut.get("duration"), 0, LONGEST) or not cut["duration"]:
        return f"its duration is {_short(cut.get('duration'))}, not above 0 and at most {LONGEST:.0f} s"
    if not _in_range(cut.get("start"), 0, LONGEST):
        return f"its start is {_short(cut.get('start'))}, not 0 to {LONGEST:.0f} s"
    if not _is_channel(cut.get("channel")):
        return f"its channel is {_short(cut.get('channel'))}"
    supervisions = cut.get("supervisions", [])
    if not isinstance(supervisions, list):
        return f"its supervisions are {_kind(supervisions)}, not a list"
    problem = next(filter(None, map(check_supervision, supervisions)), None)
    for name, check in (("recording", check_recording), ("features", check_features)):
        if not problem and name in cut:
            problem = check(cut[name], allowed)
    return problem or _nested(cut.get("custom"), allowed)


def check_supervision(segment: Any, allowed: Allowed = FILES) -> str | None:
    """The same for a supervision."""
    if not isinstance(segment, dict):
        return f"a supervision is {_kind(segment)}"
    for name in ("id", "recording_id"):
        if not is_name(segment.get(name)):
            return f"the {name} of a supervision is {_short(segment.get(name))}, not a line of text"
    for name in ("start", "duration"):
        if not _in_range(segment.get(name), -LONGEST, LONGEST):
            return f"the {name} of its supervision is {_short(segment.get(name))}, not a number of seconds"
    for name in ("text", "speaker", "language", "gender"):
        if not isinstance(segment.get(name), (str, type(None))):
            return f"the {name} of its supervision is {_kind(segment[name])}"
    if not isinstance(segment.get("custom"), (dict, type(None))):
        return f"the custom fields of its supervision are {_kind(segment['custom'])}"
    return _nested(segment.get("custom"), allowed)


def check_recording(recording: Any, allowed: Allowed = FILES) -> str | None:
    """The same for a recording."""
    if not isinstance(recording, dict):
        return f"its recording is {_kind(recording)}"
    if not is_name(recording.get("id")):
        return f"the id of its recording is {_short(recording.get('id'))}, not a line of text"
    sources = recording.get("sources")
    if not isinstance(sources, list) or not sources:
        return f"its recording's sources are {_short(sources)}"
    for name, most in (("duration", LONGEST), ("sampling_rate", 768_000), ("num_samples", 1e12)):
        if not _in_range(recording.get(name), 0, most) or not recording[name]:
            return f"the {name} of its recording is {_short(recording.get(name))}"
    return next(filter(None, (_source(source, allowed) for source in sources)), None) or _transforms(
        recording.get("transforms", [])
    )


def check_features(features: Any, allowed: Allowed = FILES) -> str | None:
    """The same for stored features and, of their fields, for those of an array."""
    if not isinstance(features, dict):
        return f"its features are {_kind(features)}"
    for name in ("num_frames", "num_features", "frame_shift", "start", "duration"):
        if not _in_range(features.get(name), 0, 1e12):
            return f"the {name} of its features is {_short(features.get(name))}"
    return _storage(features, allowed)


def _source(source: Any, allowed: Allowed) -> str | None:
    if not isinstance(source, dict):
        return f"a source of its recording is {_kind(source)}"
    kind, place = source.get("type"), source.get("source")
    if kind == "command":
        return f"its recording is a command to run ({_short(place)}); refused"
    if kind == "shar" and allowed.shar:
        return None
    if kind == "url":
        return _url(place, allowed)
    if kind != "file":
        return f"its recording is of type {_short(kind)}; only files are read"
    return _path(place, "its recording")


def _storage(array: dict, allowed: Allowed) -> str | None:
    kind = array.get("storage_type")
    if kind == "shar" and allowed.shar:
        return None
    if not isinstance(array.get("storage_key"), str):
        return f"the storage_key of its features is {_short(array.get('storage_key'))}"
    if kind == "lilcom_url":
        return _url(array.get("storage_path"), allowed)
    if kind == "lilcom_chunky" and not CHUNKS.fullmatch(array["storage_key"]):
        return f"the storage_key of its features is {_short(array['storage_key'])}, not the places of chunks"
    if kind not in STORAGE:
        return f"its features are stored as {_short(kind)}; only {', '.join(STORAGE)} are read"
    return _path(array.get("storage_path"), "its features")


def _url(place: Any, allowed: Allowed) -> str | None:
    if not allowed.urls:
        return f"its data is at {_short(place)}; pass --allow-urls true to read from the network"
    if not isinstance(place, str) or not URL.fullmatch(place):
        return f"{_short(place)} is not an http or https URL"
    return None


def _path(path: Any, what: str) -> str | None:
    if not isinstance(path, str) or not path or "\0" in path or len(path) > LONGEST_PATH:
        return f"the path of {what} is {_short(path)}"
    if path.startswith("pipe:"):
        return f"{what} would be read from a command ({_short(path)}); refused"
    if "://" in path:
        return f"the path of {what} is a URL ({_short(path)}) but not marked as one"
    if path.lower().endswith(SHELLED) and not PLAIN_NAME.fullmatch(path):
        return f"the name of {what} has characters that a shell would act on ({_short(path)}); rename the file"
    return None


def _transforms(transforms: Any) -> str | None:
    if not isinstance(transforms, list):
        return f"the transforms of its recording are {_kind(transforms)}"
    for transform in transforms:
        name = transform.get("name") if isinstance(transform, dict) else None
        arguments = transform.get("kwargs") if isinstance(transform, dict) else None
        if name not in TRANSFORMS or not isinstance(arguments, dict):
            return f"a transform of its recording is {_short(transform)}; only {', '.join(TRANSFORMS)} are known"
        if not all(_in_range(value, 0, 768_000) for value in arguments.values() if not isinstance(value, bool)):
            return f"the transform {name} of its recording has arguments {_short(arguments)}"
        if name in ("Speed", "Tempo") and not _in_range(arguments.get("factor"), *FACTORS):
            return f"the factor of the transform {name} of its recording is {_short(arguments.get('factor'))}"
    return None


def _nested(value: Any, allowed: Allowed) -> str | None:
    """Recordings and arrays among custom fields, which lhotse turns into objects of their own."""
    if isinstance(value, list):
        return next(filter(None, (_nested(item, allowed) for item in value)), None)
    if not isinstance(value, dict):
        return None
    if "sources" in value:
        return check_recording(value, allowed)
    if "storage_type" in value or "storage_path" in value:
        return _storage(value, allowed)
    return next(filter(None, (_nested(item, allowed) for item in value.values())), None)


CHECKS: dict[str, Callable[[Any, Allowed], str | None]] = {
    "cut": check_cut,
    "recording": check_recording,
    "supervision": check_supervision,
    "features": check_features,
}


def is_name(value: Any) -> bool:
    """Whether ``value`` can be an id: a line of text."""
    return isinstance(value, str) and 0 < len(value) <= 1000 and value.isprintable()


def _is_channel(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(item, int) and 0 <= item < 1000 for item in values)


def _in_range(value: Any, least: float, most: float) -> bool:
    # Comparisons, because math.isfinite fails for an integer of 400 digits; NaN is in no range.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _short(value: Any) -> str:
    text = repr(value) if value is not None else "missing"
    return text if len(text) <= 80 else text[:77] + "..."
