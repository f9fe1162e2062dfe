"""Transcript-mode files (local/conf/*.ini): what becomes of each CSJ tag.

The format is lhotse's and icefall's: [CONSTANTS] MODE = name, [DECISIONS] tag = 0 or 1. lhotse would also run Python
code given as `eval:...` or `exec:...`; such a file is refused here, before lhotse sees it.
"""

from __future__ import annotations

from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path

from lhotse.recipes.csj import DECISIONS, CSJSDBParser

from sammo.errors import UserError


def read_mode(path: Path) -> tuple[str, dict[str, int]]:
    """Name and decisions of the mode in ``path``; UserError for anything but a complete table of 0 and 1."""
    config = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=(";", "#"))
    config.optionxform = str
    try:
        config.read_string(path.read_text(encoding="utf-8"), source=str(path))
        name, raw = config["CONSTANTS"]["MODE"].strip(), dict(config["DECISIONS"])
    except FileNotFoundError as error:
        raise UserError(f"no transcript-mode file {path}") from error
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
    for problem, tags in (("unknown", decisions.keys() - DECISIONS.keys()), ("no", DECISIONS.keys() - decisions.keys())):
        if tags:
            raise UserError(f"{path}: {problem} decision for {', '.join(map(repr, sorted(tags)))}")
    if not name.isidentifier() or name in ("raw", "disfluent_tag"):
        raise UserError(f"{path}: MODE must be one word, got {name!r}")
    return name, decisions


def read_modes(paths: list[Path]) -> dict[str, CSJSDBParser]:
    """A parser for each mode; UserError where two files define the same one."""
    parsers = {}
    for path in paths:
        name, decisions = read_mode(path)
        if name in parsers:
            raise UserError(f"{path}: mode {name} is defined twice")
        parsers[name] = CSJSDBParser(decisions)
    return parsers
