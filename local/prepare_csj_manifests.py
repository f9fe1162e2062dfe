#!/usr/bin/env python3
"""Runs `lhotse prepare csj` on a checked corpus and moves its manifests into place when all are complete.

Usage: local/prepare_csj_manifests.py --csj-dir DIR --transcript-dir DIR --manifest-dir DIR [--nj N]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from check_csj import check_corpus

from sammo.data.manifests import read_recordings, read_records, read_supervisions, write_cuts
from sammo.data.problems import brief
from sammo.errors import UserError, run_main
from sammo.options import processes

PARTS = ("eval1", "eval2", "eval3", "excluded", "valid", "core", "noncore")


def prepare(csj_dir: Path, transcript_dir: Path, manifest_dir: Path, nj: int) -> None:
    """Writes csj_{recordings,supervisions}_PART.jsonl.gz into ``manifest_dir``, all of them or none."""
    from lhotse.recipes.csj import prepare_csj

    csj_dir = csj_dir.resolve()  # lhotse notes the audio's paths as they are given
    check_corpus(csj_dir, nj)
    # lhotse sorts copies of the transcripts into directories by part and cannot go on with a half-sorted one.
    if transcript_dir.exists():
        shutil.rmtree(transcript_dir)
    manifest_dir.mkdir(parents=True, exist_ok=True)
    for left in sorted(manifest_dir.glob(".csj-*/")):  # of a run that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=manifest_dir, prefix=".csj-") as scratch:
        try:
            prepare_csj(csj_dir, transcript_dir.resolve(), scratch, nj=nj)
        except Exception as error:  # lhotse's recipe raises bare ones, asserts and decoding errors
            raise UserError(f"lhotse prepare csj cannot read {csj_dir}: {brief(error)}") from error
        counts = {}
        for part in PARTS:
            path = Path(scratch) / f"csj_supervisions_{part}.jsonl.gz"
            counts[part] = sum(1 for _ in read_records(path, "supervision")) if path.is_file() else 0
        empty = [part for part in PARTS if not counts[part] and part not in ("core", "noncore")]
        if not counts["core"] + counts["noncore"]:
            empty.append("core + noncore (train)")
        if empty:
            raise UserError(f"no utterance in part {', '.join(empty)} of {csj_dir}")
        # lhotse lists files as the file system does and takes talks as its processes end.
        for path in sorted(Path(scratch).iterdir()):
            read = read_recordings if "recordings" in path.name else read_supervisions
            write_cuts(manifest_dir / path.name, sorted(read(path), key=lambda item: item.id))
    print("utterances: " + ", ".join(f"{part} {count}" for part, count in counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--csj-dir", type=Path, required=True)
    parser.add_argument("--transcript-dir", type=Path, required=True, help="Copies of the transcripts; overwritten.")
    parser.add_argument("--manifest-dir", type=Path, required=True)
    parser.add_argument("--nj", type=processes, default=1)
    args = parser.parse_args()
    prepare(args.csj_dir, args.transcript_dir, args.manifest_dir, args.nj)


if __name__ == "__main__":
    run_main(main)
