#!/usr/bin/env python3
"""Exports a trained model to ONNX, for sherpa-onnx and for --runtime onnxruntime and openvino.

./export_onnx.py --exp-dir exp --epoch 40 --avg 10 --tokens data/lang_char/tokens.txt --chunk-size 32 \\
  --left-context-frames 128 --enable-int8-quantization 1
"""

from sammo.cli import run_script

if __name__ == "__main__":
    run_script("export", __doc__)
