"""Signals that ask a program to stop: training finishes its batch, saves and leaves; a microphone is closed."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from types import FrameType
from typing import Any, Iterator

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


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes that are started within never see the signals; this one gets those that came meanwhile afterwards.

    A scheduler or Ctrl-C signals all processes of a job, and training, which saves then, still needs its loader's. Who
    ignored them only once started could be killed before.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
