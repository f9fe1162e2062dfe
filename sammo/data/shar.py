"""lhotse Shar shards: few large files for cluster file systems, checked so that a short shard is an error."""

from __future__ import annotations

import os
import random
import re
import tarfile
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Iterator

from lhotse import Features, Recording
from lhotse.cut import Cut
from lhotse.shar.utils import fill_shar_placeholder

from sammo.data.cuts import CutLine, Cuts
from sammo.data.manifests import Survey, build, build_cut
from sammo.data.problems import brief
from sammo.data.sources import CHECKS, SHAR
from sammo.errors import UserError
from sammo.files import parse_json

FACTS = ("count", "speed_perturbed")  # of a shard, beside its files
FIELDS = {"features": Features, "recording": Recording}
# Written last by local/make_shar.py: {"shards": [{"cuts", FIELD, "count", "speed_perturbed"}, ...]}
INDEX = "index.json"
PLACES = "shar_places"
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
        shards = parse_json(path.read_text(encoding="utf-8"))["shards"]
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


class SharCuts(Cuts):
    """The usable cuts of all shards, in a shard order drawn from (seed, epoch).

    Their data is read from the archives when they are built: by the process that needs them, and only what it needs.
    """

    def __init__(
        self,
        shar_dir: Path,
        survey: Survey,
        epoch: int = 1,
        seed: int = 0,
        shuffle: bool = False,
        speed_perturb: bool = False,
    ) -> None:
        self.shar_dir = shar_dir
        self.shards = read_index(shar_dir, speed_perturb)
        super().__init__([shar_dir / shard["cuts"] for shard in self.shards], survey, SHAR)
        self.order = list(range(len(self.shards)))
        if shuffle:
            random.Random(f"{seed}/{epoch}").shuffle(self.order)
        _archive.cache_clear()  # shards may have been written again

    def lines(self) -> Iterator[CutLine]:
        for index in self.order:
            count = 0
            for line in self._manifest_lines(index):
                count += 1
                if line is not None:
                    yield line
            if count != self.shards[index]["count"]:
                raise self._problem(index, f"ends early: {count} of {self.shards[index]['count']} cuts")

    def _build(self, record: dict, manifest: int) -> Cut:
        shard = self.shards[manifest]
        places = (record.get("custom") or {}).pop(PLACES, None)
        if not isinstance(places, dict):
            raise self._problem(manifest, "is of an older layout")
        cut = build_cut(record, self.paths[manifest])
        for field in FIELDS:
            if field in shard:
                try:
                    setattr(cut, field, _read_item(self.shar_dir / shard[field], places.get(field), cut.id, field))
                except (tarfile.TarError, OSError, EOFError, ValueError, RuntimeError, AssertionError) as error:
                    raise self._problem(manifest, f"has no {field} of cut {cut.id} ({brief(error)})") from error
        if is_speed_perturbed(cut.id) != shard["speed_perturbed"]:
            said = "no" if shard["speed_perturbed"] else "a"
            raise self._problem(manifest, f"is not what the index says: {cut.id} is {said} speed-perturbed copy")
        setattr(cut, "shard_origin", str(self.paths[manifest]))  # noqa: B010, lhotse keeps what is set as custom
        return cut

    def _problem(self, manifest: int, problem: str) -> UserError:
        return UserError(f"shard {self.shards[manifest]['cuts']} in {self.shar_dir} {problem}; write it again")


@lru_cache(maxsize=64)
def _archive(path: Path) -> BinaryIO:
    return open(path, "rb", buffering=0)  # noqa: SIM115  closed when it leaves the cache


def _read_item(path: Path, place: Any, cut_id: str, field: str) -> Features | Recording:
    """What an archive has of a cut at ``place``, see :func:`places`."""
    begin, size = place if isinstance(place, list) and len(place) == 2 else (None, None)
    if not isinstance(begin, int) or not isinstance(size, int) or not 0 <= begin < 2**62 or not 0 < size < 2**31:
        raise ValueError(f"no place in {path.name}")
    data = os.pread(_archive(path).fileno(), size, begin)
    if len(data) < size:
        raise EOFError(f"{path.name} ends early")
    with tarfile.open(fileobj=BytesIO(data), mode="r:") as archive:
        name, item = next(_tar_items(archive, path, field), ("nothing", None))
    if name != cut_id or item is None:
        raise ValueError(f"{name} is there in {path.name}")
    return item


def places(path: Path) -> dict[str, list[int]]:
    """Cut id -> first byte and number of bytes of its pair of data and description in a Shar archive.

    local/make_shar.py notes them in a custom field PLACES of the cuts, so that nobody has to read a whole archive.
    """
    found = {}
    with tarfile.open(path, "r:") as archive:
        members = archive.getmembers()
        for data, described in zip(members[::2], members[1::2]):
            end = described.offset_data + -(-described.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            found[data.name.rpartition(".")[0]] = [data.offset, end - data.offset]
    return found


def _tar_items(archive: tarfile.TarFile, path: Path, field: str) -> Iterator[tuple[str, Features | Recording]]:
    """(cut id, item with its data) of a Shar archive: pairs of a data file and its description in JSON."""
    members = iter(archive)
    for member in members:
        data = _content(archive, member)
        described = next(members, None)
        if described is None:
            raise ValueError(f"{path} ends inside of a pair")
        record = parse_json(_content(archive, described))
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
