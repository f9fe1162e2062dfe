"""lhotse Shar shards: sequential reads for cluster file systems, checked so that a short shard is an error."""

from __future__ import annotations

import json
import random
import re
import tarfile
from pathlib import Path
from typing import Any, Iterable, Iterator

from lhotse import Features, Recording
from lhotse.cut import Cut
from lhotse.shar.utils import fill_shar_placeholder

from sammo.data.manifests import build, read_cuts
from sammo.data.problems import brief
from sammo.data.sources import CHECKS, SHAR
from sammo.errors import UserError

FACTS = ("count", "speed_perturbed")  # of a shard, beside its files
FIELDS = {"features": Features, "recording": Recording}
# Written last by local/make_shar.py: {"shards": [{"cuts", FIELD, "count", "speed_perturbed"}, ...]}
INDEX = "index.json"
COPY = re.compile(r"_sp\d+(\.\d+)?$")  # how lhotse ends the ids of speed-perturbed copies


def is_speed_perturbed(cut_id: str) -> bool:
    """Whether a cut is a copy that prepare.sh has made faster or slower."""
    return COPY.search(cut_id) is not None


def read_index(shar_dir: Path, speed_perturb: bool) -> list[dict[str, Any]]:
    """The shards of ``shar_dir``, those of speed-perturbed copies on request: file names by field, number of cuts.

    UserError where the directory is unfinished or damaged, or where it has no copies to perturb the speed with.
    """
    path = shar_dir / INDEX
    if not path.is_file():
        raise UserError(f"no {path}: the shards are missing or unfinished; write them with local/make_shar.py")
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
        for shard in shards:
            names = [name for field, name in shard.items() if field not in FACTS]
            # A name with a directory could lead anywhere.
            if not shard.keys() <= {"cuts", *FACTS, *FIELDS} or any(Path(name).name != name for name in names):
                raise ValueError(f"shard {shard}")
            if not isinstance(shard["cuts"], str) or not isinstance(shard["count"], int):
                raise ValueError(f"shard {shard}")
            if not isinstance(shard["speed_perturbed"], bool):
                raise ValueError(f"shard {shard}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error!r}); write the shards again with local/make_shar.py") from error
    for shard in shards:
        for field, name in shard.items():
            if field not in FACTS and not (shar_dir / name).is_file():
                raise UserError(f"shard file {shar_dir / name} is missing; write it again with local/make_shar.py")
    if speed_perturb and not any(shard["speed_perturbed"] for shard in shards):
        raise UserError(f"{shar_dir} has no speed-perturbed copies: run prepare.sh, or pass --speed-perturb false")
    chosen = [shard for shard in shards if speed_perturb or not shard["speed_perturbed"]]
    if not chosen:
        raise UserError(f"{path} lists no shards; write them again with local/make_shar.py")
    return chosen


def shar_manifests(shar_dir: Path, speed_perturb: bool) -> list[Path]:
    """The cut manifests of the shards."""
    return [shar_dir / shard["cuts"] for shard in read_index(shar_dir, speed_perturb)]


class SharCuts:
    """Iterable over the usable cuts of all shards, data attached, in a shard order drawn from (seed, epoch).

    All ranks read all shards and keep their share of the batches, so that any number of ranks sees every cut once;
    the data stays compressed in memory until a worker needs it.
    """

    def __init__(
        self,
        shar_dir: Path,
        epoch: int,
        seed: int,
        shuffle: bool,
        left_out: Iterable[str] = (),
        speed_perturb: bool = False,
    ):
        self.shar_dir = shar_dir
        self.shards = read_index(shar_dir, speed_perturb)
        if shuffle:
            random.Random(f"{seed}/{epoch}").shuffle(self.shards)
        self.left_out = frozenset(left_out)

    def __iter__(self) -> Iterator[Cut]:
        for shard in self.shards:
            count = 0
            try:
                for cut in _shard_cuts(self.shar_dir, shard):
                    count += 1
                    if cut.id not in self.left_out:
                        yield cut
            except (tarfile.TarError, OSError, EOFError, ValueError, RuntimeError, AssertionError) as error:
                problem = f"cannot be read after cut {count} of {shard['count']} ({brief(error)})"
                raise UserError(f"shard {shard['cuts']} in {self.shar_dir} {problem}; write it again") from error
            if count != shard["count"]:
                # The shorter of manifest and data ends the shard.
                problem = f"ends early: {count} of {shard['count']} cuts"
                raise UserError(f"shard {shard['cuts']} in {self.shar_dir} {problem}; write it again")


def _shard_cuts(shar_dir: Path, shard: dict[str, Any]) -> Iterator[Cut]:
    """The cuts of one shard with their data, which stays packed; what lhotse's own reader does, with checks."""
    fields = [field for field in FIELDS if field in shard]
    archives = [_tar_items(shar_dir / shard[field], field) for field in fields]
    for cut, *items in zip(read_cuts(shar_dir / shard["cuts"], SHAR), *archives):
        for field, (cut_id, item) in zip(fields, items):
            if cut_id != cut.id:
                raise ValueError(f"cut {cut.id} in the manifest, {cut_id} among its {field}")
            setattr(cut, field, item)
        if is_speed_perturbed(cut.id) != shard["speed_perturbed"]:
            raise ValueError(f"cut {cut.id} is {'no' if shard['speed_perturbed'] else 'a'} speed-perturbed copy")
        cut.shard_origin = str(shar_dir / shard["cuts"])
        yield cut


def _tar_items(path: Path, field: str) -> Iterator[tuple[str, Features | Recording]]:
    """(cut id, item with its data) of a Shar archive: pairs of a data file and its description in JSON."""
    with tarfile.open(path, "r|") as archive:
        members = iter(archive)
        for member in members:
            data = _content(archive, member)
            described = next(members, None)
            if described is None:
                raise ValueError(f"{path} ends inside of a pair")
            record = json.loads(_content(archive, described))
            problem = CHECKS[field](record, SHAR)
            if problem:
                raise ValueError(f"{path}, {described.name}: {problem}")
            item = build(FIELDS[field], record, path)
            fill_shar_placeholder(item, data, Path(member.name))
            yield member.name.rpartition(".")[0], item


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file.read()
