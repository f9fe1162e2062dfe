"""The files of one decoded part: recogs-, errs- and cer- or wer-summary- as icefall users know them, and cer-*.json.

The JSON file holds everything that made the result and that ``sammo report`` needs; it is written last, so a part has
results exactly when it is there and names no utterance that failed. timestamps-* hold the times of the tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from sammo.corpora import Corpus, from_json
from sammo.errors import UserError
from sammo.files import atomic_write, parse_json
from sammo.scoring.cer import (
    EPSILON,
    METRICS,
    UNITS,
    Counts,
    ErrorSummary,
    alignment,
    count_errors,
    error_rate,
    metrics_for,
    summarize,
    total,
)

FORMAT = "sammo-cer-2"
OLD_FORMAT = "sammo-cer-1"  # no experiment, search options and failures yet
LARGEST = 1 << 28  # bytes of a result file
PLAIN = re.compile(r"[^\x00-\x1f|\ud800-\udfff]{0,1000}")  # what no table and no file is broken by
KEYS = {"CER": ("interval", "utterances"), "WER": ("word_interval", "words")}  # what the JSON file calls them


@dataclass(frozen=True)
class DecodeSetting:
    """What decided a result: the model and how it was decoded.

    chunk_size and left_context_frames count frames of 20 ms, chunk_size -1 is the whole utterance;
    state_bytes is what a stream keeps between chunks; streaming tells chunk-by-chunk decoding from
    simulated streaming; checkpoint names the weights (files and batch count). experiment is the directory of the
    training run; search, the options of search and padding that are not the defaults ("blank-penalty-1");
    transcript_mode, what was scored against, "" for the supervisions' own text; features, "computed" from the audio or
    "stored"; mixer, its name where it is not the one of ``encoder``'s preset.
    """

    encoder: str
    preset: str
    method: str
    beam_size: int
    chunk_size: int
    left_context_frames: int
    epoch: int
    avg: int
    use_averaged_model: bool
    d_state: int
    state_dtype: str
    state_bytes: int
    streaming: bool
    checkpoint: str
    experiment: str = ""
    search: str = ""
    transcript_mode: str = ""
    features: str = "computed"
    mixer: str = ""

    @property
    def weights(self) -> str:
        """The files in ``checkpoint``: epoch-40, checkpoint-8000, best-valid, ..."""
        return self.checkpoint.partition(",")[0]

    @property
    def suffix(self) -> str:
        """The part of the file names that tells settings apart."""
        words = [
            self.encoder,
            "streaming" if self.streaming else "simulated",
            f"epoch-{self.epoch}" if self.weights.startswith("epoch-") else _slug(self.weights),
            f"avg-{self.avg}" + ("-averaged-model" if self.use_averaged_model else ""),
            f"chunk-{self.chunk_size}",
            f"left-context-{self.left_context_frames}",
            self.method + (f"-beam-{self.beam_size}" if self.method == "modified_beam_search" else ""),
        ]
        if self.search:
            words.append(self.search)
        if self.state_dtype != "float32":
            words.append(f"state-{self.state_dtype}")
        if self.transcript_mode:
            words.append(self.transcript_mode)
        if self.features != "computed":
            words.append(f"{self.features}-features")
        return "-".join(words)


class PartResult(NamedTuple):
    """One part at one setting, as read back from its JSON file.

    counts: one an utterance, by metric: always "CER", also "WER" where the corpus is scored by words. corpus: None
    where the file does not say. failed: why, by cut id, for utterances that were given up. inputs: digests of what was
    read beside the model, by its kind ("manifest").
    """

    setting: DecodeSetting
    part: str
    cut_ids: list[str]
    counts: dict[str, list[Counts]]
    extra: dict[str, Any]
    path: Path
    corpus: Corpus | None = None
    failed: Mapping[str, str] = {}
    inputs: Mapping[str, str] = {}

    def rate(self, metric: str = "CER") -> float:
        """Percent."""
        return error_rate(total(self.counts[metric]))


def write_results(
    res_dir: str | Path,
    setting: DecodeSetting,
    part: str,
    results: Iterable[tuple[str, str, str, Sequence[float]]],
    extra: dict[str, Any] | None = None,
    corpus: Corpus | None = None,
    failed: Mapping[str, str] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> list[ErrorSummary]:
    """Score a decoded part and write its files, each whole or not at all.

    Args:
      res_dir: made if it is missing.
      setting: how the part was decoded.
      part: "eval1", "valid", ...
      corpus: is noted; one that is scored by words has its words counted, too, and recogs- and errs- in them. None:
        characters.
      results: (cut id, reference, hypothesis, time of each token in seconds).
      extra: further JSON values worth keeping (delays of tokens, for instance).
      failed: why, by cut id, for those of ``results`` that were given up. They count as they are, the part as not
        decoded: the next run decodes it again, and reports mark it.
      inputs: digests of what was read beside the model, by its kind, for :func:`has_results`.

    Returns:
      The error rates, that of the corpus first.
    """
    metric = "CER" if corpus is None else corpus.metric
    res_dir = Path(res_dir)
    res_dir.mkdir(parents=True, exist_ok=True)
    results = sorted(results)
    counts = {kind: [count_errors(ref, hyp, kind) for _, ref, hyp, _ in results] for kind in metrics_for(metric)}
    summaries = [summarize(part, kind, counts[kind]) for kind in counts]
    units = METRICS[metric]
    failed = dict(sorted((failed or {}).items()))
    name = result_name(res_dir, setting, part)
    with atomic_write(res_dir / f"recogs-{name}.txt") as file:
        for cut_id, ref, hyp, _ in results:
            print(f"{cut_id}:\tref={units(ref)}", file=file)
            print(f"{cut_id}:\thyp={units(hyp)}", file=file)
    # A file of its own: readers of recogs- take its lines in pairs.
    with atomic_write(res_dir / f"timestamps-{name}.txt") as file:
        for cut_id, _, _, times in results:
            print(f"{cut_id}:\ttimestamp_hyp={[round(time, 3) for time in times]}", file=file)
    with atomic_write(res_dir / f"errs-{name}.txt") as file:
        if failed:
            print(f"INCOMPLETE: {len(failed)} of {len(results)} utterances failed: {', '.join(failed)}", file=file)
        for line in error_lines(results, summaries[0]):
            print(line, file=file)
    made_by = {**dataclasses.asdict(setting), "experiment": _stored(res_dir, setting.experiment)}
    record = {
        "format": FORMAT,
        "corpus": corpus and corpus.to_json(),
        "part": part,
        "setting": made_by,
        "failed": failed,
        "inputs": dict(inputs or {}),
    }
    for summary in summaries:
        kind = summary.metric.lower()
        with atomic_write(res_dir / f"{kind}-summary-{name}.txt") as file:
            print(f"settings\t{summary.metric}", file=file)
            print(f"{setting.suffix}\t{summary.rate:.2f}" + (f" ({len(failed)} failed)" if failed else ""), file=file)
        interval, utterances = KEYS[summary.metric]
        record[kind] = round(summary.rate, 4)
        record[interval] = [round(summary.low, 4), round(summary.high, 4)]
        record[utterances] = {cut_id: list(count) for (cut_id, *_), count in zip(results, counts[summary.metric])}
    record["extra"] = extra or {}
    with atomic_write(res_dir / f"cer-{name}.json") as file:
        json.dump(record, file, indent=1)  # in ASCII: the name of a directory need not be text
    return summaries


def error_lines(results: Sequence[tuple], summary: ErrorSummary) -> Iterable[str]:
    """The lines of an errs- file: totals, each utterance's alignment, and the most frequent errors."""
    counts = summary.counts
    yield f"%{summary.metric} = {summary.rate:.2f}   95% interval {summary.low:.2f} to {summary.high:.2f}"
    yield (
        f"Errors: {counts.ins} insertions, {counts.dels} deletions, {counts.subs} substitutions, "
        f"over {counts.ref} reference {UNITS[summary.metric]} ({counts.ref - counts.dels - counts.subs} correct)"
    )
    yield "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:"
    yield ""
    yield "PER-UTT DETAILS: corr or (ref->hyp)"
    kinds: dict[str, Counter] = {"SUBSTITUTIONS": Counter(), "DELETIONS": Counter(), "INSERTIONS": Counter()}
    for cut_id, ref, hyp, _ in results:
        words = []
        for left, right in alignment(ref, hyp, summary.metric):
            words.append(left if left == right else f"({left}->{right})")
            if left == right:
                continue
            if left == EPSILON:
                kinds["INSERTIONS"][right] += 1
            elif right == EPSILON:
                kinds["DELETIONS"][left] += 1
            else:
                kinds["SUBSTITUTIONS"][f"{left} -> {right}"] += 1
        yield f"{cut_id}:\t{' '.join(words)}"
    for kind, found in kinds.items():
        yield ""
        yield f"{kind}: count, what"
        for what, count in sorted(found.items(), key=lambda item: (-item[1], item[0])):
            yield f"{count}   {what}"


