"""``sammo report``: one table and the figures from all results below some directories."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Iterable, NamedTuple, Sequence

from sammo import geometry
from sammo.corpora import CORPORA, CSJ, Corpus, corpus_named
from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.scoring import figures
from sammo.scoring.cer import Counts, bootstrap_interval, error_rate, metrics_for, probability_of_improvement, total
from sammo.scoring.results import PartResult, read_results

FRAME_MS = round(1000 / geometry.RATE)  # of chunk_size and left_context_frames
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
        words = [self.encoder.capitalize()]
        if self.left_context_frames:
            words.append(f"left {'all' if self.left_context_frames < 0 else self.left_context_frames}")
        if self.d_state:
            words.append(f"d_state {self.d_state}")
        return ", ".join(words)

    @property
    def decoding(self) -> str:
        """Search and way of streaming."""
        method = self.method.replace("_search", "").replace("_", " ")
        beam = f" {self.beam_size}" if self.method == "modified_beam_search" else ""
        dtype = "" if self.state_dtype == "float32" else f", {self.state_dtype} state"
        return f"{method}{beam}, {'chunk by chunk' if self.streaming else 'simulated'}{dtype}"


class Cell(NamedTuple):
    """One system at one chunk size over some parts; counts by metric."""

    counts: dict[str, list[Counts]]
    cut_ids: list[str]
    state_bytes: int

    def rate(self, metric: str) -> float:
        """Percent."""
        return error_rate(total(self.counts[metric]))


Table = dict[System, dict[int, dict[str, Cell]]]  # system -> chunk -> part -> cell


def system_of(result: PartResult) -> System:
    setting = result.setting
    return System(
        setting.encoder,
        setting.preset,
        setting.left_context_frames,
        setting.d_state,
        setting.method,
        setting.beam_size if setting.method == "modified_beam_search" else 1,
        setting.streaming,
        setting.state_dtype,
    )


def choose_corpus(results: Sequence[PartResult], name: str | None = None) -> tuple[Corpus, list[PartResult]]:
    """The corpus called ``name``, or without a name the only one that was decoded, and its results.

    Raises UserError where there are results of several, none of the one that is named, or none by its metric.
    """
    by_corpus: dict[str, list[PartResult]] = defaultdict(list)
    for result in results:
        by_corpus[result.corpus or CSJ.name].append(result)  # results of earlier versions are CSJ's
    if not name and len(by_corpus) > 1:
        raise UserError(f"these are results on {', '.join(sorted(by_corpus))}; choose one by --corpus")
    corpus = corpus_named(name or next(iter(by_corpus)))
    found = by_corpus[corpus.name]
    if not found:
        raise UserError(f"no results on {corpus.name} here, only on {', '.join(sorted(by_corpus.keys() - {corpus.name}))}")
    for result in found:
        if corpus.metric not in result.counts:
            raise UserError(f"{result.path} has no {corpus.metric}; decode again with --force")
    return corpus, found


def choose_averages(results: Sequence[PartResult], corpus: Corpus = CSJ) -> tuple[list[PartResult], list[str]]:
    """Of several averages of one system keeps the one that is best on the validation part, never on a test part.

    Returns the results kept and a note for each choice. UserError if there is a choice but no
    result on the validation part to make it by.
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
                    if result.part == corpus.valid:
                        scores[average] = result.rate(corpus.metric)
            if len(scores) < len(averages):
                raise UserError(
                    f"{system.label} at chunk {chunk} has {len(averages)} averages but only {len(scores)} "
                    f'results on "{corpus.valid}" to choose by; decode the part {corpus.valid} for each of them'
                )
            best = min(scores, key=lambda average: (scores[average], average))
            notes.append(
                f"{system.label}, {system.decoding}, chunk {chunk}: epoch {best[0]}, average of {best[1]}, chosen "
                f"on {corpus.valid} out of {len(averages)}"
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
        {metric: [count for cell in chosen for count in cell.counts[metric]] for metric in chosen[0].counts},
        [cut for cell in chosen for cut in cell.cut_ids],
        chosen[0].state_bytes,
    )


