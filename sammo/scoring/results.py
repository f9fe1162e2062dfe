"""The files of one decoded part: recogs-, errs- and cer-summary- as icefall users know them, and cer-*.json.

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
    CerSummary,
    Counts,
    alignment,
    bootstrap_interval,
    characters,
    count_errors,
    error_rate,
    total,
)

FORMAT = "sammo-cer-1"


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
    """One part at one setting, as read back from its JSON file."""

    setting: DecodeSetting
    part: str
    cut_ids: list[str]
    counts: list[Counts]
    extra: dict[str, Any]
    path: Path

    @property
    def cer(self) -> float:
        """Percent."""
        return error_rate(total(self.counts))


def write_results(
    res_dir: str | Path,
    setting: DecodeSetting,
    part: str,
    results: Iterable[tuple[str, str, str, Sequence[float]]],
    extra: dict[str, Any] | None = None,
) -> CerSummary:
    """Score a decoded part and write its files, each whole or not at all.

    Args:
      res_dir: made if it is missing.
      setting: how the part was decoded.
      part: "eval1", "valid", ...
      results: (cut id, reference, hypothesis, time of each token in seconds).
      extra: further JSON values worth keeping (delays of tokens, for instance).
    """
    res_dir = Path(res_dir)
    res_dir.mkdir(parents=True, exist_ok=True)
    results = sorted(results)
    counts = [count_errors(ref, hyp) for _, ref, hyp, _ in results]
    everything = total(counts)
    low, high = bootstrap_interval(counts)
    summary = CerSummary(part, everything, error_rate(everything), low, high, len(counts))
    name = f"{part}-{setting.suffix}"
    with atomic_write(res_dir / f"recogs-{name}.txt") as file:
        for cut_id, ref, hyp, times in results:
            print(f"{cut_id}:\tref={characters(ref)}", file=file)
            print(f"{cut_id}:\thyp={characters(hyp)}", file=file)
            print(f"{cut_id}:\ttimestamp_hyp={[round(time, 3) for time in times]}", file=file)
    with atomic_write(res_dir / f"errs-{name}.txt") as file:
        for line in error_lines(results, summary):
            print(line, file=file)
    with atomic_write(res_dir / f"cer-summary-{name}.txt") as file:
        print("settings\tCER", file=file)
        print(f"{setting.suffix}\t{summary.cer:.2f}", file=file)
    record = {
        "format": FORMAT,
        "part": part,
        "setting": dataclasses.asdict(setting),
        "cer": round(summary.cer, 4),
        "interval": [round(low, 4), round(high, 4)],
        "utterances": {cut_id: list(count) for (cut_id, *_), count in zip(results, counts)},
        "extra": extra or {},
    }
    with atomic_write(_json_path(res_dir, setting, part)) as file:
        json.dump(record, file, ensure_ascii=False, indent=1)
    return summary


def error_lines(results: Sequence[tuple], summary: CerSummary) -> Iterable[str]:
    """The lines of an errs- file: totals, each utterance's alignment, and the most frequent errors."""
    counts = summary.counts
    yield f"%CER = {summary.cer:.2f}   95% interval {summary.low:.2f} to {summary.high:.2f}"
    yield (
        f"Errors: {counts.ins} insertions, {counts.dels} deletions, {counts.subs} substitutions, "
        f"over {counts.ref} reference characters ({counts.ref - counts.dels - counts.subs} correct)"
    )
    yield "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:"
    yield ""
    yield "PER-UTT DETAILS: corr or (ref->hyp)"
    kinds: dict[str, Counter] = {"SUBSTITUTIONS": Counter(), "DELETIONS": Counter(), "INSERTIONS": Counter()}
    for cut_id, ref, hyp, _ in results:
        words = []
        for left, right in alignment(ref, hyp):
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


def has_results(res_dir: str | Path, setting: DecodeSetting, part: str) -> bool:
    """Whether this part was decoded at this setting from these very weights."""
    path = _json_path(Path(res_dir), setting, part)
    return path.is_file() and read_result(path).setting == setting


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
        counts = [Counts(*map(int, values)) for values in record["utterances"].values()]
        setting = DecodeSetting(**record["setting"])
        return PartResult(setting, record["part"], list(record["utterances"]), counts, record["extra"], path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a result file of decode.py ({error}); delete it and decode again") from error


def _json_path(res_dir: Path, setting: DecodeSetting, part: str) -> Path:
    return res_dir / f"cer-{part}-{setting.suffix}.json"
