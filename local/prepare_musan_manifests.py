#!/usr/bin/env python3
"""Runs `lhotse prepare musan` and moves its manifests into place when all are complete.

Usage: local/prepare_musan_manifests.py --musan-dir DIR --manifest-dir DIR
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from sammo.data.manifests import read_recordings, write_cuts
from sammo.data.problems import brief
from sammo.errors import UserError, run_main

PARTS = ("music", "speech", "noise")


def prepare(musan_dir: Path, manifest_dir: Path) -> None:
    """Writes musan_recordings_{music,speech,noise}.jsonl.gz into ``manifest_dir``, all of them or none."""
    from lhotse.recipes.musan import prepare_musan

    musan_dir = musan_dir.resolve()
    for part in PARTS:
        if next((musan_dir / part).rglob("*.wav"), None) is None:
            raise UserError(f"no {part}/**/*.wav in the MUSAN directory {musan_dir}; pass --musan-dir")
    manifest_dir.mkdir(parents=True, exist_ok=True)
    for left in sorted(manifest_dir.glob(".musan-*/")):  # of a run that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=manifest_dir, prefix=".musan-") as scratch:
        try:
            prepare_musan(musan_dir, scratch, PARTS)
        except Exception as error:  # unreadable audio, malformed ANNOTATIONS
            raise UserError(f"lhotse prepare musan cannot read {musan_dir}: {brief(error)}") from error
        for part in PARTS:  # sorted: lhotse lists files as the file system does
            name = f"musan_recordings_{part}.jsonl.gz"
            write_cuts(manifest_dir / name, sorted(read_recordings(Path(scratch) / name), key=lambda item: item.id))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--musan-dir", type=Path, required=True)
    parser.add_argument("--manifest-dir", type=Path, required=True)
    args = parser.parse_args()
    prepare(args.musan_dir, args.manifest_dir)


if __name__ == "__main__":
    run_main(main)