def chunk_name(chunk: int) -> str:
    """64 -> "64 (1.28 s)"."""
    return "whole utterance" if chunk < 0 else f"{chunk} ({chunk * FRAME_MS / 1000:g} s)"


def pooled_parts(parts: Iterable[str], corpus: Corpus) -> list[str]:
    """Those of ``parts`` whose results make one number: neither validation and training nor what is excluded."""
    return sorted(set(parts) - {corpus.train, corpus.valid, *corpus.excluded})


def markdown(table: Table, corpus: Corpus = CSJ, notes: Sequence[str] = (), overlap: str = "") -> str:
    """The report as Markdown: a table of all test parts pooled by each metric, then one with a column a part."""
    chunks = sorted({chunk for row in table.values() for chunk in row}, key=lambda c: (c < 0, c))
    parts = sorted({part for row in table.values() for cells in row.values() for part in cells})
    tests, metrics = pooled_parts(parts, corpus), metrics_for(corpus.metric)
    out = [f"# {figures.NAMES[corpus.metric]}s", ""]
    for metric in metrics if tests else ():
        out += [
            f"{metric} in % over {', '.join(tests)}{' together' if len(tests) > 1 else ''}, with its 95 % bootstrap "
            f"interval, over the chunk width in frames of {FRAME_MS} ms. State: what a stream keeps between chunks.",
            "",
        ]
        head = ["System", "Decoding", "State (KiB)", *map(chunk_name, chunks)]
        rows = []
        for system, row in table.items():
            cells = [pooled(row.get(chunk, {}), tests) for chunk in chunks]
            if any(cells):
                state = next(cell.state_bytes for cell in cells if cell)
                rates = [_with_interval(cell, metric) for cell in cells]
                rows.append([system.label, system.decoding, f"{state / 1024:.0f}", *rates])
        out += _lines(head, rows) + [""]
        out += _comparison(table, tests, metric)
    out += ["## By part", ""]
    columns = [(part, metric) for part in parts for metric in metrics]
    head = ["System", "Decoding", "Chunk"]
    head += [part if len(metrics) == 1 else f"{part}, {metric}" for part, metric in columns]
    rows = [
        [
            system.label,
            system.decoding,
            chunk_name(chunk),
            *(_with_interval(cells.get(part), metric) for part, metric in columns),
        ]
        for system, row in table.items()
        for chunk, cells in sorted(row.items())
    ]
    out += _lines(head, rows)
    for title, lines in (("Averages", notes), ("Corpus", [overlap] if overlap else [])):
        if lines:
            out += ["", f"## {title}", "", *(f"- {line}" for line in lines)]
    return "\n".join(out) + "\n"


def _comparison(table: Table, tests: Sequence[str], metric: str) -> list[str]:
    """Systems without left context against each with, where the paper compares, by paired bootstrap."""
    lines = []
    for system, row in table.items():
        ours = pooled(row.get(CHUNK_COMPARED, {}), tests)
        if system.left_context_frames != 0 or ours is None:
            continue
        for other, other_row in table.items():
            theirs = pooled(other_row.get(CHUNK_COMPARED, {}), tests)
            if other.left_context_frames == 0 or other.decoding != system.decoding or theirs is None:
                continue
            if theirs.cut_ids == ours.cut_ids:
                share = probability_of_improvement(theirs.counts[metric], ours.counts[metric])
                lines.append(
                    f"- {system.label} against {other.label}: {ours.rate(metric):.2f} against {theirs.rate(metric):.2f}, "
                    f"better in {100 * share:.0f} % of paired bootstrap samples"
                )
    if lines:
        lines = [f"{metric} at chunk {chunk_name(CHUNK_COMPARED)}:", "", *lines, ""]
    return lines


