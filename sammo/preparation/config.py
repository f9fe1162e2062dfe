"""Options of ``sammo prepare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sammo.errors import UserError
from sammo.options import MOST_PROCESSES, check_range, option

WORDS = ("auto", "true", "false")


@dataclass(frozen=True)
class PrepareConfig:
    """How recordings of one's own become a corpus."""

    out_dir: Path = option(Path("data"), "Everything is written below it: audio, fbank, lang_*, unusable.tsv.")
    name: str = option("own", "Name of the corpus in results and reports.")
    lang_type: str = option("char", "Output units.", ("char", "bpe"))
    vocab_size: int = option(500, "How many, for bpe.")
    words: str = option(
        "auto",
        "true: spaces divide words, which are scored (WER); false: white space means nothing, characters are scored "
        "(CER); auto: true where most transcripts have spaces.",
        WORDS,
    )
    valid_share: float = option(0.05, "Share of the speech held out as part valid, whole speakers.")
    test_share: float = option(0.05, "The same for part test.")
    min_seconds: float = option(0.2, "Shorter recordings are left out.")
    max_seconds: float = option(30.0, "Longer recordings are left out: cut them into utterances first.")
    perturb_speed: bool = option(
        False, "Also store the training part at 0.9 and 1.1 times the speed, for --speed-perturb true of train."
    )
    nj: int = option(0, "Processes; 0: one a core.")

    def __post_init__(self) -> None:
        """UserError for values that cannot work."""
        for name in ("valid_share", "test_share"):
            check_range(f"--{name.replace('_', '-')}", getattr(self, name), 0.001, 0.4, "most speech is for training")
        check_range("--nj", self.nj, 0, MOST_PROCESSES, "each is a process of this machine")
        check_range("--vocab-size", self.vocab_size, 2, 100_000, "it counts pieces of words")
        if not 0 <= self.min_seconds < self.max_seconds < float("inf"):
            raise UserError(f"--min-seconds {self.min_seconds:g} must be below --max-seconds {self.max_seconds:g}")
