#!/usr/bin/env python3
"""Decodes test sets chunk by chunk, as a server would: audio in, many streams at a time, states carried.

Usage:
  sammo/streaming_decode.py --exp-dir sammo/exp --epoch 40 --avg 10 --lang data/lang_char \
    --chunk-size 16,32,64,128 --num-decode-streams 32 --decoding-method modified_beam_search
"""

from __future__ import annotations

import argparse
import logging

from sammo.errors import run_main
from sammo.streaming.decoding import add_arguments, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return run(parser.parse_args())


if __name__ == "__main__":
    run_main(main)
