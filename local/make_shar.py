#!/usr/bin/env python3
"""Writes cuts and their features (or audio) as lhotse Shar shards, for file systems that dislike random reads.

Cuts are shuffled once over all manifests, so that a training buffer of a few shards is a mixture of speakers. The
speed-perturbed copies go into shards of their own, so that training can do without them.

Usage: local/make_shar.py --shar-dir data/shar --manifests data/fbank/csj_cuts_train*.jsonl.gz [--shard-size 1000]
    [--field features|recording] [--nj N]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sammo.data.manifests import read_cuts, write_cuts
from sammo.data.problems import brief
from sammo.data.sources import SHAR
from sammo.errors import UserError, run_main
from sammo.files import atomic_write
from sammo.options import processes
from sammo.progress import progress

if TYPE_CHECKING:
    from lhotse.cut import Cut

LAYOUT = "3"  # shards of another layout are written again
CODECS = {"features": "lilcom", "recording": "flac"}


def write_shard(job: tuple[int, list[Cut]], shar_dir: Path, field: str) -> dict | str:
    """Writes shard number job[0]; returns its entry for the index, or a line about what is wrong.

    The manifest is moved into place last: where it exists the shard is complete.
    """
    from lhotse.shar import SharWriter

    from sammo.data.shar import PLACES, is_speed_perturbed, places

    number, cuts = job
    entry = {"cuts": f"cuts.{number:06d}.jsonl.gz", field: f"{field}.{number:06d}.tar", "count": len(cuts)}
    entry["speed_perturbed"] = is_speed_perturbed(cuts[0].id)
    if (shar_dir / entry["cuts"]).is_file():
        return entry
    scratch = shar_dir / f".{number:06d}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    with SharWriter(
        scratch, fields={field: CODECS[field]}, shard_size=len(cuts), shard_offset=number, warn_unused_fields=False
    ) as writer:
        for cut in cuts:
            try:
                writer.write(cut.drop_recording() if field == "features" else cut.drop_features())
            except Exception as error:  # lilcom, libsndfile and file errors have no common base
                return f"the {field} of cut {cut.id} cannot be written: {brief(error)}"
    found = places(scratch / entry[field])
    written = list(read_cuts(scratch / entry["cuts"], SHAR))
    for cut in written:
        setattr(cut, "custom", {**(getattr(cut, "custom", None) or {}), PLACES: {field: found[cut.id]}})  # noqa: B010, Cut declares none
    os.replace(scratch / entry[field], shar_dir / entry[field])
    write_cuts(shar_dir / entry["cuts"], written)
    shutil.rmtree(scratch)
    return entry


def make_shar(manifests: list[Path], shar_dir: Path, shard_size: int, field: str, nj: int) -> int:
    """Writes all shards and index.json, the latter when everything else is there; returns the number of shards."""
    from sammo.data.shar import INDEX, is_speed_perturbed

    cuts: list[Cut] = []
    for manifest in manifests:
        if not manifest.is_file():
            raise UserError(f"no {manifest}; run prepare.sh first")
        cuts.extend(read_cuts(manifest))
    if not cuts:
        raise UserError(f"no cuts in {', '.join(map(str, manifests))}")
    if shard_size < 1:
        raise UserError(f"--shard-size must be at least 1, got {shard_size}")
    random.Random(0).shuffle(cuts)
    groups = [[cut for cut in cuts if is_speed_perturbed(cut.id) == copies] for copies in (False, True)]
    ids = [cut.id for group in groups for cut in group]
    key = hashlib.sha256("\n".join([LAYOUT, field, str(shard_size), *ids]).encode()).hexdigest()
    key_file = shar_dir / ".key"
    if not (key_file.is_file() and key_file.read_text(encoding="ascii") == key):
        # Shards of other cuts: only what this script writes is removed.
        for pattern in ("cuts.*.jsonl.gz", "features.*.tar", "recording.*.tar", INDEX):
            for path in shar_dir.glob(pattern):
                path.unlink()
    shar_dir.mkdir(parents=True, exist_ok=True)
    key_file.write_text(key, encoding="ascii")
    pieces = [group[start : start + shard_size] for group in groups for start in range(0, len(group), shard_size)]
    jobs = list(enumerate(pieces))
    shards = []
    with ProcessPoolExecutor(nj) as pool:
        for entry in progress(pool.map(partial(write_shard, shar_dir=shar_dir, field=field), jobs), len(jobs), "Shar"):
            if isinstance(entry, str):
                raise UserError(entry)
            shards.append(entry)
    with atomic_write(shar_dir / INDEX) as file:
        file.write(json.dumps({"shards": shards}, indent=1) + "\n")
    return len(shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--manifests", type=Path, nargs="+", required=True)
    parser.add_argument("--shar-dir", type=Path, required=True)
    parser.add_argument("--shard-size", type=int, default=1000, help="Cuts in a shard.")
    parser.add_argument("--field", choices=sorted(CODECS), default="features", help="What to store beside the cuts.")
    parser.add_argument("--nj", type=processes, default=1)
    args = parser.parse_args()
    count = make_shar(args.manifests, args.shar_dir, args.shard_size, args.field, args.nj)
    print(f"{args.shar_dir}: {count} shards")


if __name__ == "__main__":
    run_main(main)
