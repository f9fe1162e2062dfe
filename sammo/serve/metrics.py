"""What /metrics tells, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STEP = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The values of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.streams = Gauge("sammo_streams", "Open streams.", registry=self.registry)
        self.state = Gauge("sammo_state_bytes", "Bytes that a stream keeps between chunks.", registry=self.registry)
        self.audio = Counter("sammo_audio_seconds", "Audio of streams that have ended.", registry=self.registry)
        self.tokens = Counter("sammo_tokens", "Tokens of final results.", registry=self.registry)
        self.refused = Counter("sammo_refused", "Requests refused, by reason.", ["reason"], registry=self.registry)
        self.step = Histogram(
            "sammo_step_seconds", "Computation of one chunk of a batch.", buckets=STEP, registry=self.registry
        )
        self.batch = Histogram("sammo_batch_streams", "Streams in a batch.", buckets=BATCH, registry=self.registry)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self.registry)
