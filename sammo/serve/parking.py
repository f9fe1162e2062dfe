"""Streams whose clients are gone, kept as snapshots so that they can be resumed."""

from __future__ import annotations

import logging
import re
import secrets
import time
from pathlib import Path
from typing import Callable

from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.serve.engine import Client
from sammo.streaming.session import Session

KEY = re.compile(r"[A-Za-z0-9_-]{22}")
SUFFIX = ".stream"


class Parking:
    """Snapshots by the key that their client was told.

    Args:
      directory: also kept there, from chunk to chunk, so that streams survive the process; made if it is missing.
      seconds: for how long a stream is kept after its client has gone.
      most: snapshots kept at most; beyond it the oldest goes.
    """

    def __init__(self, directory: Path | None, seconds: float, most: int) -> None:
        self._directory, self._seconds, self._most = directory, seconds, most
        self._held: dict[str, tuple[float, bytes]] = {}  # key -> when it was parked, the snapshot
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                for path in sorted(directory.glob(f"*{SUFFIX}")):
                    if KEY.fullmatch(path.stem):
                        self._held[path.stem] = (time.time(), path.read_bytes())
            except OSError as error:
                raise UserError(f"--state-dir {directory} cannot be used: {error}") from error
            if self._held:
                logging.info(f"{len(self._held)} streams of an earlier run can be resumed")

    def __len__(self) -> int:
        return len(self._held)

    def new_key(self) -> str:
        """A name that nobody can guess."""
        return secrets.token_urlsafe(16)

    def take(self, key: object) -> bytes:
        """The snapshot of ``key``, which is not kept any more; UserError where there is none."""
        self._expire()
        held = self._held.pop(key, None) if isinstance(key, str) else None
        if held is None:
            raise UserError("there is no such stream to resume; it has ended, was kept too long, or never was")
        return held[1]

    async def park(self, key: str, client: Client) -> None:
        """Keeps the session of a client that is gone, unless it has ended."""
        try:
            snapshot = await client.snapshot()
        except UserError:
            self.forget(key)
            return
        self.hold(key, snapshot)

    def hold(self, key: str, snapshot: bytes) -> None:
        """Keeps ``snapshot`` for whoever brings ``key``."""
        self._expire()
        while len(self._held) >= self._most:
            self.forget(min(self._held, key=lambda name: self._held[name][0]))
        self._held[key] = (time.time(), snapshot)
        self._write(key, snapshot)

    def forget(self, key: str) -> None:
        """Nothing is kept of ``key``."""
        self._held.pop(key, None)
        if self._directory is not None:
            (self._directory / f"{key}{SUFFIX}").unlink(missing_ok=True)

    def keeper(self, key: str) -> Callable[[Session], None] | None:
        """A function that saves a session after each chunk, before its client hears of it; None without a directory."""
        if self._directory is None:
            return None
        return lambda session: self._write(key, session.snapshot())

    def _write(self, key: str, snapshot: bytes) -> None:
        if self._directory is None:
            return
        try:
            with atomic_write(self._directory / f"{key}{SUFFIX}", "wb") as file:
                file.write(snapshot)
        except OSError as error:
            logging.error(f"a stream could not be kept: {error}")

    def _expire(self) -> None:
        for key, (parked, _) in list(self._held.items()):
            if time.time() - parked > self._seconds:
                self.forget(key)
