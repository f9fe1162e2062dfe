"""The files of one decoded part: recogs-, errs- and cer- or wer-summary- as icefall users know them, and cer-*.json.

The JSON file holds everything that ``sammo report`` needs; it is written last, so a part has
results exactly when it is there.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, NamedTuple, Sequence

from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.scoring.cer import (
    EPSILON,
    METRICS,
    Counts,
    ErrorSummary,
    alignment,
    count_errors,
    error_rate,
    metrics_for,
    summarize,
    total,
)

FORMAT = "sammo-cer-1"
KEYS = {"CER": ("interval", "utterances"), "WER": ("word_interval", "words")}  # what the JSON file calls them


@dataclass(frozen=True)
class DecodeSetting:
    """What decided a result: the model and how it was decoded.

    chunk_size and left_context_frames count frames of 20 ms, chunk_size -1 is the whole utterance;
    state_bytes is what a stream keeps between chunks; streaming tells chunk-by-chunk decoding from
    simulated streaming; checkpoint names the weights (files and batch count).
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

    @property
    def suffix(self) -> str:
        """The part of the file names that tells settings apart."""
        words = [
            self.encoder,
            "streaming" if self.streaming else "simulated",
            f"epoch-{self.epoch}-avg-{self.avg}" + ("-averaged-model" if self.use_averaged_model else ""),
            f"chunk-{self.chunk_size}",
            f"left-context-{self.left_context_frames}",
            self.method + (f"-beam-{self.beam_size}" if self.method == "modified_beam_search" else ""),
        ]
        if self.state_dtype != "float32":
            words.append(f"state-{self.state_dtype}")
        return "-".join(words)


class PartResult(NamedTuple):
    """One part at one setting, as read back from its JSON file.

    counts: one an utterance, by metric: always "CER", also "WER" where the corpus is scored by words. corpus: its name,
    "" where the file does not say.
    """

    setting: DecodeSetting
    part: str
    cut_ids: list[str]
    counts: dict[str, list[Counts]]
    extra: dict[str, Any]
    path: Path
    corpus: str = ""

    def rate(self, metric: str = "CER") -> float:
        """Percent."""
        return error_rate(total(self.counts[metric]))


def write_results(
    res_dir: str | Path,
    setting: DecodeSetting,
    part: str,
    results: Iterable[tuple[str, str, str, Sequence[float]]],
    extra: dict[str, Any] | None = None,
    metric: str = "CER",
    corpus: str = "",
) -> list[ErrorSummary]:
    """Score a decoded part and write its files, each whole or not at all.

    Args:
      res_dir: made if it is missing.
      setting: how the part was decoded.
      part: "eval1", "valid", ...
      metric, corpus: "WER" also counts words and writes recogs- and errs- in them; the corpus's name is noted.
      results: (cut id, reference, hypothesis, time of each token in seconds).
      extra: further JSON values worth keeping (delays of tokens, for instance).

    Returns:
      The error rates, that of ``metric`` first.
    """
    res_dir = Path(res_dir)
    res_dir.mkdir(parents=True, exist_ok=True)
    results = sorted(results)
    counts = {kind: [count_errors(ref, hyp, kind) for _, ref, hyp, _ in results] for kind in metrics_for(metric)}
    summaries = [summarize(part, kind, counts[kind]) for kind in counts]
    units = METRICS[metric]
    name = f"{part}-{setting.suffix}"
    with atomic_write(res_dir / f"recogs-{name}.txt") as file:
        for cut_id, ref, hyp, times in results:
            print(f"{cut_id}:\tref={units(ref)}", file=file)
            print(f"{cut_id}:\thyp={units(hyp)}", file=file)
            print(f"{cut_id}:\ttimestamp_hyp={[round(time, 3) for time in times]}", file=file)
    with atomic_write(res_dir / f"errs-{name}.txt") as file:
        for line in error_lines(results, summaries[0]):
            print(line, file=file)
    record = {"format": FORMAT, "corpus": corpus, "part": part, "setting": dataclasses.asdict(setting)}
    for summary in summaries:
        kind = summary.metric.lower()
        with atomic_write(res_dir / f"{kind}-summary-{name}.txt") as file:
            print(f"settings\t{summary.metric}", file=file)
            print(f"{setting.suffix}\t{summary.rate:.2f}", file=file)
        interval, utterances = KEYS[summary.metric]
        record[kind] = round(summary.rate, 4)
        record[interval] = [round(summary.low, 4), round(summary.high, 4)]
        record[utterances] = {cut_id: list(count) for (cut_id, *_), count in zip(results, counts[summary.metric])}
    record["extra"] = extra or {}
    with atomic_write(_json_path(res_dir, setting, part)) as file:
        json.dump(record, file, ensure_ascii=False, indent=1)
    return summaries


def error_lines(results: Sequence[tuple], summary: ErrorSummary) -> Iterable[str]:
    """The lines of an errs- file: totals, each utterance's alignment, and the most frequent errors."""
    counts = summary.counts
    units = {"CER": "characters", "WER": "words"}[summary.metric]
    yield f"%{summary.metric} = {summary.rate:.2f}   95% interval {summary.low:.2f} to {summary.high:.2f}"
    yield (
        f"Errors: {counts.ins} insertions, {counts.dels} deletions, {counts.subs} substitutions, "
        f"over {counts.ref} reference {units} ({counts.ref - counts.dels - counts.subs} correct)"
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


def has_results(res_dir: str | Path, setting: DecodeSetting, part: str, metric: str = "CER") -> bool:
    """Whether this part was decoded at this setting from these very weights, and scored by ``metric``."""
    path = _json_path(Path(res_dir), setting, part)
    if not path.is_file():
        return False
    result = read_result(path)
    return result.setting == setting and metric in result.counts


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
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}")
        counts = {
            metric: [Counts(*map(int, values)) for values in record[key].values()]
            for metric, (_, key) in KEYS.items()
            if metric == "CER" or key in record
        }
        setting, ids = DecodeSetting(**record["setting"]), list(record["utterances"])
        return PartResult(setting, record["part"], ids, counts, record["extra"], path, record.get("corpus", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a result file of decode.py ({error}); delete it and decode again") from error


def _json_path(res_dir: Path, setting: DecodeSetting, part: str) -> Path:
    return res_dir / f"cer-{part}-{setting.suffix}.json"
