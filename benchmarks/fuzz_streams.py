"""Families of benchmarks/fuzz.py that run models in pieces: snapshots of streams."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from pathlib import Path
from typing import Callable

import safetensors.torch
import torch
from fuzz_families import Family, mutate, odd_json
from fuzz_models import Letters, small_model

from sammo.checkpoint.schema import weights_digest
from sammo.errors import UserError
from sammo.search import make_searcher
from sammo.streaming.recognizer import StreamingRecognizer
from sammo.streaming.session import Event, Sessions


class Snapshots(Family):
    """Streams as bytes: they go on as the stream would have, or are refused.

    Where the checksum is made anew after a change, what goes on may say anything, in bounded time and without a traceback.
    """

    def __init__(self, directory: Path):
        super().__init__(directory)
        torch.set_num_threads(1)
        logging.disable(logging.WARNING)
        model = small_model().eval()
        self.audio = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
        self.open, self.seeds = [], []
        for method in ("greedy_search", "modified_beam_search"):
            sessions = Sessions(StreamingRecognizer(model, make_searcher(model, method), 16), Letters())  # type: ignore
            session = sessions.open()
            session.feed(self.audio)
            sessions.run()
            content = session.snapshot()
            sessions.forget(session)
            self.open.append(sessions)
            self.seeds.append((content, self._go_on(sessions, content)))

    def _go_on(self, sessions: Sessions, content: bytes) -> tuple[list[Event], str | None]:
        session = sessions.open(snapshot=content)
        session.feed(self.audio[:8000])
        session.finish()
        sessions.run()
        return session.events(), session.error

    def case(self, directory: Path, rng: random.Random) -> str | None:
        number = rng.randrange(len(self.seeds))
        content, expected = self.seeds[number]
        kind = rng.randrange(4)
        if kind == 0:
            content = mutate(content, rng)
        elif kind == 1:
            content = content[: rng.randrange(len(content))]
        else:
            content = self._sealed(content, rng)
        found, error = self._go_on(self.open[number], content)
        if error is not None:
            raise UserError(error)
        return "other events than the undamaged stream's" if kind < 2 and found != expected[0] else None

    @staticmethod
    def _sealed(content: bytes, rng: random.Random) -> bytes:
        """Facts or tensors changed, under a checksum that is right."""
        tensors = {name: value.clone() for name, value in safetensors.torch.load(content).items()}
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        if rng.random() < 0.5:
            metadata["facts"] = json.dumps(odd_json(json.loads(metadata["facts"]), rng))
        else:
            name = rng.choice(sorted(tensors))
            value = tensors[name]
            others = [
                torch.full_like(value, 1 << 40 if value.dtype == torch.int64 else float("nan")),
                value.double(),
                value.reshape(-1)[:0],
            ]
            others += [torch.cat([value.reshape(-1)] * 2), -value, value.long(), torch.zeros(2, 3)]
            tensors[name] = rng.choice(others).contiguous()
        digest = hashlib.sha256(
            f"{weights_digest(tensors)}\n{metadata['facts']}".encode("utf-8", "replace")
        ).hexdigest()
        return safetensors.torch.save(tensors, {**metadata, "sha256": digest})


STREAM_FAMILIES: dict[str, Callable[[Path], Family]] = {"snapshots": Snapshots}
