#!/usr/bin/env python3
"""Adds the transcripts of the given modes to cut manifests, as custom fields of their supervisions.

Usage: local/add_transcript_mode.py --config local/conf/fluent.ini ... --manifests data/fbank/csj_cuts_*.jsonl.gz
"""

from __future__ import annotations

import argparse
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from transcript_modes import read_modes

from sammo.data.manifests import read_cuts, write_cuts
from sammo.data.problems import brief
from sammo.errors import UserError, run_main
from sammo.options import processes
from sammo.progress import progress


def add_modes(manifest: Path, modes: dict[str, dict[str, int]]) -> Counter | str:
    """Rewrites ``manifest``; returns how many cuts have no text in each mode, or a line about what is wrong."""
    from lhotse.recipes.csj import CSJSDBParser

    parsers = {name: CSJSDBParser(decisions) for name, decisions in modes.items()}
    cuts = []
    empty: Counter = Counter()
    for cut in read_cuts(manifest):
        custom = cut.supervisions[0].custom if cut.supervisions else None
        if not custom or not isinstance(custom.get("raw"), str):
            return f"{manifest}: {cut.id} has no raw transcript; run the feature stage of prepare.sh again"
        for name, parser in parsers.items():
            try:
                custom[name] = parser.parse(custom["raw"])
            except Exception as error:  # lhotse raises bare ones
                return f"{manifest}: transcript of {cut.id} in mode {name}: {brief(error)}: {custom['raw']!r}"
            empty[name] += not custom[name]
        cuts.append(cut)
    write_cuts(manifest, cuts)
    return empty


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, nargs="+", required=True, help="Transcript-mode files.")
    parser.add_argument("--manifests", type=Path, nargs="+", required=True)
    parser.add_argument("--nj", type=processes, default=1)
    args = parser.parse_args()
    modes = read_modes(args.config)
    for manifest in args.manifests:
        if not manifest.is_file():
            raise UserError(f"no {manifest}; run the feature stage of prepare.sh first")
    with ProcessPoolExecutor(args.nj) as pool:
        results = pool.map(partial(add_modes, modes=modes), args.manifests)
        for manifest, result in zip(args.manifests, progress(results, len(args.manifests), "transcripts")):
            if isinstance(result, str):
                raise UserError(result)
            for mode, count in result.items():
                if count:
                    print(f"{manifest.name}: {count} cuts have no text in mode {mode}; loaders leave them out")


if __name__ == "__main__":
    run_main(main)
