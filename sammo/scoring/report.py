"""``sammo report``: one table and the figures from all results below some directories."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Iterable, NamedTuple, Sequence

from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.scoring import figures
from sammo.scoring.cer import Counts, bootstrap_interval, error_rate, probability_of_improvement, total
from sammo.scoring.results import PartResult, read_results

FRAME_MS = 20  # of chunk_size and left_context_frames
VALID = "valid"
CHUNK_COMPARED = 64  # 1.28 s, where the paper compares


class System(NamedTuple):
    """What a line of the figure and a row of the table stand for: everything but the chunk."""

    encoder: str
    preset: str
    left_context_frames: int
    d_state: int
    method: str
    beam_size: int
    streaming: bool
    state_dtype: str

    @property
    def label(self) -> str:
        """As short as it can be told apart."""
        if self.encoder == "zipformer":
            left = "all" if self.left_context_frames < 0 else str(self.left_context_frames)
            return f"Zipformer, left {left}"
        return f"Sammo, d_state {self.d_state}"

    @property
    def decoding(self) -> str:
        """Search and way of streaming."""
        method = self.method.replace("_search", "").replace("_", " ")
        beam = f" {self.beam_size}" if self.method == "modified_beam_search" else ""
        dtype = "" if self.state_dtype == "float32" else f", {self.state_dtype} state"
        return f"{method}{beam}, {'chunk by chunk' if self.streaming else 'simulated'}{dtype}"


class Cell(NamedTuple):
    """One system at one chunk size over some parts."""

    counts: list[Counts]
    cut_ids: list[str]
    state_bytes: int

    @property
    def cer(self) -> float:
        return error_rate(total(self.counts))


Table = dict[System, dict[int, dict[str, Cell]]]  # system -> chunk -> part -> cell


def system_of(result: PartResult) -> System:
    setting = result.setting
    zipformer = setting.encoder == "zipformer"
    return System(
        setting.encoder,
        setting.preset,
        setting.left_context_frames if zipformer else 0,
        0 if zipformer else setting.d_state,
        setting.method,
        setting.beam_size if setting.method == "modified_beam_search" else 1,
        setting.streaming,
        setting.state_dtype,
    )


def choose_averages(results: Sequence[PartResult]) -> tuple[list[PartResult], list[str]]:
    """Of several averages of one system keeps the one that is best on "valid", never on a test part.

    Returns the results kept and a note for each choice. UserError if there is a choice but no
    result on "valid" to make it by.
    """
    by_system: dict[tuple, dict[tuple, list[PartResult]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        setting = result.setting
        average = (setting.epoch, setting.avg, setting.use_averaged_model)
        by_system[system_of(result), setting.chunk_size][average].append(result)
    kept, notes = [], []
    for (system, chunk), averages in by_system.items():
        if len(averages) > 1:
            scores = {}
            for average, found in averages.items():
                for result in found:
                    if result.part == VALID:
                        scores[average] = result.cer
            if len(scores) < len(averages):
                raise UserError(
                    f"{system.label} at chunk {chunk} has {len(averages)} averages but only {len(scores)} "
                    f'results on "valid" to choose by; decode the part valid for each of them'
                )
            best = min(scores, key=lambda average: (scores[average], average))
            notes.append(
                f"{system.label}, {system.decoding}, chunk {chunk}: epoch {best[0]}, average of {best[1]}, chosen "
                f"on valid out of {len(averages)}"
            )
            averages = {best: averages[best]}
        for found in averages.values():
            kept.extend(found)
    return kept, notes


def tabulate(results: Iterable[PartResult]) -> Table:
    """Orders results; of two for the same cell the one with the longer-trained weights stays."""
    table: Table = defaultdict(lambda: defaultdict(dict))
    for result in sorted(results, key=lambda r: (r.setting.epoch, r.setting.checkpoint)):
        cell = Cell(result.counts, result.cut_ids, result.setting.state_bytes)
        table[system_of(result)][result.setting.chunk_size][result.part] = cell
    return {system: dict(table[system]) for system in sorted(table)}


def pooled(cells: dict[str, Cell], parts: Sequence[str]) -> Cell | None:
    """All test parts as one, or None if one is missing."""
    if not parts or any(part not in cells for part in parts):
        return None
    chosen = [cells[part] for part in parts]
    return Cell(
        [count for cell in chosen for count in cell.counts],
        [cut for cell in chosen for cut in cell.cut_ids],
        chosen[0].state_bytes,
    )


def chunk_name(chunk: int) -> str:
    """64 -> "64 (1.28 s)"."""
    return "whole utterance" if chunk < 0 else f"{chunk} ({chunk * FRAME_MS / 1000:g} s)"


def markdown(table: Table, notes: Sequence[str] = (), corpus: str = "") -> str:
    """The report as Markdown: a table of all test parts pooled, then one with a column a part."""
    chunks = sorted({chunk for row in table.values() for chunk in row}, key=lambda c: (c < 0, c))
    parts = sorted({part for row in table.values() for cells in row.values() for part in cells})
    tests = [part for part in parts if part != VALID]
    out = ["# Character error rates", ""]
    if tests:
        out += [
            f"CER in % over {', '.join(tests)} together, with its 95 % bootstrap interval, over the chunk width in "
            f"frames of {FRAME_MS} ms. State: what a stream keeps between chunks.",
            "",
        ]
        head = ["System", "Decoding", "State (KiB)", *map(chunk_name, chunks)]
        rows = []
        for system, row in table.items():
            cells = [pooled(row.get(chunk, {}), tests) for chunk in chunks]
            if any(cells):
                state = next(cell.state_bytes for cell in cells if cell)
                rows.append([system.label, system.decoding, f"{state / 1024:.0f}", *map(_with_interval, cells)])
        out += _lines(head, rows) + [""]
        out += _comparison(table, tests)
    out += ["## By part", ""]
    head = ["System", "Decoding", "Chunk", *parts]
    rows = [
        [system.label, system.decoding, chunk_name(chunk), *(_with_interval(cells.get(part)) for part in parts)]
        for system, row in table.items()
        for chunk, cells in sorted(row.items())
    ]
    out += _lines(head, rows)
    for title, lines in (("Averages", notes), ("Corpus", [corpus] if corpus else [])):
        if lines:
            out += ["", f"## {title}", "", *(f"- {line}" for line in lines)]
    return "\n".join(out) + "\n"


def _comparison(table: Table, tests: Sequence[str]) -> list[str]:
    """Sammo against each Zipformer where the paper compares, by paired bootstrap."""
    lines = []
    for system, row in table.items():
        ours = pooled(row.get(CHUNK_COMPARED, {}), tests)
        if system.encoder != "sammo" or ours is None:
            continue
        for other, other_row in table.items():
            theirs = pooled(other_row.get(CHUNK_COMPARED, {}), tests)
            if other.encoder != "zipformer" or other.decoding != system.decoding or theirs is None:
                continue
            if theirs.cut_ids == ours.cut_ids:
                share = probability_of_improvement(theirs.counts, ours.counts)
                lines.append(
                    f"- {system.label} against {other.label}: {ours.cer:.2f} against {theirs.cer:.2f}, "
                    f"better in {100 * share:.0f} % of paired bootstrap samples"
                )
    if lines:
        lines = [f"At chunk {chunk_name(CHUNK_COMPARED)}:", "", *lines, ""]
    return lines


def _with_interval(cell: Cell | None) -> str:
    if cell is None:
        return ""
    low, high = bootstrap_interval(cell.counts)
    return f"{cell.cer:.2f} ({low:.2f}–{high:.2f})"


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def comma_separated(table: Table) -> str:
    """Every cell of the table as one CSV line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        "encoder preset left_context_frames d_state method beam_size streaming state_dtype state_bytes chunk_size "
        "chunk_ms part utterances ref_chars ins del sub cer low high".split()
    )
    for system, row in table.items():
        for chunk, cells in sorted(row.items()):
            for part, cell in sorted(cells.items()):
                counts = total(cell.counts)
                low, high = bootstrap_interval(cell.counts)
                where = [cell.state_bytes, chunk, chunk * FRAME_MS if chunk > 0 else -1, part, len(cell.counts)]
                numbers = [*counts, *(f"{value:.4f}" for value in (error_rate(counts), low, high))]
                writer.writerow([*system, *where, *numbers])
    return buffer.getvalue()


