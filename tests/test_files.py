"""Atomic files, progress lines, and how scripts end."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from sammo import progress as progress_module
from sammo.errors import UserError, run_main
from sammo.files import atomic_path, atomic_write, parse_json
from sammo.progress import progress


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff", "1" * 5000])
def test_text_that_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)
    assert parse_json(b'{"a": [1]}') == {"a": [1]}


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as file:
        file.write("old 日本")
        assert not path.exists()
    for mode, text in (("w", "new"), ("wb", b"new")):
        with pytest.raises(ZeroDivisionError), atomic_write(path, mode) as file:
            file.write(text)
            1 / 0
    assert path.read_text(encoding="utf-8") == "old 日本" and list(tmp_path.iterdir()) == [path]
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".txt"
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_body_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass


def test_progress_off_a_terminal_is_lines_with_the_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", -1)
    assert list(progress(iter("ab"), 2, "reading")) == ["a", "b"]
    assert list(progress("a", desc="reading")) == ["a"]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["reading: 1/2, 0:00:00 left", "reading: 2/2, 0:00:00 left", "reading: 1, 0:00:00 so far"]


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("first\nsecond"), 1, "error: first second\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device\n"),
        (OSError(errno.EACCES, "Permission denied", "x.pt"), 1, "error: Permission denied: x.pt\n"),
    ],
)
def test_errors_of_the_user_and_the_machine_are_one_line(capsys, error, code, line):
    def main():
        raise error

    with pytest.raises(SystemExit) as ending:
        run_main(main)
    assert ending.value.code == code and capsys.readouterr().err == line


def test_results_are_exit_codes_and_bugs_are_tracebacks():
    for value, code in ((None, 0), (0, 0), (3, 3)):
        with pytest.raises(SystemExit) as ending:
            run_main(lambda: value)
        assert ending.value.code == code
    with pytest.raises(FileNotFoundError):
        run_main(lambda: len(open("/does/not/exist").read()))


def test_a_closed_pipe_is_quiet():
    code = "from sammo.errors import run_main; run_main(lambda: [print('x' * 1000) for _ in range(1000)] and 0)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141
