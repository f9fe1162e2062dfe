#!/usr/bin/env python3
"""Computes 80-bin Fbank of a corpus's utterances, the speed-perturbed training copies in manifests of their own.

Usage: local/compute_fbank.py --corpus NAME --manifest-dir DIR --fbank-dir DIR [--nj N] [--perturb-speed true|false]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.corpora import corpus_named, write_marker
from sammo.data.manifests import read_cuts
from sammo.errors import UserError, run_main
from sammo.options import parse_bool, processes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--corpus", required=True, help="one of sammo.corpora.CORPORA")
    parser.add_argument("--manifest-dir", type=Path, required=True)
    parser.add_argument("--fbank-dir", type=Path, required=True)
    parser.add_argument("--nj", type=processes, default=1)
    parser.add_argument("--perturb-speed", type=parse_bool, default=True)
    args = parser.parse_args()
    from sammo.preparation.features import store_part

    corpus = corpus_named(args.corpus)
    args.fbank_dir.mkdir(parents=True, exist_ok=True)
    for part in corpus.parts:
        source = corpus.manifest_path(args.manifest_dir, part)
        if not source.is_file():
            raise UserError(f"no {source}; run the manifest stage of prepare.sh first")
        cuts = list(read_cuts(source))
        store_part(corpus, part, cuts, args.fbank_dir, args.nj, args.perturb_speed)
    write_marker(args.fbank_dir, corpus)


if __name__ == "__main__":
    run_main(main)