def corpus_note(path: Path | None) -> str:
    """One line on the overlap of test and training sentences, from prepare.sh's statistics.json."""
    if path is None:
        return ""
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["overlap_with_training"]
        found = [f"{part} {row['inside_of_training']} of {row['sentences']}" for part, row in parts.items()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the statistics.json of prepare.sh ({error}); run its stage 9 again") from error
    return "sentences of at least 10 characters that also occur in training: " + ", ".join(found)


def write_report(directories: Sequence[Path], out_dir: Path, statistics: Path | None = None) -> dict[str, Path]:
    """Reads results, writes cer.md, cer.csv and the figures; returns their paths by kind."""
    results = [result for directory in directories for result in read_results(directory)]
    results, notes = choose_averages(results)
    table = tabulate(results)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = {"table": out_dir / "cer.md", "csv": out_dir / "cer.csv"}
    with atomic_write(paths["table"]) as file:
        file.write(markdown(table, notes, corpus_note(statistics)))
    with atomic_write(paths["csv"]) as file:
        file.write(comma_separated(table))
    tests = sorted({r.part for r in results} - {VALID}) or [VALID]
    cells = {
        system: {chunk: cell for chunk in row if (cell := pooled(row[chunk], tests))} for system, row in table.items()
    }
    lines = {_line_name(system, cells): cells[system] for system in cells if cells[system]}
    paths["figure"] = figures.cer_over_chunk(lines, tests, out_dir / "cer_over_chunk.png")
    paths["state figure"] = figures.cer_over_state(lines, tests, out_dir / "cer_over_state.png")
    return paths


def _line_name(system: System, others: Iterable[System]) -> str:
    """The label of a line: the way of decoding is named only where it differs."""
    same = len({other.decoding for other in others}) == 1
    return system.label if same else f"{system.label} ({system.decoding})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="result directories of decode.py")
    parser.add_argument("--out-dir", type=Path, help="where the table and figures go (default: the first DIR)")
    parser.add_argument("--statistics", type=Path, help="statistics.json of prepare.sh, for the sentence overlap")


def run(args: argparse.Namespace) -> int:
    out_dir = args.out_dir or args.directories[0]
    paths = write_report(args.directories, out_dir, args.statistics)
    print(paths["table"].read_text(encoding="utf-8"))
    for kind, path in paths.items():
        print(f"{kind}: {path}")
    return 0
