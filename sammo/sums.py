"""Directories whose files have checksums, in a file that ``sha256sum -c`` reads."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Collection

from sammo.errors import UserError

SUMS = "SHA256SUMS"
LARGEST = 1 << 20  # bytes of it
_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\x00-\x1f]+)")


def write_sums(directory: Path) -> None:
    """Writes the checksums of all files below ``directory``."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / SUMS)
    lines = [f"{_sha256(path)}  {path.relative_to(directory).as_posix()}\n" for path in files]
    (directory / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(directory: Path, needed: Collection[str], advice: str, rest: bool = True) -> dict[str, str]:
    """Compares files with their checksums.

    Args:
      needed: files that must be listed.
      advice: what to do where something is wrong.
      rest: compare all that are listed, not only ``needed``.

    Returns:
      The sha256 of every file that is listed, in hex, by its name.

    Raises:
      UserError: a file is missing, damaged or not listed, or the list is no list of files below ``directory``.
    """
    sums = directory / SUMS
    if not sums.is_file():
        raise UserError(f"{directory} lacks {SUMS}: nothing tells whether its files are whole; {advice}")
    listed: dict[str, str] = {}
    for number, line in enumerate(read_text(sums, LARGEST, advice).splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None or Path(match[2]).is_absolute() or ".." in Path(match[2]).parts:
            raise UserError(f"{sums}, line {number}: not a checksum and the name of a file in the directory; {advice}")
        listed[match[2]] = match[1]
        if not rest and match[2] not in needed:
            continue
        file = directory / match[2]
        if not file.is_file():
            raise UserError(f"{directory} lacks {match[2]}; {advice}")
        if _sha256(file) != match[1]:
            raise UserError(f"{file} is damaged: its sha256 is not that in {SUMS}; {advice}")
    for name in sorted(set(needed) - listed.keys()):
        raise UserError(f"{sums} does not list {name}; {advice}")
    return listed


def read_text(path: Path, largest: int, advice: str) -> str:
    """The text in ``path``; UserError where it has more than ``largest`` bytes or is no UTF-8."""
    if path.stat().st_size > largest:
        raise UserError(f"{path} is larger than {largest >> 20} MiB, which it never is; {advice}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); {advice}") from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
