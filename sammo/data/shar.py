"""lhotse Shar shards: sequential reads for cluster file systems, checked so that a short shard is an error."""

from __future__ import annotations

import json
import random
import tarfile
from pathlib import Path
from typing import Any, Iterable, Iterator

from lhotse.cut import Cut
from lhotse.shar import LazySharIterator

from sammo.data.problems import brief
from sammo.errors import UserError

INDEX = "index.json"  # written last by local/make_shar.py: {"shards": [{"cuts", FIELD, "count"}], ...}


def read_index(shar_dir: Path) -> list[dict[str, Any]]:
    """The shards of ``shar_dir``: file names by field and the number of cuts; UserError where it is unfinished."""
    path = shar_dir / INDEX
    if not path.is_file():
        raise UserError(f"no {path}: the shards are missing or unfinished; write them with local/make_shar.py")
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error!r}); write the shards again with local/make_shar.py") from error
    for shard in shards:
        for field, name in shard.items():
            if field != "count" and not (shar_dir / name).is_file():
                raise UserError(f"shard file {shar_dir / name} is missing; write it again with local/make_shar.py")
    return shards


def shar_manifests(shar_dir: Path) -> list[Path]:
    """The cut manifests of all shards."""
    return [shar_dir / shard["cuts"] for shard in read_index(shar_dir)]


class SharCuts:
    """Iterable over the usable cuts of all shards, data attached, in a shard order drawn from (seed, epoch).

    All ranks read all shards and keep their share of the batches, so that any number of ranks sees every cut once;
    the data stays compressed in memory until a worker needs it.
    """

    def __init__(self, shar_dir: Path, epoch: int, seed: int, shuffle: bool, left_out: Iterable[str] = ()):
        self.shar_dir = shar_dir
        self.shards = read_index(shar_dir)
        if shuffle:
            random.Random(f"{seed}/{epoch}").shuffle(self.shards)
        self.left_out = frozenset(left_out)

    def __iter__(self) -> Iterator[Cut]:
        for shard in self.shards:
            fields = {field: [str(self.shar_dir / name)] for field, name in shard.items() if field != "count"}
            count = 0
            try:
                for cut in LazySharIterator(fields):
                    count += 1
                    if cut.id not in self.left_out:
                        yield cut
            except (tarfile.TarError, OSError, EOFError, ValueError, RuntimeError, AssertionError) as error:
                problem = f"cannot be read after cut {count} of {shard['count']} ({brief(error)})"
                raise UserError(f"shard {shard['cuts']} in {self.shar_dir} {problem}; write it again") from error
            if count != shard["count"]:
                # lhotse stops at the shorter of manifest and data without a word.
                problem = f"ends early: {count} of {shard['count']} cuts"
                raise UserError(f"shard {shard['cuts']} in {self.shar_dir} {problem}; write it again")