def _with_interval(cell: Cell | None, metric: str) -> str:
    if cell is None:
        return ""
    low, high = bootstrap_interval(cell.counts[metric])
    return f"{cell.rate(metric):.2f} ({low:.2f}–{high:.2f})"


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


COLUMNS = {
    "CER": "ref_chars ins del sub cer low high",
    "WER": "ref_words word_ins word_del word_sub wer wer_low wer_high",
}


def comma_separated(table: Table, metric: str = "CER") -> str:
    """Every cell of the table as one CSV line, the corpus's ``metric`` first."""
    metrics = metrics_for(metric)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        "encoder preset left_context_frames d_state method beam_size streaming state_dtype state_bytes chunk_size "
        f"chunk_ms part utterances {' '.join(COLUMNS[kind] for kind in metrics)}".split()
    )
    for system, row in table.items():
        for chunk, cells in sorted(row.items()):
            for part, cell in sorted(cells.items()):
                where = [cell.state_bytes, chunk, chunk * FRAME_MS if chunk > 0 else -1, part, len(cell.cut_ids)]
                numbers = []
                for kind in metrics:
                    interval = bootstrap_interval(cell.counts[kind])
                    rates = (f"{value:.4f}" for value in (cell.rate(kind), *interval))
                    numbers += [*total(cell.counts[kind]), *rates]
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
        raise UserError(f"{path} is not the statistics.json of prepare.sh ({error}); run its statistics stage again") from error
    return "sentences of at least 10 characters that also occur in training: " + ", ".join(found)


def write_report(
    directories: Sequence[Path], out_dir: Path, statistics: Path | None = None, corpus_name: str | None = None
) -> dict[str, Path]:
    """Reads results, writes cer.md, cer.csv and the figures (by words: wer...); returns their paths by kind."""
    if corpus_name:
        corpus_named(corpus_name)
    results = [result for directory in directories for result in read_results(directory)]
    corpus, results = choose_corpus(results, corpus_name)
    results, notes = choose_averages(results, corpus)
    table = tabulate(results)
    metric, name = corpus.metric, corpus.metric.lower()
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = {"table": out_dir / f"{name}.md", "csv": out_dir / f"{name}.csv"}
    with atomic_write(paths["table"]) as file:
        file.write(markdown(table, corpus, notes, corpus_note(statistics)))
    with atomic_write(paths["csv"]) as file:
        file.write(comma_separated(table, metric))
    tests = pooled_parts({result.part for result in results}, corpus) or [corpus.valid]
    cells = {
        system: {chunk: cell for chunk in row if (cell := pooled(row[chunk], tests))} for system, row in table.items()
    }
    lines = {_line_name(system, cells): cells[system] for system in cells if cells[system]}
    paths["figure"] = figures.rate_over_chunk(lines, tests, out_dir / f"{name}_over_chunk.png", metric)
    paths["state figure"] = figures.rate_over_state(lines, tests, out_dir / f"{name}_over_state.png", metric)
    return paths


def _line_name(system: System, others: Iterable[System]) -> str:
    """The label of a line: the way of decoding is named only where it differs."""
    same = len({other.decoding for other in others}) == 1
    return system.label if same else f"{system.label} ({system.decoding})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="result directories of decode.py")
    parser.add_argument("--out-dir", type=Path, help="where the table and figures go (default: the first DIR)")
    parser.add_argument("--corpus", help=f"{', '.join(CORPORA)} (default: the one that was decoded)")
    parser.add_argument("--statistics", type=Path, help="statistics.json of prepare.sh, for the sentence overlap")


def run(args: argparse.Namespace) -> int:
    out_dir = args.out_dir or args.directories[0]
    paths = write_report(args.directories, out_dir, args.statistics, args.corpus)
    print(paths["table"].read_text(encoding="utf-8"))
    for kind, path in paths.items():
        print(f"{kind}: {path}")
    return 0
