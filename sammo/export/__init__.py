"""Models in and out: icefall checkpoints, ONNX, sherpa-onnx."""
