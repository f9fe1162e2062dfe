"""Sammo: streaming speech recognition with a constant-size memory."""

__version__ = "0.1.0"
