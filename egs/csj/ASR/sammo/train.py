#!/usr/bin/env python3
"""Trains an encoder with its transducer. The same command goes on where it was interrupted.

  ./train.py --exp-dir exp --encoder sammo --world-size 4 --max-duration 650 --precision bf16
"""

import argparse

from sammo.errors import run_main
from sammo.training.run import add_arguments, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    run_main(main)
