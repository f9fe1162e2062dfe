#!/usr/bin/env python3
"""Exports a trained model without left context to ONNX, for sherpa-onnx and for --runtime onnxruntime.

./export_onnx.py --exp-dir exp --epoch 40 --avg 10 --lang data/lang_char --chunk-size 32 --out-dir exp/onnx-32
"""

from sammo.cli import run_script

if __name__ == "__main__":
    run_script("export", __doc__)
