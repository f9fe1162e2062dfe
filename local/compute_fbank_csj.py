#!/usr/bin/env python3
"""Cuts CSJ into utterances and computes 80-bin Fbank, the speed-perturbed training copies in manifests of their own.

Utterances are lhotse's segments joined while the gap is below 1 s and the whole below 10 s, in all parts, as in the
original experiments.

Usage: local/compute_fbank_csj.py --manifest-dir DIR --fbank-dir DIR [--nj N] [--perturb-speed true|false]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sammo.corpora import CSJ, write_marker
from sammo.data.manifests import read_recordings, read_supervisions
from sammo.errors import UserError, run_main
from sammo.options import parse_bool, processes

if TYPE_CHECKING:
    from lhotse.cut import Cut

PARTS = {
    "eval1": ("eval1",),
    "eval2": ("eval2",),
    "eval3": ("eval3",),
    "excluded": ("excluded",),
    "valid": ("valid",),
    "train": ("core", "noncore"),
}
CONCATENATION = {"gap": 1.0, "maxlen": 10.0}  # seconds


def utterances(manifest_dir: Path, sources: tuple[str, ...]) -> list[Cut]:
    """The cuts, one supervision each, of lhotse's parts ``sources``, ordered by id."""
    from lhotse import CutSet, RecordingSet
    from lhotse.recipes.csj import concat_csj_supervisions

    recordings, supervisions = [], []
    for source in sources:
        for kind, into, read in (
            ("recordings", recordings, read_recordings),
            ("supervisions", supervisions, read_supervisions),
        ):
            path = manifest_dir / f"csj_{kind}_{source}.jsonl.gz"
            if not path.is_file():
                raise UserError(f"no {path}; run the CSJ manifest stage of prepare.sh first")
            into.extend(read(path))
    recordings.sort(key=lambda item: item.id)
    supervisions.sort(key=lambda item: item.id)
    joined = concat_csj_supervisions(supervisions, **CONCATENATION)  # pyright: ignore[reportArgumentType], a list will do
    cuts = CutSet.from_manifests(recordings=RecordingSet.from_recordings(recordings), supervisions=joined)
    trimmed = list(cuts.trim_to_supervisions(keep_overlapping=False))
    if not trimmed:
        raise UserError(f"part {' + '.join(sources)} is empty: no utterance without masked words in {manifest_dir}")
    return trimmed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--manifest-dir", type=Path, required=True)
    parser.add_argument("--fbank-dir", type=Path, required=True)
    parser.add_argument("--nj", type=processes, default=1)
    parser.add_argument("--perturb-speed", type=parse_bool, default=True)
    args = parser.parse_args()
    from sammo.preparation.features import store_part

    args.fbank_dir.mkdir(parents=True, exist_ok=True)
    for part, sources in PARTS.items():
        cuts = utterances(args.manifest_dir, sources)
        store_part(CSJ, part, cuts, args.fbank_dir, args.nj, args.perturb_speed)
    write_marker(args.fbank_dir, CSJ)


if __name__ == "__main__":
    run_main(main)
