#!/usr/bin/env python3
"""Decodes test sets with a trained model, chunk-wise by attention masks (simulated streaming).

./decode.py --exp-dir exp --epoch 40 --avg 20 --chunk-size 16,32,64,128 --left-context-frames 64,128,256
"""

from sammo.cli import run_script

if __name__ == "__main__":
    run_script("decode", __doc__)
