"""What ``sammo transcribe`` shows and writes: partial results in place, final ones for good."""

from __future__ import annotations

import shutil
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import IO, Iterator, Sequence

from sammo.data.tokens import Tokenizer
from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.streaming.formats import SUBTITLES, cues, json_line
from sammo.streaming.options import TranscribeOptions
from sammo.streaming.session import Event

SUFFIXES = {"text": ".txt", "json": ".jsonl", "srt": ".srt", "vtt": ".vtt"}


class Screen:
    """Partial results: on a terminal one line that is drawn again and again, elsewhere a line each."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._redraws = file.isatty()
        self._drawn = False

    def show(self, name: str, seconds: float, text: str) -> None:
        """What is known now, ``seconds`` into the audio."""
        head = f"{name}{seconds:7.2f} s  "
        if not self._redraws:
            print(head + text, file=self._file, flush=True)
            return
        columns = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{head}{ending(text, columns - columns_of(head))}", end="", file=self._file, flush=True)
        self._drawn = True

    def clear(self) -> None:
        """Makes room for what stays."""
        if self._drawn:
            print("\r\x1b[K", end="", file=self._file, flush=True)
            self._drawn = False


def columns_of(text: str) -> int:
    """Columns that a terminal takes for ``text``: two for letters of Chinese and Japanese, none for marks above others."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def ending(text: str, columns: int) -> str:
    """As much of the end of ``text`` as fits, behind an ellipsis where that is not all."""
    if columns_of(text) <= columns:
        return text
    start = len(text)
    while start and columns_of(text[start - 1 :]) < columns:
        start -= 1
    return "…" + text[start:]


class Output:
    """Final results in one of the formats, on standard output or in a file a source.

    Args:
      options: format and place.
      names: of all sources.
      live: the sources may never end, so that text is printed utterance by utterance.

    Raises:
      UserError: two sources would be one file, or subtitles of several be on one output.
    """

    def __init__(self, options: TranscribeOptions, tokenizer: Tokenizer, names: Sequence[str], live: bool) -> None:
        self._options, self._tokenizer, self._live = options, tokenizer, live
        self._begun: dict[str, list[Event]] = defaultdict(list)  # of sources that have not ended
        self._count: dict[str, int] = defaultdict(int)  # subtitles so far
        self._pages: dict[str, list[str]] = defaultdict(list)  # what the files will hold
        self._paths: dict[str, Path] = {}
        if options.out_dir is not None:
            self._paths = {name: options.out_dir / (Path(name).stem + SUFFIXES[options.format]) for name in names}
            taken: dict[Path, str] = {}
            for name, path in self._paths.items():
                if path in taken:
                    raise UserError(f"{taken[path]} and {name} would both be written to {path}; do one after the other")
                taken[path] = name
            options.out_dir.mkdir(parents=True, exist_ok=True)
        elif len(names) > 1 and options.format in SUBTITLES:
            raise UserError(f"subtitles of {len(names)} files need a file each: pass --out-dir")

    def add(self, name: str, event: Event) -> None:
        """The final event of an utterance."""
        form = self._options.format
        if form == "json":
            self._write(name, json_line(name, event, self._tokenizer) + "\n")
        elif form in SUBTITLES:
            head, cue = SUBTITLES[form]
            for times_and_text in cues(event, self._tokenizer):
                self._count[name] += 1
                first = self._count[name] == 1
                self._write(name, (head if first else "\n") + cue(self._count[name], *times_and_text))
        elif self._live:
            self._write(name, f"{event.text}\n" + "".join(self._times([event])))
        else:
            self._begun[name].append(event)

    def end(self, name: str, failed: bool) -> None:
        """The source has ended; of one that failed no file is written."""
        events = self._begun.pop(name, [])
        pages = self._pages.pop(name, [])
        if failed:
            return
        if self._options.format == "text" and not self._live:
            # Of all tokens at once: an utterance may end within a word.
            text = self._tokenizer.decode([token for event in events for token in event.tokens])
            line = f"{text}\n" if self._paths else f"{name}\t{text}\n"
            pages.append(line + "".join(self._times(events)))
        elif self._options.format in SUBTITLES and not self._count[name]:
            pages.append(SUBTITLES[self._options.format][0])
        if self._paths:
            with atomic_write(self._paths[name], "wb") as file:
                file.write("".join(pages).encode("utf-8", "surrogateescape"))
        elif pages:
            print("".join(pages), end="", flush=True)

    def _write(self, name: str, text: str) -> None:
        if self._paths:
            self._pages[name].append(text)
        else:
            print(text, end="", flush=True)

    def _times(self, events: Sequence[Event]) -> Iterator[str]:
        if self._options.timestamps:
            for event in events:
                for token, time in zip(event.tokens, event.timestamps):
                    yield f"  {time:8.2f}  {self._tokenizer.piece(token)}\n"
