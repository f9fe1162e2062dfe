"""The table behind ``sammo report``: which results make a row, and which rows are pooled.

A row is an experiment, the directory of one training run, decoded in one way. Experiments are pooled, as seeds of one
setup, only where that is asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Iterable, NamedTuple, Sequence

from sammo.corpora import CSJ, Corpus, corpus_named
from sammo.errors import UserError
from sammo.scoring.cer import Counts, error_rate, total
from sammo.scoring.results import PartResult

POOLED = "*"  # the part that stands for all test parts of pooled seeds; no part is called so
SEED = re.compile(r"seed[-_=]?\d+")  # in the path of an experiment that --pool-seeds pools with its like


class System(NamedTuple):
    """What a line of the figure and a row of the table stand for: everything but the chunk."""

    experiment: str
    encoder: str
    preset: str
    left_context_frames: int
    d_state: int
    method: str
    beam_size: int
    search: str
    streaming: bool
    state_dtype: str
    transcript_mode: str
    features: str
    mixer: str

    @property
    def label(self) -> str:
        """What tables and figures call it."""
        name = self.encoder.removesuffix(f"-{self.mixer}").capitalize()
        words = [
            f"{name} {'without a mixer' if self.mixer == 'none' else f'with {self.mixer}'}" if self.mixer else name
        ]
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
        more = [self.search.replace("-", " ")] if self.search else []
        more += [f"against {self.transcript_mode}"] if self.transcript_mode not in ("", CSJ.default_mode) else []
        more += [f"{self.features} features"] if self.features != "computed" else []
        return ", ".join([f"{method}{beam}", f"{'chunk by chunk' if self.streaming else 'simulated'}{dtype}", *more])


class Cell(NamedTuple):
    """One system at one chunk size over some parts; counts by metric."""

    counts: dict[str, list[Counts]]
    cut_ids: list[str]
    state_bytes: int
    failed: int = 0  # utterances
    runs: Sequence[Cell] = ()  # the cells of each experiment, where seeds are pooled

    def rate(self, metric: str) -> float:
        """Percent; of pooled seeds, their mean."""
        if self.runs:
            return fmean(cell.rate(metric) for cell in self.runs)
        return error_rate(total(self.counts[metric]))


Table = dict[System, dict[int, dict[str, Cell]]]  # system -> chunk -> part -> cell


def system_of(result: PartResult) -> System:
    setting = result.setting
    return System(
        setting.experiment or str(result.path.parent.resolve()),
        setting.encoder,
        setting.preset,
        setting.left_context_frames,
        setting.d_state,
        setting.method,
        setting.beam_size if setting.method == "modified_beam_search" else 1,
        setting.search,
        setting.streaming,
        setting.state_dtype,
        setting.transcript_mode,
        setting.features,
        setting.mixer,
    )


def choose_corpus(results: Sequence[PartResult], name: str | None = None) -> tuple[Corpus, list[PartResult]]:
    """The corpus called ``name``, or without a name the only one that was decoded, and its results.

    Raises:
      UserError: there are results of several, none of the one that is named, or none by its metric.
    """
    by_corpus: dict[Corpus, list[PartResult]] = defaultdict(list)
    for result in results:
        by_corpus[result.corpus or CSJ].append(result)  # results of earlier versions are CSJ's
    chosen = [corpus for corpus in by_corpus if name in (None, "", corpus.name)]
    listed = ", ".join(sorted(corpus.name for corpus in by_corpus))
    if name and not chosen:
        raise UserError(f"no results on {corpus_named(name).name} here, only on {listed}")
    if len(chosen) > 1:
        raise UserError(f"these are results on {listed}; choose one by --corpus, or name fewer directories")
    [corpus] = chosen
    found = by_corpus[corpus]
    for result in found:
        if corpus.metric not in result.counts:
            raise UserError(f"{result.path} has no {corpus.metric}; decode again with --force")
    return corpus, found


def average_of(result: PartResult) -> tuple[int, int, bool, str]:
    """What tells averages of one training run apart."""
    setting = result.setting
    return setting.epoch, setting.avg, setting.use_averaged_model, setting.weights


def choose_once(
    results: Sequence[PartResult], corpus: Corpus, chunk: int, left: int
) -> tuple[list[PartResult], list[str]]:
    """Of several averages of an experiment keeps one for all of its settings, as the original experiment does: the one
    that is best on the validation part at ``chunk`` and ``left``, frames of 20 ms.

    Returns the results kept and a note for each choice. UserError where there is a choice and no result to make it by.
    """
    experiments: dict[System, dict[tuple, list[PartResult]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        system = system_of(result)._replace(left_context_frames=0)
        experiments[system][average_of(result)].append(result)
    kept, notes = [], []
    for system, averages in experiments.items():
        scores = {}
        attends = any(result.setting.left_context_frames for found in averages.values() for result in found)
        place = (chunk, left if attends else 0)
        for average, found in averages.items():
            for result in found:
                there = (result.setting.chunk_size, result.setting.left_context_frames) == place
                if there and result.part == corpus.valid and not result.failed:
                    scores[average] = result.rate(corpus.metric)
        if len(averages) > 1 and len(scores) < len(averages):
            raise UserError(
                f"{system.label} ({system.experiment}) has {len(averages)} averages but only {len(scores)} complete "
                f'results on "{corpus.valid}" at chunk {chunk}, left context {left} to choose by; decode them'
            )
        best = min(averages, key=lambda average: (scores.get(average, 0.0), average))
        if len(averages) > 1:
            notes.append(
                f"{Path(system.experiment).name}, {system.label}, {system.decoding}: epoch {best[0]}, average of "
                f"{best[1]} for all settings, chosen on {corpus.valid} at chunk {chunk} out of {len(averages)}"
            )
        kept.extend(averages[best])
    return kept, notes


def choose_averages(results: Sequence[PartResult], corpus: Corpus = CSJ) -> tuple[list[PartResult], list[str]]:
    """Of several averages of one system keeps the one that is best on the validation part, never on a test part.

    Returns the results kept and a note for each choice. UserError if there is a choice but no
    result on the validation part to make it by.
    """
    by_system: dict[tuple, dict[tuple, list[PartResult]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        by_system[system_of(result), result.setting.chunk_size][average_of(result)].append(result)
    kept, notes = [], []
    for (system, chunk), averages in by_system.items():
        if len(averages) > 1:
            scores = {}
            for average, found in averages.items():
                for result in found:
                    # What failed has no error rate to choose by.
                    if result.part == corpus.valid and not result.failed:
                        scores[average] = result.rate(corpus.metric)
            if len(scores) < len(averages):
                raise UserError(
                    f"{system.label} ({system.experiment}) at chunk {chunk} has {len(averages)} averages but only "
                    f'{len(scores)} complete results on "{corpus.valid}" to choose by; decode the part '
                    f"{corpus.valid} for each"
                )
            best = min(scores, key=lambda average: (scores[average], average))
            notes.append(
                f"{Path(system.experiment).name}, {system.label}, {system.decoding}, chunk {chunk}: epoch {best[0]}, "
                f"average of {best[1]}, chosen on {corpus.valid} out of {len(averages)}"
            )
            averages = {best: averages[best]}
        for found in averages.values():
            kept.extend(found)
    return kept, notes


def tabulate(results: Iterable[PartResult]) -> Table:
    """Orders results; of two for the same cell the one with the longer-trained weights stays."""
    table: Table = defaultdict(lambda: defaultdict(dict))
    for result in sorted(results, key=lambda r: (r.setting.epoch, r.setting.checkpoint)):
        cell = Cell(result.counts, result.cut_ids, result.setting.state_bytes, len(result.failed))
        table[system_of(result)][result.setting.chunk_size][result.part] = cell
    # By what they are before by where they are, so that rows to compare stand together.
    return {system: dict(table[system]) for system in sorted(table, key=lambda s: (*s[1:], s.experiment))}


def pool_seeds(table: Table, tests: Sequence[str]) -> Table:
    """Experiments whose paths differ in nothing but a number behind "seed" become one row of mean and spread.

    A cell holds the parts that all of its seeds have; the part POOLED stands for ``tests`` together.
    """
    groups: dict[System, list[System]] = defaultdict(list)
    for system in table:
        groups[system._replace(experiment=SEED.sub("seed*", system.experiment))].append(system)
    out: Table = {}
    for group, systems in groups.items():
        if len(systems) == 1:
            out[systems[0]] = table[systems[0]]
            continue
        out[group] = {}
        for chunk in sorted({chunk for system in systems for chunk in table[system]}):
            rows = [table[system].get(chunk, {}) for system in systems]
            cells = {part: [row[part] for row in rows] for part in rows[0] if all(part in row for row in rows)}
            whole = [cell for row in rows if (cell := pooled(row, tests))]
            if len(whole) == len(rows):
                cells[POOLED] = whole
            out[group][chunk] = {part: _joined(found, found) for part, found in cells.items()}
    return out


def pooled(cells: dict[str, Cell], parts: Sequence[str]) -> Cell | None:
    """All test parts as one, or None if one is missing."""
    if POOLED in cells:
        return cells[POOLED]
    if not parts or any(part not in cells for part in parts) or any(cells[part].runs for part in parts):
        return None
    return _joined([cells[part] for part in parts])


def _joined(cells: Sequence[Cell], runs: Sequence[Cell] = ()) -> Cell:
    return Cell(
        {metric: [count for cell in cells for count in cell.counts[metric]] for metric in cells[0].counts},
        [cut for cell in cells for cut in cell.cut_ids],
        cells[0].state_bytes,
        sum(cell.failed for cell in cells),
        runs,
    )


def pooled_parts(parts: Iterable[str], corpus: Corpus) -> list[str]:
    """Those of ``parts`` whose results make one number: the corpus's tests, or where none of them is there whatever is
    neither for training nor excluded."""
    found = set(parts)
    return sorted(found & set(corpus.tests) or found - {corpus.train, corpus.valid, *corpus.excluded, POOLED})


def experiment_names(table: Table) -> dict[str, str]:
    """Experiment -> as much of its path, from the end, as tells the experiments apart."""
    paths = {system.experiment: Path(system.experiment).parts for system in table}
    names = {}
    for path, parts in paths.items():
        length = 1
        while length < len(parts) and sum(other[-length:] == parts[-length:] for other in paths.values()) > 1:
            length += 1
        names[path] = "/".join(parts[-length:]).replace("|", "_").encode("utf-8", "replace").decode()
    return names


def line_names(systems: Sequence[System], experiments: dict[str, str]) -> dict[System, str]:
    """A label a system; the way of decoding and the experiment are named only where labels are the same without."""
    labels = {system: system.label for system in systems}
    for more in (lambda system: system.decoding, lambda system: experiments[system.experiment]):
        many = {label for label in labels.values() if list(labels.values()).count(label) > 1}
        differ = {label for label in many if len({more(s) for s in systems if labels[s] == label}) > 1}
        labels = {s: f"{label} ({more(s)})" if label in differ else label for s, label in labels.items()}
    return labels
