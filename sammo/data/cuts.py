"""The cuts of manifests in two steps: all lines with their durations, and the cuts of those lines that are wanted.

Every process of a training has to know how long all cuts are, to draw the same batches, and needs few of the cuts
themselves. Those are built where they are loaded, by the loader's workers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, NamedTuple

from sammo.data.manifests import Survey, build_cut, parse_record, read_lines
from sammo.data.sources import FILES, Allowed
from sammo.errors import UserError

if TYPE_CHECKING:
    from lhotse.cut import Cut


class CutLine(NamedTuple):
    """A cut that is not built yet."""

    duration: float  # seconds
    text: bytes  # its line
    manifest: int  # which of Cuts.paths
    number: int  # of the line, from 1
    copy: int = 0  # above 0 for one that comes again in an epoch, to fill the last batch


class Cuts(ABC):
    """The usable cuts of some manifests; iterating builds all of them.

    Args:
      paths: of the manifests.
      survey: of the same manifests in the same order.
    """

    def __init__(self, paths: list[Path], survey: Survey, allowed: Allowed = FILES) -> None:
        self.paths = paths
        self.allowed = allowed
        self._durations = survey.lines

    @abstractmethod
    def lines(self) -> Iterator[CutLine]:
        """All usable ones, in the order of an epoch; UserError for a manifest that is not what was surveyed."""

    def cut(self, line: CutLine) -> Cut:
        """The cut of a line; UserError for one that is not allowed."""
        path = self.paths[line.manifest]
        record = parse_record(line.text, line.number, path, "cut", self.allowed)
        if record["duration"] != line.duration:
            raise _changed(path)
        cut = self._build(record, line.manifest)
        return cut.with_id(f"{cut.id}_dup{line.copy - 1}") if line.copy else cut

    def _build(self, record: dict, manifest: int) -> Cut:
        return build_cut(record, self.paths[manifest])

    def __iter__(self) -> Iterator[Cut]:
        return map(self.cut, self.lines())

    def _manifest_lines(self, manifest: int) -> Iterator[CutLine | None]:
        """None for those that are left out."""
        path, durations = self.paths[manifest], self._durations[manifest].tolist()
        number = 0
        for number, text in enumerate(read_lines(path), start=1):
            if number > len(durations):
                raise _changed(path)
            duration = durations[number - 1]
            yield None if math.isnan(duration) else CutLine(duration, text, manifest, number)
        if number < len(durations):
            raise _changed(path)


class ManifestCuts(Cuts):
    """Cuts of several manifests of the same kind, taken from each in turn, which mixes speed-perturbed copies."""

    def lines(self) -> Iterator[CutLine]:
        streams = [self._manifest_lines(manifest) for manifest in range(len(self.paths))]
        while streams:
            for stream in list(streams):
                try:
                    line = next(stream)
                except StopIteration:
                    streams.remove(stream)
                    continue
                if line is not None:
                    yield line


def _changed(path: Path) -> UserError:
    return UserError(f"{path} was changed while it was in use; run the command again")
