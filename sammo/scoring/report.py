"""``sammo report``: one table and the figures from all results below some directories."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from statistics import stdev
from typing import NamedTuple, Sequence

from sammo import geometry
from sammo.corpora import CSJ, Corpus
from sammo.errors import UserError
from sammo.files import atomic_write, parse_json
from sammo.markdown import markdown_table
from sammo.scoring import figures
from sammo.scoring.cer import Counts, bootstrap_interval, difference, holm, matched_pairs, metrics_for, total
from sammo.scoring.results import failure_notes, read_results
from sammo.scoring.table import (
    POOLED,
    Cell,
    System,
    Table,
    choose_averages,
    choose_corpus,
    choose_once,
    experiment_names,
    line_names,
    pool_seeds,
    pooled,
    pooled_parts,
    tabulate,
)

MEMORY_KEYS = {"sammo-memory-1": "cer", "sammo-memory-2": "rate"}  # of the error rates in memory.json
LEVEL = 0.05  # of significance
FRAME_MS = round(1000 / geometry.RATE)  # of chunk_size and left_context_frames


def chunk_name(chunk: int) -> str:
    """64 -> "64 (1.28 s)"."""
    return "whole utterance" if chunk < 0 else f"{chunk} ({chunk * FRAME_MS / 1000:g} s)"


def markdown(
    table: Table, corpus: Corpus = CSJ, notes: Sequence[str] = (), overlap: str = "", failures: Sequence[str] = ()
) -> str:
    """The report as Markdown: a table of all test parts pooled by each metric, then one with a column a part."""
    chunks = sorted({chunk for row in table.values() for chunk in row}, key=lambda c: (c < 0, c))
    parts = sorted({part for row in table.values() for cells in row.values() for part in cells} - {POOLED})
    tests, metrics = pooled_parts(parts, corpus), metrics_for(corpus.metric)
    names = experiment_names(table)
    out = [f"# {figures.NAMES[corpus.metric]}s", ""]
    if failures:
        out += ["**Incomplete**, marked with (!): failed utterances are scored with what they gave until then.", ""]
    for metric in metrics if tests else ():
        out += [
            f"{metric} in % over {', '.join(tests)}{' together' if len(tests) > 1 else ''}, with its 95 % bootstrap "
            f"interval, over the chunk width in frames of {FRAME_MS} ms. State: what a stream keeps between chunks."
            + (" Of pooled seeds: mean ± standard deviation." if _has_seeds(table) else ""),
            "",
        ]
        head = ["Experiment", "System", "Decoding", "State (KiB)", *map(chunk_name, chunks)]
        rows = []
        for system, row in table.items():
            cells = [pooled(row.get(chunk, {}), tests) for chunk in chunks]
            if any(cells):
                state = next(cell.state_bytes for cell in cells if cell)
                rates = [_with_interval(cell, metric) for cell in cells]
                first = [names[system.experiment], system.label, system.decoding]
                rows.append([*first, f"{state / 1024:.0f}", *rates])
        out += markdown_table(head, rows) + [""]
        out += _differences(table, tests, metric, names)
    out += ["## By part", ""]
    columns = [(part, metric) for part in parts for metric in metrics]
    head = ["Experiment", "System", "Decoding", "Chunk"]
    head += [part if len(metrics) == 1 else f"{part}, {metric}" for part, metric in columns]
    rows = [
        [
            names[system.experiment],
            system.label,
            system.decoding,
            chunk_name(chunk),
            *(_with_interval(cells.get(part), metric) for part, metric in columns),
        ]
        for system, row in table.items()
        for chunk, cells in sorted(row.items())
    ]
    out += markdown_table(head, rows)
    for title, lines in (("Failed", failures), ("Averages", notes), ("Corpus", [overlap] if overlap else [])):
        if lines:
            out += ["", f"## {title}", "", *(f"- {line}" for line in lines)]
    # Names of directories and the reasons of failures need not be text.
    return "\n".join([*out, ""]).encode("utf-8", "replace").decode()


def _has_seeds(table: Table) -> bool:
    return any(cell.runs for row in table.values() for cells in row.values() for cell in cells.values())


class _Difference(NamedTuple):
    """Error rate of one system minus that of another in percent points, its interval, and how likely chance makes it."""

    change: float
    low: float
    high: float
    chance: float


def _differences(table: Table, tests: Sequence[str], metric: str, names: dict[str, str]) -> list[str]:
    """Systems without left context minus all others, over the same utterances: what the paper claims. Each pair once."""
    out, done = [], set()
    for system, row in table.items():
        if system.left_context_frames != 0:
            continue
        done.add(system)
        ours = {chunk: cell for chunk in sorted(row) if (cell := pooled(row[chunk], tests))}
        found: list[tuple[list[str], list[_Difference | None]]] = []
        for other, other_row in table.items():
            if other in done or other.decoding != system.decoding:
                continue
            theirs = {chunk: pooled(other_row.get(chunk, {}), tests) for chunk in ours}
            compared = [_difference(theirs[chunk], cell, metric) for chunk, cell in ours.items()]
            if any(compared):
                state = next(cell.state_bytes for cell in theirs.values() if cell)
                found.append(([names[other.experiment], other.label, f"{state / 1024:.0f}"], compared))
        if found:
            state = next(iter(ours.values())).state_bytes
            rows, count = _marked(found)
            out += [
                f"{metric} of {system.label} ({names[system.experiment]}, {system.decoding}, {state / 1024:.0f} KiB) "
                "minus that of the others, in percent points with a 95 % paired bootstrap interval over utterances; below 0, "
                "it makes fewer errors. *: significant at 5 % in a matched-pairs test, corrected for the number of tests here "
                f"({count}; Holm).",
                "",
                *markdown_table(["minus", "System", "State (KiB)", *map(chunk_name, ours)], rows),
                "",
            ]
    return out


def _marked(found: Sequence[tuple[list[str], list[_Difference | None]]]) -> tuple[list[list[str]], int]:
    """The rows as text, * behind what is no chance, and how many differences that was asked of."""
    tested = [item for _, compared in found for item in compared if item]
    chances = iter(holm([item.chance for item in tested]))

    def text(item: _Difference | None) -> str:
        if item is None:
            return ""
        mark = "*" if next(chances) < LEVEL else ""
        return f"{item.change:+.2f}{mark} ({item.low:+.2f} to {item.high:+.2f})"

    return [[*head, *map(text, compared)] for head, compared in found], len(tested)


def _difference(theirs: Cell | None, ours: Cell, metric: str) -> _Difference | None:
    """None where the two cannot be compared utterance by utterance."""
    if theirs is None or theirs.failed or ours.failed:
        return None
    runs = [*(theirs.runs or [theirs]), *(ours.runs or [ours])]
    if any(run.cut_ids != runs[0].cut_ids for run in runs):
        return None
    pair = _over_seeds(theirs, metric), _over_seeds(ours, metric)
    return _Difference(*difference(*pair), matched_pairs(*pair))


def _over_seeds(cell: Cell, metric: str) -> list[Counts]:
    """Of pooled seeds the sum for each utterance, so that the same speech is compared whatever the seeds."""
    return [total(counts) for counts in zip(*(run.counts[metric] for run in cell.runs or [cell]))]


def _with_interval(cell: Cell | None, metric: str) -> str:
    if cell is None:
        return ""
    mark = " (!)" if cell.failed else ""
    if cell.runs:
        spread = stdev(run.rate(metric) for run in cell.runs)
        return f"{cell.rate(metric):.2f} ± {spread:.2f} ({len(cell.runs)} seeds){mark}"
    low, high = bootstrap_interval(cell.counts[metric])
    return f"{cell.rate(metric):.2f} ({low:.2f}–{high:.2f}){mark}"


COLUMNS = {
    "CER": "ref_chars ins del sub cer low high",
    "WER": "ref_words word_ins word_del word_sub wer wer_low wer_high",
}


def comma_separated(table: Table, metric: str = "CER") -> str:
    """Every cell of the table as one CSV line, the corpus's ``metric`` first."""
    metrics, names = metrics_for(metric), experiment_names(table)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        f"{' '.join(System._fields)} state_bytes chunk_size chunk_ms part utterances failed seeds "
        f"{' '.join(COLUMNS[kind] for kind in metrics)}".split()
    )
    for system, row in table.items():
        for chunk, cells in sorted(row.items()):
            for part, cell in sorted(cells.items()):
                where = [cell.state_bytes, chunk, chunk * FRAME_MS if chunk > 0 else -1, part, len(cell.cut_ids)]
                where += [cell.failed, len(cell.runs) or 1]
                numbers = []
                for kind in metrics:
                    interval = bootstrap_interval(cell.counts[kind])
                    rates = (f"{value:.4f}" for value in (cell.rate(kind), *interval))
                    numbers += [*total(cell.counts[kind]), *rates]
                writer.writerow([names[system.experiment], *system[1:], *where, *numbers])
    return buffer.getvalue()


