"""Which of a cut's transcripts is used, and which cuts have to be left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sammo.corpora import CORPORA
from sammo.errors import UserError

if TYPE_CHECKING:
    from lhotse.cut import Cut

MODES = {mode for corpus in CORPORA.values() for mode in corpus.modes}


def transcript(cut: Cut, mode: str) -> str:
    """The text of ``cut`` in ``mode``, one of the supervision's custom fields; mode "" takes the plain text.

    Raises:
      UserError: prepare.sh has not written that mode.
    """
    if not cut.supervisions:
        return ""
    supervision = cut.supervisions[0]
    return select(supervision.text, supervision.custom, mode, cut.id)


def select(text: str | None, custom: dict[str, Any] | None, mode: str, cut_id: str) -> str:
    """``transcript`` for the parts of a supervision, so that manifests can be surveyed without lhotse objects."""
    if not mode:
        return text or ""
    if custom is None or mode not in custom:
        modes = ", ".join(sorted(key for key in custom or {} if key in MODES)) or "none"
        raise UserError(
            f"cut {cut_id} has no transcript in mode {mode!r} (modes there: {modes}); "
            "run the transcript stage of prepare.sh with a config file for that mode"
        )
    if not isinstance(custom[mode], str):
        raise UserError(f"cut {cut_id}: its transcript in mode {mode!r} is no text; run prepare.sh again")
    return custom[mode]
