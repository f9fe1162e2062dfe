"""Tables in Markdown."""

from __future__ import annotations

from typing import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> list[str]:
    """The lines of a table; all columns but the first ``names`` hold numbers and stand right."""
    rule = "|" + "|".join("---" if i < names else "---:" for i in range(len(head))) + "|"
    return ["| " + " | ".join(row) + " |" for row in [head]] + [rule] + ["| " + " | ".join(row) + " |" for row in rows]