def corpus_note(path: Path | None) -> str:
    """One line on the overlap of test and training sentences, from prepare.sh's statistics.json."""
    if path is None:
        return ""
    try:
        if not path.is_file():
            raise OSError("it is no regular file")
        parts = parse_json(path.read_text(encoding="utf-8"))["overlap_with_training"]
        found = [f"{part} {row['inside_of_training']} of {row['sentences']}" for part, row in parts.items()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{path} is not the statistics.json of prepare.sh ({error}); run its statistics stage again"
        raise UserError(problem) from error
    return "sentences of at least 10 characters that also occur in training: " + ", ".join(found)


def write_report(
    directories: Sequence[Path],
    out_dir: Path,
    statistics: Path | None = None,
    corpus_name: str | None = None,
    pool: bool = False,
    memory: Path | None = None,
    average_at: tuple[int, int] | None = None,
) -> dict[str, Path]:
    """Reads results, writes cer.md, cer.csv and the figures (by words: wer...); returns their paths by kind.

    Args:
      directories: with results.
      out_dir: of the report.
      statistics: statistics.json of prepare.sh, for the overlap of sentences.
      corpus_name: None: the one that was decoded.
      pool: makes one row of seeds, see :func:`sammo.scoring.table.pool_seeds`.
      memory: memory.json of ``sammo memory``, of the one system without left context.
      average_at: chunk and left context at which one average is chosen for all settings; None: each has its own.
    """
    found = {result.path.resolve(): result for directory in directories for result in read_results(directory)}
    corpus, results = choose_corpus(list(found.values()), corpus_name)
    reset = resets(memory, corpus.metric)
    results, notes = choose_once(results, corpus, *average_at) if average_at else choose_averages(results, corpus)
    table = tabulate(results)
    tests = pooled_parts({result.part for result in results}, corpus)
    if pool:
        table = pool_seeds(table, tests)
    metric, name = corpus.metric, corpus.metric.lower()
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = {"table": out_dir / f"{name}.md", "csv": out_dir / f"{name}.csv"}
    with atomic_write(paths["table"]) as file:
        file.write(markdown(table, corpus, notes, corpus_note(statistics), failure_notes(results)))
    with atomic_write(paths["csv"]) as file:
        file.write(comma_separated(table, metric))
    tests = tests or [corpus.valid]
    cells = {
        system: {chunk: cell for chunk in row if (cell := pooled(row[chunk], tests))} for system, row in table.items()
    }
    labels = line_names([system for system in cells if cells[system]], experiment_names(table))
    lines = {label: cells[system] for system, label in labels.items()}
    paths["figure"] = figures.rate_over_chunk(lines, tests, out_dir / f"{name}_over_chunk.png", metric)
    paths["state figure"] = figures.rate_over_state(lines, tests, out_dir / f"{name}_over_state.png", metric, reset)
    return paths


def resets(path: Path | None, metric: str) -> dict[int, float]:
    """Chunk -> ``metric`` with the recurrent state reset before every chunk, from memory.json of ``sammo memory``."""
    if path is None:
        return {}
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        if content["format"] not in MEMORY_KEYS:
            raise ValueError(f"format {content['format']!r}")
        if content.get("metric", "CER") != metric:
            raise ValueError(f"it has no {metric}")
        key, rows = MEMORY_KEYS[content["format"]], content["conditions"]
        return {int(row["chunk_size"]): float(row[key]) for row in rows if row["state_seconds"] == 0}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the memory.json of sammo memory ({error}); run it again") from error
