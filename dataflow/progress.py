"""Progress of long work: a line that renews itself on a terminal, plain lines now and then in a log."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import objects_below

_TERMINAL_PERIOD_S = 0.25
# A log has a line every ten seconds at first, then whenever a tenth of the time so far has passed: a day makes eighty.
_LOG_PERIOD_S, _LOG_SHARE = 10.0, 0.1


class Progress:
    """Counts work done against work expected and says so on standard error."""

    def __init__(self, what: str, total: float, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._note = ""

    def update(self, done: float, note: str = "") -> None:
        """Say how far the work is, and `note` after it, if the last time is long enough ago."""
        now = time.monotonic()
        self._note = note
        wait = _TERMINAL_PERIOD_S if self._terminal else max(_LOG_PERIOD_S, _LOG_SHARE * (now - self._start))
        if now - self._shown >= wait:
            self._shown = now
            self._write(done, now - self._start)

    def close(self, done: float) -> None:
        """Leave the terminal's line behind, complete."""
        if self._terminal and self._shown > self._start:
            self._write(done, time.monotonic() - self._start)
            sys.stderr.write("\n")

    def _write(self, done: float, seconds: float) -> None:
        rate = done / seconds if seconds else 0.0
        share = min(done / self._total, 1.0) if self._total else 0.0
        # Before a hundredth is done, the time left would be a guess, mostly of how long workers take to start.
        left = f", {(self._total - done) / rate:.0f} s left" if rate and 0.01 <= share < 1 else ""
        line = f"{self._what}: {share:4.0%}, {rate:.1f} {self._unit}/s{left}{', ' if self._note else ''}{self._note}"
        if self._terminal:  # A line that wraps could not be renewed.
            line = f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}"
        sys.stderr.write(line if self._terminal else line + "\n")
        sys.stderr.flush()


@contextmanager
def watch(what: str, total: float, unit: str, measure: Callable[[], float]) -> Iterator[None]:
    """Show progress by what `measure` finds done, whoever does it, again and again until the block ends."""
    stop = threading.Event()
    progress = Progress(what, total, unit)

    def look() -> None:
        while not stop.wait(_TERMINAL_PERIOD_S):
            progress.update(measure())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        progress.close(measure())


def watch_directory(directory: Path, expected_bytes: int, what: str) -> AbstractContextManager[None]:
    """Show progress by the bytes that appear below `directory`: it works for any runner that writes there."""

    looked, found = float("-inf"), 0.0

    def megabytes() -> float:
        nonlocal looked, found
        if is_cloud(directory):
            # Listing an object store costs a request, which is paid for.
            if time.monotonic() - looked > _LOG_PERIOD_S:
                names = objects_below(directory).items()
                found = sum(status.st_size for name, status in names if not name.startswith(".")) / 1e6
                looked = time.monotonic()
            return found
        try:
            return sum(path.stat().st_size for path in list(directory.iterdir()) if path.is_file()) / 1e6
        except FileNotFoundError:  # A shard took its own name while we looked, or the directory is gone.
            return 0.0

    return watch(what, expected_bytes / 1e6, "MB", megabytes)
