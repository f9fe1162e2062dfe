"""Signals that ask a program to stop: training finishes its batch, saves and leaves; a microphone is closed."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

# SIGUSR1 is what Slurm sends before a job's time is over.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Catches the signals within a ``with``; ``received`` is the first one. A second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._catch) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """0 after a request by a machine, 130 after Ctrl-C."""
        return 130 if self.received == signal.SIGINT else 0
