#!/usr/bin/env python3
"""Trains an encoder with its transducer. The same command resumes where it was interrupted.

./train.py --exp-dir exp --encoder sammo --world-size 4 --max-duration 650 --precision bf16
"""

from sammo.cli import run_script

if __name__ == "__main__":
    run_script("train", __doc__)
