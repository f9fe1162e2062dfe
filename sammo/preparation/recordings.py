"""Recordings and their transcripts in a folder or a table, and which of them cannot be used why."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path
from typing import Any, Iterator, NamedTuple

from sammo.data.sources import is_name
from sammo.errors import UserError
from sammo.files import parse_json

AUDIO = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".snd", ".w64", ".caf", ".rf64"}
# What sounds but is not read: without a header, or in a container that libsndfile does not know.
OTHER_AUDIO = {".raw", ".pcm", ".m4a", ".mp4", ".aac", ".wma", ".webm", ".amr", ".3gp", ".mkv", ".sph"}
TABLES = {".tsv", ".csv", ".jsonl"}
COLUMNS = ("path", "text", "speaker", "part")
PARTS = {"dev": "valid", "validation": "valid", "training": "train"}  # as others call them
LARGEST_TEXT = 1 << 16  # bytes of one transcript
LONGEST_LINE = 1 << 20  # characters of a line of a table


class Utterance(NamedTuple):
    """A recording and what is said in it; speaker and part may be ""."""

    id: str
    path: Path
    text: str
    speaker: str = ""
    part: str = ""


class Unusable(NamedTuple):
    """A file or a line that is left out."""

    path: str
    reason: str


def find_utterances(source: Path) -> tuple[list[Utterance], list[Unusable]]:
    """The utterances of a folder or of a table, by id, and what is not one.

    Raises:
      UserError: ``source`` is neither, or there is no utterance in it.
    """
    if source.is_dir():
        found = list(_in_folder(source))
    elif source.suffix.lower() in TABLES and source.is_file():
        found = list(_in_table(source))
    elif source.is_file():
        raise UserError(f"{source} is no table: give a .tsv, .csv or .jsonl with columns path and text, or a folder")
    else:
        raise UserError(f"no folder or table {source}")
    utterances: dict[str, Utterance] = {}
    unusable = [item for item in found if isinstance(item, Unusable)]
    for item in found:
        if isinstance(item, Unusable):
            continue
        if item.id in utterances:
            unusable.append(Unusable(str(item.path), f"{utterances[item.id].path.name} has the same name"))
        else:
            utterances[item.id] = item
    if not utterances:
        first = f", {unusable[0].path} for one: {unusable[0].reason}" if unusable else ""
        raise UserError(f"{source} holds no recording with a transcript ({len(unusable)} files were left out{first})")
    return [utterances[key] for key in sorted(utterances)], unusable


def _in_folder(folder: Path) -> Iterator[Utterance | Unusable]:
    """Audio files with a .txt of the same name beside them; the first folder on the way to one is its speaker."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    sounding = {path.with_suffix("") for path in files if path.suffix.lower() in AUDIO | OTHER_AUDIO}
    for path in files:
        kind = path.suffix.lower()
        relative = path.relative_to(folder)
        if kind == ".txt" and path.with_suffix("") not in sounding:
            yield Unusable(str(path), "no audio beside it")
        if kind in OTHER_AUDIO:
            yield Unusable(str(path), f"{kind} is not read; convert it to WAV or FLAC")
        if kind in AUDIO:
            text = _read_text(path.with_suffix(".txt"))
            speaker = relative.parts[0] if len(relative.parts) > 1 else ""
            yield text if isinstance(text, Unusable) else _utterance(relative, path, text, speaker, "")


def _read_text(path: Path) -> str | Unusable:
    if not path.is_file():
        return Unusable(str(path), "there is no such transcript")
    if path.stat().st_size > LARGEST_TEXT:
        return Unusable(str(path), f"it is larger than {LARGEST_TEXT >> 10} KiB, too large for one utterance")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return Unusable(str(path), f"it is not UTF-8 (byte {error.start})")


def _in_table(table: Path) -> Iterator[Utterance | Unusable]:
    """Lines with path and text, and speaker and part where there are such columns; paths count from the table."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            for number, row in _rows(table, file):
                values = {name: row.get(name) for name in COLUMNS}
                values = {name: "" if value is None else value for name, value in values.items()}
                odd = next((name for name, value in values.items() if not isinstance(value, (str, int))), None)
                if odd or not values["path"]:
                    yield Unusable(f"{table.name}, line {number}", f"its {odd} is no text" if odd else "it has no path")
                    continue
                path, text, speaker, part = (str(values[name]) for name in COLUMNS)
                yield _utterance(Path(path), table.parent / path, text, speaker.strip(), PARTS.get(part, part.strip()))
    except UnicodeDecodeError as error:
        raise UserError(f"{table} is not UTF-8 (byte {error.start})") from error
    except (csv.Error, ValueError, RecursionError) as error:
        raise UserError(f"{table} is no table: {error}") from error


def _rows(table: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    if table.suffix.lower() == ".jsonl":
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), ""), start=1):
            row = parse_json(line) if line.strip() else None
            if row is not None and not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
            if row is not None:
                yield number, row
        return
    # A quotation mark in a .tsv is one; in a .csv it may hold commas.
    style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if table.suffix.lower() == ".tsv" else {}
    reader = csv.DictReader(file, **style)
    columns = reader.fieldnames or []
    lacking = [name for name in ("path", "text") if name not in columns]
    if lacking:
        raise ValueError(f"its first line names no column {' and '.join(lacking)}, only {', '.join(columns)[:200]}")
    for row in reader:
        yield reader.line_num, row


def _utterance(relative: Path, path: Path, text: str, speaker: str, part: str) -> Utterance | Unusable:
    """Texts are brought to one Unicode form (NFC) and one space between words."""
    if path.suffix.lower() not in AUDIO:
        return Unusable(str(path), f"{path.suffix or 'a file without a suffix'} is not read; convert it to WAV or FLAC")
    # Ids are names of files below the corpus, too: nothing in them leads out of it.
    name = "/".join(part for part in relative.with_suffix("").parts if part not in ("..", relative.anchor))
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if not is_name(name) or not is_name(speaker or "-"):
        return Unusable(str(path), "its name or speaker is no line of text; rename it")
    if not text:
        return Unusable(str(path), "its transcript is empty")
    if not text.isprintable():
        return Unusable(str(path), "its transcript holds control characters")
    if not path.is_file():
        return Unusable(str(path), "there is no such file")
    return Utterance(name, path, text, speaker, part)
