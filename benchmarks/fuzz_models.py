"""Families of benchmarks/fuzz.py that hold models: checkpoints and packages."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import logging
import pickle
import random
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable

import safetensors.torch
import torch
from fuzz_families import COMMAND, ODD, TEXT, Family, mutate, odd_json, places, put

from sammo.checkpoint import Checkpoint, ModelInfo, check_tokenizer, load_model, read_checkpoint, write_checkpoint
from sammo.checkpoint.package import WEIGHTS, Origin, write_model
from sammo.checkpoint.schema import weights_digest
from sammo.data.tokens import character_table, format_token_table, load_tokenizer
from sammo.signals import StopRequest
from sammo.sums import SUMS, write_sums
from sammo.training.config import TrainConfig
from sammo.training.distributed import World
from sammo.training.loop import Trainer
from sammo.transducer import Transducer, model_config

SMALL = dict(
    downsampling=(1, 2), encoder_dim=(32, 32), num_layers=(1, 1), unmasked_dim=(32, 32), feedforward_dim=(32, 32),
    num_heads=(2, 2), conv_kernel=(7, 7), frontend_channels=(2, 4, 4), mamba_head_dim=8, predictor_dim=32, joiner_dim=32,
)  # fmt: skip
ODD_NAMES = ("../../etc/passwd", "/dev/zero", "tokens.txt/x", ".", "", "a\\b", "x" * 5000, "\0", "fifo", "あ", "\ud800")


def small_model() -> Transducer:
    torch.manual_seed(0)
    return Transducer(model_config("sammo", "tiny", 12, **SMALL))


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.value = function, arguments

    def __reduce__(self) -> tuple:
        return self.value


def hostile_objects() -> list[Callable[[], Any]]:
    """What a pickle could hold that is no checkpoint: calls of programs, tensors that are no numbers, wide nests."""
    import os
    import subprocess

    def laughs() -> list:
        item: list = [0] * 10
        for _ in range(40):
            item = [item] * 10
        return item

    return [
        lambda: Call(os.system, COMMAND),
        lambda: Call(subprocess.Popen, ["touch", "executed"]),
        lambda: Call(eval, "__import__('os').system('touch executed')"),
        lambda: Call(exec, "import os; os.system('touch executed')"),
        lambda: Call(torch.load, "executed"),
        lambda: Call(bytearray, 1 << 40),
        laughs,
        lambda: torch.zeros(1).expand(1 << 20, 1 << 20),
        lambda: torch.zeros(2, 2).to_sparse(),
        lambda: torch.zeros(1 << 20, device="meta"),
        lambda: torch.zeros(3, dtype=torch.complex64).conj(),
        lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
        lambda: torch.full((3, 3), float("nan")),
        lambda: torch.zeros(0),
        lambda: OrderedDict(a=torch.zeros(2)),
        lambda: 10**4000,
    ]


class Letters:
    """Output units without a file."""

    blank_id, vocab_size, fingerprint = 0, 12, "letters"

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + index) for index in ids)


class Checkpoints(Family):
    """Files of both versions, with and without the state of training: decoded and resumed as they were, or refused."""

    def __init__(self, directory: Path):
        super().__init__(directory)
        logging.disable(logging.WARNING)
        self.trainer = self._trainer(directory, small_model())
        self._train()
        whole = self.trainer.checkpoint({"batches": 0})
        assert whole is not None
        self.seeds, self.found = [], []
        for name, checkpoint in (("whole", whole), ("weights", dataclasses.replace(whole, training=None))):
            path = directory / f"{name}.pt"
            write_checkpoint(path, checkpoint)
            content = torch.load(path, weights_only=True)
            for version in (2, 1):
                if version == 1:
                    content = first_version(content)
                file = io.BytesIO()
                torch.save(content, file)
                self.seeds.append((content, file.getvalue()))
        self.expected = [self._read_seed(directory, content) for _, content in self.seeds]

    @staticmethod
    def _trainer(directory: Path, model: Transducer) -> Trainer:
        config = TrainConfig(exp_dir=directory, average_period=1, tensorboard=False, device="cpu")
        facts = {"preset": "tiny", "transcript_mode": "fluent"}
        return Trainer(config, model, None, Letters(), World(), StopRequest(), facts, 600.0)  # type: ignore[arg-type]

    def _train(self) -> None:
        generator = torch.Generator().manual_seed(0)
        batch: Any = {
            "features": torch.randn(2, 60, 80, generator=generator),
            "lengths": torch.tensor([60, 45]),
            "tokens": torch.tensor([[1, 2], [3, 0]]),
            "texts": ["bc", "d"],
            "cut_ids": ["first", "second"],
        }
        self.trainer.model.train()
        self.trainer._step(batch)

    def _read_seed(self, directory: Path, content: bytes) -> Checkpoint:
        path = directory / "case.pt"
        path.write_bytes(content)
        return read_checkpoint(path)

    def case(self, directory: Path, rng: random.Random) -> str | None:
        number = rng.randrange(len(self.seeds))
        content, whole = self.seeds[number]
        path, kind = directory / "case.pt", rng.randrange(6)
        if kind == 0:
            path.write_bytes(mutate(whole, rng))
        elif kind == 1:  # where the directory of the archive is
            path.write_bytes(mutate(whole[::-1], rng)[::-1])
        elif kind == 2:
            path.write_bytes(whole[: rng.randrange(len(whole))])
        elif kind == 3:
            self._hostile(path, rng)
        else:
            torch.save(self._odd(content, rng), path)
        return self._read(path, rng, self.expected[number], files_only=kind < 3)

    def _odd(self, content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        """Tensors exchanged, values replaced, removed or renamed."""
        content = copy.deepcopy(content)
        if rng.random() < 0.2:
            part = content[rng.choice(("model", "model_avg"))]
            name, other = rng.sample(sorted(part), 2)
            part[name], part[other] = part[other], part[name]
            return content
        found = places(content)
        outer = [path for path in found if "optimizer" not in path and "model" not in path and "model_avg" not in path]
        for _ in range(rng.choice((1, 1, 2))):
            path = rng.choice(outer if rng.random() < 0.7 else found)
            try:
                put(content, path, rng.choice(ODD) if rng.random() < 0.6 else rng.choice(hostile_objects())())
            except (LookupError, TypeError):
                continue  # the other change took this place away
        return content

    def _hostile(self, path: Path, rng: random.Random) -> None:
        kind = rng.randrange(6)
        item = rng.choice(hostile_objects())()
        content = {"format": "sammo-checkpoint-2", "model": item, "model_avg": item}
        if kind == 0:
            torch.save(content, path)
        elif kind == 1:
            torch.save(content, path, _use_new_zipfile_serialization=False)
        elif kind == 2:
            with open(path, "wb") as file:
                pickle.dump({"format": "sammo-checkpoint-2", "model": Call(eval, "1 / 0")}, file)
        elif kind == 3:
            torch.save({}, path)
            with zipfile.ZipFile(path) as archive:
                records = {name: archive.read(name) for name in archive.namelist()}
            depth = rng.choice((10, 1000, 1_000_000))
            with zipfile.ZipFile(path, "w") as archive:
                for name, record in records.items():
                    deep = b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
                    archive.writestr(name, deep if name.endswith("data.pkl") else record)
        elif kind == 4:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a/data.pkl", bytes(1 << 26))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for number in range(rng.choice((1, 3000))):
                    archive.writestr(f"a/{number}/data.pkl", pickle.dumps(rng.choice(ODD)))

    def _read(self, path: Path, rng: random.Random, expected: Checkpoint, files_only: bool) -> str | None:
        part = rng.choice(("model", "model_avg"))
        model, info = load_model(path, use_averaged_model=part == "model_avg")
        found = read_checkpoint(path)
        if not all(value.isfinite().all() for value in model.state_dict().values()):
            return "weights that are not finite"
        problem = self._compare(found, expected) if files_only else None
        if problem is None and found.training is not None:
            self.trainer.load(found)
            self._train()
        return problem

    @staticmethod
    def _compare(found: Checkpoint, expected: Checkpoint) -> str | None:
        for part in ("model", "model_avg"):
            if weights_digest(getattr(found, part)) != weights_digest(getattr(expected, part)):
                return f"other weights in {part}"
        names = ("model_config", "preset", "tokenizer", "transcript_mode", "epoch", "epoch_done", "batch_idx_train")
        different = [name for name in names if getattr(found, name) != getattr(expected, name)]
        if (found.training is None) != (expected.training is None):
            different.append("training")
        return f"another {different[0]}" if different else None


class Packages(Family):
    """Directories of configuration, weights and units with checksums: loaded as they were, or refused.

    Where the checksums are made anew after a change, as somebody who means harm would, what is loaded must fit together.
    """

    def __init__(self, directory: Path):
        super().__init__(directory)
        model, self.seed = small_model(), directory / "seed"
        self.seed.mkdir(exist_ok=True)
        table = format_token_table(character_table([TEXT, "かきくけ"]))
        (self.seed / "tokens.txt").write_text(table, encoding="utf-8")
        (self.seed / "lang_type").write_text("char\n")
        (self.seed / "README.md").write_text("A model.\n")
        origin = Origin("small", "tiny", 3, 1, True, 12, load_tokenizer(self.seed).fingerprint, "fluent", "epoch-3")
        write_model(self.seed, model.config, origin, model.state_dict())
        write_sums(self.seed)
        self.expected = self._load(self.seed)

    @staticmethod
    def _load(path: Path) -> tuple[str, ModelInfo, list[int]]:
        model, info = load_model(path)
        tokenizer = load_tokenizer(path)
        check_tokenizer(info, tokenizer.fingerprint, path)
        if not 0 < info.epoch <= 1 << 40 or not all(value.isfinite().all() for value in model.state_dict().values()):
            raise AssertionError(f"loaded {info}")
        return weights_digest(model.state_dict()), info, tokenizer.encode(TEXT)

    def case(self, directory: Path, rng: random.Random) -> str | None:
        case = directory / "case"
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(self.seed, case)
        path = rng.choice(sorted(case.iterdir()))
        kind, honest = rng.randrange(5), rng.random() < 0.5
        if kind == 0:
            path.unlink()
        elif kind == 1 and path.suffix == ".json":
            changed = odd_json(json.loads(path.read_text(encoding="utf-8")), rng)
            path.write_bytes(json.dumps(changed).encode("utf-8", "replace"))
        elif kind == 2:
            self._exchange(case / WEIGHTS, rng)
        elif kind == 3:
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
        else:
            path.write_bytes(mutate(path.read_bytes(), rng))
        if not honest:
            write_sums(case)
            if rng.random() < 0.2:  # names from elsewhere
                lines = (case / SUMS).read_text().replace("README.md", rng.choice(ODD_NAMES))
                (case / SUMS).write_bytes(lines.encode("utf-8", "replace"))
        found = self._load(case)
        return "another model or other units" if honest and found != self.expected else None

    @staticmethod
    def _exchange(path: Path, rng: random.Random) -> None:
        """Another tensor in the place of one, or a value that no weight has."""
        weights = safetensors.torch.load_file(path)
        name = rng.choice(sorted(weights))
        others = [
            torch.zeros(3),
            torch.full_like(weights[name], float("nan")),
            weights[name].long(),
            weights[name][None],
        ]
        weights[name] = rng.choice([*others, weights[rng.choice(sorted(weights))]])
        path.write_bytes(safetensors.torch.save({key: value.clone() for key, value in weights.items()}))


def first_version(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint in the schema of the first version."""
    content = {name: value for name, value in content.items() if name not in ("sha256", "training")} | dict(
        content["training"] or {}
    )
    if "wall_seconds" in content:
        content["seconds"] = content.pop("wall_seconds")
    return {**content, "format": "sammo-checkpoint-1"}


MODEL_FAMILIES: dict[str, Callable[[Path], Family]] = {"checkpoints": Checkpoints, "packages": Packages}
