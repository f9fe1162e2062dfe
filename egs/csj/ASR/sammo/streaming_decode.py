#!/usr/bin/env python3
"""Decodes test sets chunk by chunk, as a server would: audio in, many streams at a time, states carried.

Usage:
  sammo/streaming_decode.py --exp-dir sammo/exp --epoch 40 --avg 10 --lang data/lang_char \
    --chunk-size 16,32,64,128 --num-decode-streams 32 --decoding-method modified_beam_search
"""

from sammo.cli import run_script

if __name__ == "__main__":
    run_script("streaming_decode", __doc__)
