"""How values of a client's message are quoted back to it: short and printable, whatever they are."""

from __future__ import annotations

KINDS = {list: "a list", dict: "an object"}
LONGEST_REASON = 123  # bytes of a close message's reason, RFC 6455


def shown(value: object, most: int = 20) -> str:
    """``value`` of a message, short and printable: a word, a number, or what kind of thing it is."""
    if isinstance(value, (str, int, float, type(None))):
        return repr(value[:most] if isinstance(value, str) else value)[: 3 * most]
    return KINDS.get(type(value), "something else")


def close_reason(text: str) -> str:
    """As much of ``text`` as a close message holds."""
    return text.encode()[:LONGEST_REASON].decode(errors="ignore")
