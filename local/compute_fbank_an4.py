#!/usr/bin/env python3
"""Computes 80-bin Fbank of AN4's utterances, all parts in the order of their ids.

Usage: local/compute_fbank_an4.py --manifest-dir DIR --fbank-dir DIR [--nj N]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.corpora import AN4, write_marker
from sammo.data.manifests import read_cuts, write_cuts
from sammo.errors import UserError, run_main
from sammo.preparation.features import compute_features


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--manifest-dir", type=Path, required=True)
    parser.add_argument("--fbank-dir", type=Path, required=True)
    parser.add_argument("--nj", type=int, default=1)
    args = parser.parse_args()
    args.fbank_dir.mkdir(parents=True, exist_ok=True)
    for part in AN4.parts:
        source = AN4.manifest_path(args.manifest_dir, part)
        if not source.is_file():
            raise UserError(f"no {source}; run the manifest stage of prepare.sh first")
        manifest = AN4.manifest_path(args.fbank_dir, part)
        manifest.unlink(missing_ok=True)  # it may point at features that are about to be replaced
        cuts = list(read_cuts(source))
        write_cuts(manifest, compute_features(cuts, args.fbank_dir / f"feats_{part}", args.nj, f"Fbank {part}"))
    write_marker(args.fbank_dir, AN4)


if __name__ == "__main__":
    run_main(main)
