"""Options of ``sammo serve``; loads nothing heavy."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from sammo.errors import UserError
from sammo.options import check_range, option

TOKEN_VARIABLE = "SAMMO_TOKEN"


@dataclass(frozen=True)
class ServeOptions:
    """Who may connect, and how much they may ask for."""

    host: str = option("127.0.0.1", "Address to listen at; others than the loopback need a token.")
    port: int = option(8000, "Port to listen at; 0: a free one.")
    token: str = option("", f"Secret that every request must bring; default: ${TOKEN_VARIABLE}.")
    allow_origin: tuple[str, ...] = option(
        (), "Further origins whose pages may connect, https://example.org,...; pages of this server always may."
    )
    state_dir: Path | None = option(
        None, "Keep every stream here after each chunk, so that clients resume after a restart."
    )
    max_clients: int = option(64, "Streams at a time.")
    max_upload_mb: float = option(100.0, "Largest file to transcribe, MB.")
    max_minutes: float = option(240.0, "Longest stream or file.")
    idle_seconds: float = option(60.0, "A client that sends nothing for so long is disconnected.")
    keep_minutes: float = option(10.0, "A stream whose client is gone can be resumed for so long.")

    def __post_init__(self) -> None:
        """UserError for values that cannot work."""
        check_range("--port", self.port, 0, 65535, "it is a TCP port")
        check_range("--max-clients", self.max_clients, 1, 100_000, "each holds a state and audio in memory")
        check_range("--max-upload-mb", self.max_upload_mb, 0.001, 100_000, "it is the size of a file")
        check_range("--max-minutes", self.max_minutes, 0.1, 100_000, "it is the length of a stream")
        check_range("--idle-seconds", self.idle_seconds, 1, 86_400, "it is a time to wait")
        check_range("--keep-minutes", self.keep_minutes, 0, 100_000, "it is a time to keep a stream for")
        if not self.loopback and not self.secret:
            raise UserError(
                f"--host {self.host} can be reached from other machines: give a --token (or ${TOKEN_VARIABLE}) that "
                "every client must bring"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def secret(self) -> str:
        """The token, "" for none."""
        return self.token or os.environ.get(TOKEN_VARIABLE, "")
