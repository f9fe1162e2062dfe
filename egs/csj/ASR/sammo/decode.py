#!/usr/bin/env python3
"""Decodes test sets with a trained model, chunk-wise by attention masks (simulated streaming).

  ./decode.py --exp-dir exp --epoch 40 --avg 20 --chunk-size 16,32,64,128 --left-context-frames 64,128,256
"""

import argparse
import logging

from sammo.decoding import add_arguments, run
from sammo.errors import run_main


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    return run(parser.parse_args())


if __name__ == "__main__":
    run_main(main)