def has_results(
    res_dir: str | Path,
    setting: DecodeSetting,
    part: str,
    metric: str = "CER",
    inputs: Mapping[str, str] | None = None,
) -> bool:
    """Whether this part was decoded at this setting from these very weights and ``inputs``, all of it, and scored by
    ``metric``."""
    path = Path(res_dir) / f"cer-{result_name(res_dir, setting, part)}.json"
    if not path.is_file():
        return False
    try:
        result = read_result(path)
    except UserError as error:
        logging.warning(str(error))
        return False
    if result.setting != setting or metric not in result.counts:
        return False
    other = [kind for kind, digest in (inputs or {}).items() if result.inputs.get(kind) != digest]
    if other:
        logging.info(f"{part}: decoded before from another {' and '.join(other)}; decoding it again")
    elif result.failed:
        logging.info(f"{part}: {len(result.failed)} utterances failed the last time; decoding it again")
    return not other and not result.failed


def result_name(res_dir: str | Path, setting: DecodeSetting, part: str) -> str:
    """What the files of a result have in common; a directory shared by experiments tells them apart."""
    name = f"{part}-{setting.suffix}"
    if not setting.experiment or _inside(res_dir, setting.experiment):
        return name
    digest = hashlib.sha256(setting.experiment.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{name}-{_slug(Path(setting.experiment).name)}-{digest}"


def read_results(directory: str | Path) -> list[PartResult]:
    """All results below ``directory``, by path; UserError if there are none or one cannot be read."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"no directory {directory}; give the one that decode.py wrote to (--res-dir)")
    paths = sorted(directory.rglob("cer-*.json"))
    if not paths:
        raise UserError(f"no results (cer-*.json) below {directory}; run decode.py first")
    return [read_result(path) for path in paths]


def read_result(path: Path) -> PartResult:
    """One cer-*.json; UserError if it is not one."""
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        record = parse_json(path.read_text(encoding="utf-8"))
        if record["format"] not in (FORMAT, OLD_FORMAT):
            raise ValueError(f"format {record['format']!r}")
        record = {"failed": {}, "inputs": {}, **record}
        utterances, part, extra, failed = (record[key] for key in ("utterances", "part", "extra", "failed"))
        inputs = record["inputs"]
        if not isinstance(inputs, dict) or not all(isinstance(digest, str) for digest in inputs.values()):
            raise ValueError(f"inputs {str(inputs)[:80]}")
        if not isinstance(part, str) or not re.fullmatch(r"[\w.+-]+", part):
            raise ValueError(f"part {part!r}")
        if not isinstance(extra, dict) or not isinstance(failed, dict) or not failed.keys() <= utterances.keys():
            raise ValueError("its failures or further values are not what decode.py writes")
        counts = {}
        for metric, (_, key) in KEYS.items():
            if metric == "CER" or key in record:
                if record[key].keys() != utterances.keys():
                    raise ValueError(f"other utterances in {key}")
                counts[metric] = [_counts(values) for values in record[key].values()]
                _check_rate(metric, record[metric.lower()], error_rate(total(counts[metric])))
        setting = _setting(record["setting"])
        corpus = from_json(record["corpus"]) if record.get("corpus") else None
        if setting.experiment:
            setting = dataclasses.replace(setting, experiment=str((path.parent / setting.experiment).resolve()))
        return PartResult(setting, part, list(utterances), counts, extra, path, corpus, failed, inputs)
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a result file of decode.py ({reason}); delete it and decode again") from error


def failure_notes(results: Iterable[PartResult]) -> list[str]:
    """A line a result in which utterances failed."""
    lines = []
    for result in results:
        if result.failed:
            cut_id, reason = next(iter(result.failed.items()))
            first = " ".join(f"{cut_id}: {reason}".split())[:300]
            lines.append(
                f"{result.part}, {result.setting.suffix}: {len(result.failed)} of {len(result.cut_ids)} utterances "
                f"failed ({first}); decode again"
            )
    return lines


def _counts(values: Any) -> Counts:
    counts = Counts(*values)
    numbers = all(type(value) is int and 0 <= value < 1 << 40 for value in counts)
    if not numbers or counts.dels + counts.subs > counts.ref:
        raise ValueError(f"counts {values!r}")
    return counts


def _setting(values: dict[str, Any]) -> DecodeSetting:
    setting = DecodeSetting(**values)
    kinds = {"int": int, "str": str, "bool": bool}
    for item in dataclasses.fields(DecodeSetting):
        value = getattr(setting, item.name)
        if type(value) is not kinds[str(item.type)] or (isinstance(value, int) and abs(value) >= 1 << 40):
            raise ValueError(f"{item.name} {value!r}")
        # Line breaks and bars would break the tables that show them.
        plain = item.name == "experiment" or not isinstance(value, str) or re.fullmatch(PLAIN, value)
        if not plain:
            raise ValueError(f"{item.name} {str(value)[:80]!r}")
    return setting


def _check_rate(metric: str, noted: Any, rate: float) -> None:
    """Written so that NaN is refused; infinite is the rate of errors without a reference."""
    if isinstance(noted, bool) or not isinstance(noted, (int, float)):
        raise ValueError(f"{metric} {noted!r}")
    if not (noted == rate or abs(noted - rate) <= 1e-3 * max(1, rate)):
        raise ValueError(f"its {metric}, {noted!r}, is not that of its counts, {rate:.4f}")


def _inside(res_dir: str | Path, experiment: str) -> bool:
    return Path(res_dir).resolve().is_relative_to(Path(experiment).resolve())


def _stored(res_dir: Path, experiment: str) -> str:
    """Relative where the results lie in the experiment, so that both can move."""
    if not experiment or not _inside(res_dir, experiment):
        return experiment
    return os.path.relpath(Path(experiment).resolve(), res_dir.resolve())


def _slug(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII)[:60]
