#!/usr/bin/env python3
"""Looks for what would stop the preparation of CSJ, before lhotse reads it: absent ids, absent audio, broken text.

Usage: local/check_csj.py --csj-dir DIR [--nj N]
"""

from __future__ import annotations

import argparse
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sammo.errors import UserError, run_main
from sammo.options import processes
from sammo.progress import progress

VOLUMES = ("core", "noncore")
TIME, SPEAKER, SURFACE = 3, 2, 5  # columns of an SDB line
# What the parser of lhotse takes for a tag: ASCII characters after an opening bracket.
TAG = re.compile(r"\([ _]*([!-'*-+\--:<-^`-~]+)")
TIME_FIELD = re.compile(r"^\S+ \d+(\.\d+)?-\d+(\.\d+)? \S+$")


def check_layout(csj_dir: Path) -> list[Path]:
    """The SDB files of ``csj_dir``; UserError where ids of lhotse's lists or the audio of any id are missing."""
    from lhotse.recipes import csj

    hint = "--csj-dir is the directory that holds WAV and MORPH"
    if not csj_dir.is_dir():
        raise UserError(f"no CSJ directory {csj_dir}; {hint}")
    for part in ("WAV", "MORPH/SDB"):
        for volume in VOLUMES:
            if not (csj_dir / part / volume).is_dir():
                raise UserError(f"CSJ directory {csj_dir} is incomplete: no {part}/{volume}; {hint}")
    files = sorted(path for volume in VOLUMES for path in (csj_dir / "MORPH/SDB" / volume).glob("*.sdb"))
    wanted = [*csj._VALID, *csj._A01M0056, *(name for part in csj._EVAL for name in part)]
    present = {path.stem for path in files}
    missing = [name for name in wanted if name not in present]
    if missing:
        raise UserError(
            f"CSJ directory {csj_dir} is incomplete: {len(missing)} of the {len(wanted)} ids of the eval, excluded "
            f"and valid parts have no MORPH/SDB/*/ID.sdb: {_some(missing)}"
        )
    silent = [str(wav.relative_to(csj_dir)) for path in files for wav in audio_of(path, csj_dir) if not wav.is_file()]
    if silent:
        raise UserError(f"CSJ directory {csj_dir}: {len(silent)} audio files are missing: {_some(silent)}")
    if len(files) == len(wanted):
        raise UserError(f"CSJ directory {csj_dir} holds the eval, excluded and valid ids only: nothing to train on")
    return files


def audio_of(sdb: Path, csj_dir: Path) -> list[Path]:
    """The WAV files that belong to ``sdb``: two for a dialogue (id D...), one otherwise."""
    sides = ("-L", "-R") if sdb.stem.startswith("D") else ("",)
    return [csj_dir / "WAV" / sdb.parent.name / f"{sdb.stem}{side}.wav" for side in sides]


def check_sdb(path: Path) -> str | None:
    """One line about the first thing in ``path`` that cannot be read, None where there is none."""
    data = path.read_bytes()
    try:
        text = data.decode("shift_jis")
    except UnicodeDecodeError as error:
        return f"{path}, line {data.count(b'%c' % 10, 0, error.start) + 1}: not Shift-JIS ({error.reason})"
    if not text.strip():
        return f"{path} is empty"
    # Not splitlines: like lhotse, which takes only these for line ends.
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        problem = _check_line(line, path.stem)
        if problem:
            return f"{path}, line {number}: {problem}"
    return None


def _check_line(line: str, name: str) -> str | None:
    if not line:
        return None
    columns = line.strip().split("\t")
    if len(columns) <= TIME:
        return f"{len(columns)} columns, expected tab-separated morphology with times in column 4"
    if not TIME_FIELD.match(columns[TIME]):
        return f"column 4 is {columns[TIME]!r}, expected 'SEGMENT START-END CHANNEL:...'"
    if not columns[SPEAKER]:
        return "column 3 (speaker id) is empty"
    if name.startswith("D") and "L:" not in columns[TIME] and "R:" not in line:
        return f"a dialogue needs channel L: or R:, column 4 is {columns[TIME]!r}"
    surface = columns[SURFACE] if len(columns) > SURFACE else ""
    if "(" in surface:
        from lhotse.recipes import csj

        for noise in csj._REPLACEMENTS:
            surface = surface.replace(noise, "")
        known = {tag.rstrip(",") for tag in csj.DECISIONS}
        unknown = [tag for tag in TAG.findall(surface) if tag not in known]
        if unknown:
            return f"unknown tag {unknown[0]!r} in {columns[SURFACE]!r}; known: {' '.join(sorted(known))}"
    return None


def check_corpus(csj_dir: Path, nj: int = 1) -> int:
    """Checks layout and all transcripts with ``nj`` processes; returns the number of SDB files.

    Raises UserError with the first problem found.
    """
    files = check_layout(csj_dir)
    with ProcessPoolExecutor(nj) as pool:
        results = pool.map(check_sdb, files, chunksize=16)
        problems = [problem for problem in progress(results, len(files), "check SDB") if problem]
    if problems:
        more = f" (and {len(problems) - 1} more files with problems)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)
    return len(files)


def _some(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--csj-dir", type=Path, required=True)
    parser.add_argument("--nj", type=processes, default=1)
    args = parser.parse_args()
    print(f"{check_corpus(args.csj_dir, args.nj)} transcripts checked")


if __name__ == "__main__":
    run_main(main)
