"""Exported models in sherpa-onnx's streaming websocket server, an unmodified program of the package sherpa-onnx-bin.

A connection is a stream. The client sends float32 samples as binary messages of any length, then the text "Done"; the server
answers each chunk with a JSON object whose "text" is all that it has heard, and ends with the text "Done!".
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from sammo.data.features import SAMPLING_RATE
from sammo.errors import UserError
from sammo.export.deployed import need
from sammo.options import Search
from sammo.streaming.sherpa import model_files, silence_after

SERVER = "sherpa-onnx-online-websocket-server"
PATIENCE = 300.0  # seconds to load a model within, and to wait for an answer; the machine may be busy
PIECE = 4000  # samples a message


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


class SherpaServer:
    """The server on a free port, within a ``with``; it ends with it.

    Args:
      directory: which ``sammo export`` wrote.
      search: its method, beam, blank penalty and temperature.
      chunk_size: of the export, embed frames (50 Hz).
      num_streams: connections at a time, and the server's largest batch.

    Raises:
      UserError: the program is not installed, or ends, or says nothing for long.
    """

    def __init__(
        self, directory: Path, search: Search, chunk_size: int, num_streams: int, precision: str = "float32"
    ) -> None:
        need("websockets")
        files = model_files(directory, search, precision)
        path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", "")))
        program = shutil.which(SERVER, path=path)
        if program is None:
            raise UserError(f"{SERVER} is not installed: pip install -r requirements-deploy.txt")
        self._num_streams, self._silence = num_streams, silence_after(chunk_size)
        options = {
            **{name: file.resolve() for name, file in files.items()},
            "decoding-method": search.decoding_method,
            "max-active-paths": search.beam_size,
            "blank-penalty": search.blank_penalty,
            "temperature-scale": search.temperature,
            "enable-endpoint": "false",
            # Half a sample more, since the server rounds down.
            "end-tail-padding": (self._silence + 0.5) / SAMPLING_RATE,
            "max-batch-size": num_streams,
            "num-work-threads": torch.get_num_threads(),
        }
        self._command = [program, *(f"--{name}={value}" for name, value in options.items())]
        if guard := shutil.which("setpriv"):  # Linux: it ends when this process does, however that happens
            self._command = [guard, "--pdeathsig", "KILL", *self._command]

    def __enter__(self) -> SherpaServer:
        self._directory = tempfile.TemporaryDirectory()
        self._port = free_port()
        with self._messages.open("wb") as messages:
            self._process = subprocess.Popen(
                [*self._command, f"--port={self._port}"],
                cwd=self._directory.name,  # for its log file
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()

    def transcribe(self, audio: Sequence[Tensor]) -> list[str]:
        """The texts of utterances (S,) at 16 kHz that end with :func:`silence_after`, which the server adds itself."""
        with ThreadPoolExecutor(self._num_streams) as pool:
            try:
                return list(pool.map(self._ask, [samples[: samples.numel() - self._silence] for samples in audio]))
            except BaseException:
                self._process.kill()  # so that no other thread waits for it
                raise

    @property
    def _messages(self) -> Path:
        return Path(self._directory.name) / "stderr"

    def _wait(self) -> None:
        """Until it listens: a connection alone would not tell whether it is this one that does."""
        deadline = time.monotonic() + PATIENCE
        while b"Listening on" not in self._messages.read_bytes():
            if self._process.poll() is not None:
                raise UserError(f"{SERVER} {self._end()}")
            if time.monotonic() > deadline:
                raise UserError(f"{SERVER} does not listen after {PATIENCE:.0f} s")
            time.sleep(0.05)

    def _end(self) -> str:
        """How it ended, and the last that it said."""
        lines = self._messages.read_text(errors="replace").split("\n")
        said = [" ".join(line.split()) for line in lines if line.strip()]
        return f"ended with {self._process.returncode}{f': {said[-1][:300]}' if said else ''}"

    def _ask(self, samples: Tensor) -> str:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        address = f"ws://127.0.0.1:{self._port}"
        try:
            with connect(
                address, compression=None, open_timeout=PATIENCE, ping_interval=None, max_size=None, proxy=None
            ) as connection:
                for piece in samples.split(PIECE):
                    connection.send(piece.numpy().tobytes())
                connection.send("Done")
                text = ""
                while (message := connection.recv(PATIENCE)) != "Done!":
                    text = json.loads(message)["text"]
                # "Done!" comes from another thread of the server than the results, and may overtake the last of them; the
                # answer to a ping cannot.
                if not connection.ping().wait(PATIENCE):
                    raise TimeoutError
                while True:
                    try:
                        text = json.loads(connection.recv(0))["text"]
                    except TimeoutError:
                        return text
        except TimeoutError as error:
            raise UserError(f"{SERVER} has not answered for {PATIENCE:.0f} s") from error
        except (OSError, WebSocketException) as error:
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                raise UserError(f"{SERVER} breaks off: {' '.join(str(error).split())[:200]}") from error
            raise UserError(f"{SERVER} {self._end()}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{SERVER} answers {message!r:.100}, which is no result") from error
