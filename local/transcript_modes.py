"""Transcript-mode files (local/conf/*.ini): what becomes of each CSJ tag.

The format is lhotse's and icefall's: [CONSTANTS] MODE = name, [DECISIONS] tag = 0 or 1. lhotse would also run Python
code given as `eval:...` or `exec:...`; such a file is refused here, before lhotse sees it.
"""

from __future__ import annotations

from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path

from sammo.errors import UserError

LARGEST = 1 << 20  # bytes


def read_mode(path: Path) -> tuple[str, dict[str, int]]:
    """Name and decisions of the mode in ``path``; UserError for anything but a complete table of 0 and 1."""
    from lhotse.recipes.csj import DECISIONS

    if not path.is_file():
        raise UserError(f"no transcript-mode file {path}")
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is no transcript-mode file: it has {path.stat().st_size} bytes")
    config = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=(";", "#"))
    config.optionxform = lambda optionstr: optionstr
    try:
        config.read_string(path.read_text(encoding="utf-8"), source=str(path))
        name, raw = config["CONSTANTS"]["MODE"].strip(), dict(config["DECISIONS"])
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8") from error
    except (ConfigError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: expected [CONSTANTS] MODE = name and [DECISIONS]: {reason}") from error
    decisions = {}
    for tag, value in raw.items():
        if value.strip().strip("\"'").lower().startswith(("eval", "exec")):
            raise UserError(f"{path}: the decision for {tag!r} is code ({value!r}); refused, only 0 and 1 are allowed")
        if value.strip() not in ("0", "1"):
            raise UserError(f"{path}: the decision for {tag!r} is {value!r}; only 0 and 1 are allowed")
        decisions[tag] = int(value)
    unknown, absent = sorted(decisions.keys() - DECISIONS.keys()), sorted(DECISIONS.keys() - decisions.keys())
    if unknown or absent:
        problem = "unknown tag" if unknown else "no decision for tag"
        raise UserError(f"{path}: {problem} {', '.join(map(repr, unknown or absent))}")
    if not name.isidentifier() or name in ("raw", "disfluent_tag"):
        raise UserError(f"{path}: MODE must be one word, got {name!r}")
    return name, decisions


def read_modes(paths: list[Path]) -> dict[str, dict[str, int]]:
    """The decisions of each mode; UserError where two files define the same one."""
    modes = {}
    for path in paths:
        name, decisions = read_mode(path)
        if name in modes:
            raise UserError(f"{path}: mode {name} is defined twice")
        modes[name] = decisions
    return modes
