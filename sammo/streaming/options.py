"""Options of ``sammo transcribe``; loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sammo.options import option

FORMATS = ("text", "json", "srt", "vtt")
PCM_FORMATS = ("s16le", "f32le")


@dataclass(frozen=True)
class TranscribeOptions:
    """Which audio, and what is written of it."""

    mic: bool = option(False, "Transcribe the microphone until Ctrl-C.", flag=True)
    mic_device: str | None = option(None, "Its number or a part of its name; python -m sounddevice lists them.")
    sampling_rate: int = option(16000, "Hz, of raw samples from standard input.")
    pcm_format: str = option("s16le", "Of raw samples, one channel: 16-bit integers or 32-bit floats.", PCM_FORMATS)
    channel: int | None = option(None, "Channel of files, from 0 (default: the mean of all).")
    allow_truncated: bool = option(False, "Transcribe what is there of files that are cut short, with a warning.")
    num_streams: int = option(1, "Files transcribed at the same time.")
    format: str = option("text", "text; json: a line an utterance, with token times; subtitles.", FORMATS)
    out_dir: Path | None = option(None, "Write a file for each source here (default: all to standard output).")
    timestamps: bool = option(False, "Print the time of every token, too, in text.", flag=True)
    quiet: bool = option(False, "Print neither partial results nor the summary.", flag=True)
