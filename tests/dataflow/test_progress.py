"""What long work says on a terminal and in a log."""

import io

import pytest

from dataflow import progress
from dataflow.progress import Progress


class _Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def _lines(monkeypatch: pytest.MonkeyPatch, seconds: int, terminal: bool = False) -> str:
    """All that is written while work of so many seconds is reported on every second."""
    clock, out = _Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(progress.sys, "stderr", out)
    shown = Progress("train", seconds, "images")
    for done in range(1, seconds + 1):
        clock.now += 1
        shown.update(done, "a note that is long enough to need more than a narrow terminal has")
    shown.close(seconds)
    return out.getvalue()


def test_a_log_is_told_often_at_first_and_then_ever_less(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(_lines(monkeypatch, 100).splitlines()) == 10
    day = _lines(monkeypatch, 24 * 3600).splitlines()
    assert 50 < len(day) < 110
    assert "\r" not in "".join(day) and "\x1b" not in "".join(day)


def test_a_terminal_has_one_line_that_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    written = _lines(monkeypatch, 30, terminal=True)
    assert written.count("\n") == 1 and written.endswith("\n")
    assert max(len(line) for line in written.rstrip("\n").split("\r\x1b[K")) == 39
