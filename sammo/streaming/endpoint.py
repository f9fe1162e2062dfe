"""Where an utterance ends in a stream without end: the three rules of sherpa-onnx."""

from __future__ import annotations

from sammo.options import Endpointing


def is_endpoint(rules: Endpointing, length: float, silence: float) -> bool:
    """Whether the utterance is over.

    Args:
      rules: the thresholds.
      length: seconds of the utterance so far.
      silence: seconds since its last token, or ``length`` where it has none.
    """
    if not rules.enable_endpoint:
        return False
    return (
        silence >= rules.rule1_min_trailing_silence
        or (silence < length and silence >= rules.rule2_min_trailing_silence)
        or length >= rules.rule3_min_utterance_length
    )
