"""Transcripts as text, JSON lines and subtitles."""

from __future__ import annotations

import json
from typing import Any, Callable, Iterable

from sammo.data.tokens import SPACE, Tokenizer
from sammo.streaming.session import Event

LONGEST_CUE = 6.0  # seconds of a subtitle; a longer utterance is cut at its longest pauses


def json_line(name: str, event: Event, tokenizer: Tokenizer) -> str:
    """One utterance: where and what it is, and its units with their times in seconds."""
    units = [
        {"token": tokenizer.piece(token), "time": round(time, 3)} for token, time in zip(event.tokens, event.timestamps)
    ]
    record: dict[str, Any] = {"file": name, "utterance": event.utterance}
    record |= {"start": round(event.start, 3), "end": round(event.end, 3), "text": event.text, "tokens": units}
    return json.dumps(record, ensure_ascii=False)


def srt_cue(number: int, start: float, end: float, text: str) -> str:
    """One subtitle of SubRip."""
    return f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n{text}\n"


def vtt_cue(number: int, start: float, end: float, text: str) -> str:
    """One subtitle of WebVTT (W3C), in which some letters are markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{clock(start, '.')} --> {clock(end, '.')}\n{text}\n"


SUBTITLES: dict[str, tuple[str, Callable[[int, float, float, str], str]]] = {  # what begins a file, its cues
    "srt": ("", srt_cue),
    "vtt": ("WEBVTT\n\n", vtt_cue),
}


def clock(seconds: float, point: str) -> str:
    """Seconds -> 01:02:03,456."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def cues(event: Event, tokenizer: Tokenizer) -> Iterable[tuple[float, float, str]]:
    """Start, end (seconds) and text of the subtitles of one utterance, none longer than LONGEST_CUE. A longer utterance is
    cut at the longest pause in the second half of a subtitle, between words where the units have any."""
    times, end = [*event.timestamps, event.end], len(event.tokens)
    begin = 0
    while begin < end:
        stop = _cut(event, tokenizer, begin, times)
        text = tokenizer.decode(event.tokens[begin:stop])
        if text:
            yield times[begin], min(times[stop], times[stop - 1] + LONGEST_CUE), text
        begin = stop


def _cut(event: Event, tokenizer: Tokenizer, begin: int, times: list[float]) -> int:
    """The index after the last token of the subtitle that starts at token ``begin``."""
    end = len(event.tokens)
    if times[end] - times[begin] <= LONGEST_CUE:
        return end
    possible = [
        place
        for place in range(begin + 1, end)
        if times[place] - times[begin] <= LONGEST_CUE
        and (not tokenizer.has_words or tokenizer.piece(event.tokens[place]).startswith(SPACE))
    ]
    # Not in the first half, or there would be many short ones.
    late = [place for place in possible if times[place] - times[begin] >= LONGEST_CUE / 2] or possible
    return max(late, key=lambda place: times[place] - times[place - 1], default=begin + 1)
