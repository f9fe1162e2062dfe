#!/usr/bin/env python3
"""Writes the audio of one cut as a WAV file of 16 bits and prints its transcript.

Usage: local/write_cut.py data/fbank/csj_cuts_eval1.jsonl.gz A01M0097_0001 sample.wav [--mode fluent]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.data.frames import SAMPLING_RATE
from sammo.data.manifests import read_cuts
from sammo.data.transcripts import transcript
from sammo.errors import UserError, run_main
from sammo.files import atomic_path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("cut")
    parser.add_argument("out", type=Path)
    parser.add_argument("--mode", default="fluent", help="Transcript mode to print.")
    args = parser.parse_args()
    import soundfile

    from sammo.data.features import load_audio

    cut = next((cut for cut in read_cuts(args.manifest) if cut.id == args.cut), None)
    if cut is None:
        raise UserError(f"{args.manifest} has no cut {args.cut}")
    with atomic_path(args.out) as path:
        soundfile.write(path, load_audio(cut).mean(0), SAMPLING_RATE, subtype="PCM_16", format="WAV")
    print(transcript(cut, args.mode))


if __name__ == "__main__":
    run_main(main)
