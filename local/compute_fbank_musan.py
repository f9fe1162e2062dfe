#!/usr/bin/env python3
"""Computes 80-bin Fbank of MUSAN in windows of 5 to 10 seconds.

Usage: local/compute_fbank_musan.py --manifest-dir DIR --fbank-dir DIR [--nj N]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.data.manifests import read_recordings, write_cuts
from sammo.errors import UserError, run_main
from sammo.options import processes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--manifest-dir", type=Path, required=True)
    parser.add_argument("--fbank-dir", type=Path, required=True)
    parser.add_argument("--nj", type=processes, default=1)
    args = parser.parse_args()
    from lhotse import CutSet, RecordingSet

    from sammo.preparation.features import compute_features

    recordings = []
    for part in ("music", "speech", "noise"):
        path = args.manifest_dir / f"musan_recordings_{part}.jsonl.gz"
        if not path.is_file():
            raise UserError(f"no {path}; run the MUSAN manifest stage of prepare.sh first")
        recordings.extend(read_recordings(path))
    recordings.sort(key=lambda recording: recording.id)  # lhotse lists them as the file system does
    windows = CutSet.from_manifests(recordings=RecordingSet.from_recordings(recordings)).cut_into_windows(10.0)
    cuts = [cut for cut in list(windows) if cut.duration > 5]
    if not cuts:
        raise UserError(f"the MUSAN recordings of {args.manifest_dir} hold no window longer than 5 s")
    args.fbank_dir.mkdir(parents=True, exist_ok=True)
    done = compute_features(cuts, args.fbank_dir / "feats_musan", args.nj, "Fbank MUSAN")
    write_cuts(args.fbank_dir / "musan_cuts.jsonl.gz", done)


if __name__ == "__main__":
    run_main(main)
