"""Families of benchmarks/fuzz.py that run models in pieces: exported directories, and snapshots of streams."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
from pathlib import Path
from typing import Callable

import safetensors.torch
import torch
from fuzz_families import Family, mutate, odd_json
from fuzz_models import Letters, small_model

from sammo import geometry
from sammo.checkpoint.schema import weights_digest
from sammo.data.tokens import BLANK, SOS_EOS, UNKNOWN, CharTokenizer
from sammo.engines import is_installed
from sammo.errors import UserError
from sammo.options import Deployment, Exports
from sammo.search import make_searcher
from sammo.streaming.recognizer import StreamingRecognizer
from sammo.streaming.runtimes import MOST_OFF, make_runtime
from sammo.streaming.session import Event, Sessions
from sammo.sums import write_sums

ELSEWHERE = ("/etc/passwd", "../../../../etc/passwd", "/dev/zero", "nothing", "", "tokens.txt", "joiner.onnx")


class Exported(Family):
    """Directories of ``sammo export``: onnxruntime computes what the checkpoint does, or the directory is refused.

    Half of the changed directories have their checksums made anew.
    """

    def __init__(self, directory: Path):
        super().__init__(directory)
        logging.disable(logging.WARNING)
        self.model, self.seed, self.work = small_model().eval(), directory / "seed", directory / "case"
        from sammo.export.onnx import write_directory

        pieces = [BLANK, *"abcdefghi", UNKNOWN, SOS_EOS]
        write_directory(self.model, CharTokenizer(pieces), Exports(16), self.seed)
        self.features, self.lengths = torch.randn(1, geometry.window(16), 80), torch.tensor([geometry.window(16)])
        self.expected = self._first_chunk(self.seed)

    def _first_chunk(self, directory: Path) -> torch.Tensor:
        runtime = make_runtime(self.model, Deployment("onnxruntime", directory), 16)
        return runtime.step(self.features, self.lengths, runtime.init_state()).frames

    def case(self, directory: Path, rng: random.Random) -> str | None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.seed, self.work)
        path = rng.choice([self.work / "encoder.onnx", *sorted(self.work.iterdir())])
        kind, honest = rng.randrange(5), rng.random() < 0.5
        if kind == 0:
            path.unlink()
        elif kind == 1:
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
        elif kind == 2:
            other = rng.choice(sorted(self.work.iterdir()))
            path.write_bytes(other.read_bytes())
        elif kind == 3:
            self._lie(self.work / "encoder.onnx", rng)
        else:
            path.write_bytes(mutate(path.read_bytes(), rng))
        if not honest:
            write_sums(self.work)
        found = self._first_chunk(self.work)
        off = float((found - self.expected).norm() / self.expected.norm())
        return None if off <= (0.0 if honest else 2 * MOST_OFF) else f"frames that are {off} off"

    @staticmethod
    def _lie(path: Path, rng: random.Random) -> None:
        """Another value of its metadata, of a weight or of a shape, or weights in a file elsewhere."""
        import onnx

        proto = onnx.load(str(path))
        kind = rng.randrange(4)
        if kind == 0:
            rng.choice(proto.metadata_props).value = rng.choice(
                ("", "-1", "0", "9" * 400, "nan", "16", "0" * 64, "x" * 5000)
            )
        elif kind == 1:
            tensor = rng.choice(proto.graph.initializer)
            tensor.raw_data = rng.choice((mutate(tensor.raw_data, rng), bytes(len(tensor.raw_data)), b""))
        elif kind == 2:
            tensor = rng.choice(proto.graph.initializer)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (
                ("location", rng.choice(ELSEWHERE)),
                ("offset", "0"),
                ("length", rng.choice(("4", "9" * 15))),
            ):
                tensor.external_data.add(key=key, value=value)
        else:
            value = rng.choice([*proto.graph.input, *proto.graph.output])
            rng.choice(value.type.tensor_type.shape.dim).dim_value = rng.choice((0, 1, 3, -1, 1 << 40))
        path.write_bytes(proto.SerializeToString())


class Snapshots(Family):
    """Streams as bytes: they go on as the stream would have, or are refused.

    Where the checksum is made anew after a change, what goes on may say anything, in bounded time and without a traceback.
    """

    def __init__(self, directory: Path):
        super().__init__(directory)
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
if is_installed("onnx") and is_installed("onnxruntime"):
    STREAM_FAMILIES["exports"] = Exported
