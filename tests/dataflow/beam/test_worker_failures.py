"""A worker's failure is found again in whatever an engine says about it."""

import errno
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.beam.worker_failures import WorkerFailedError, failure_in, failures_marked
from dataflow.errors import UsageError


def marked(error: Exception, what: str = "shard train 3 could not be written") -> str:
    """What Python says of an error in the middle of a shard."""
    try:
        with failures_marked(what):
            raise error
    except RuntimeError as raised:
        return "".join(traceback.format_exception(raised))


def told(text: str) -> WorkerFailedError:
    failure = failure_in(f"java.lang.Exception: SDK harness said: {text}\n\tat org.x.Y {{1}}", "nothing was kept")
    assert failure is not None
    return failure


@given(st.text(), st.text())
def test_any_words_come_back(words: str, what: str) -> None:
    failure = told(marked(KeyError(words), what))
    assert failure.message.startswith(f"{what}: KeyError: {words!r}")
    assert failure.message.endswith("; nothing was kept") and failure.exit_status == 1


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "make room or choose another --out, and run it again"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "make room or choose another --out, and run it again"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "files went away while they were read"),
        (UsageError("a worker has 1, the launcher 2", "install the same on both"), "install the same on both"),
        (ZeroDivisionError("oh"), "that is no fault of the data"),
    ],
)
def test_what_to_do(error: Exception, remedy: str) -> None:
    failure = told(marked(error))
    assert failure.remedy.startswith(remedy) and "Traceback" in failure.__notes__[0]


def test_other_words() -> None:
    assert failure_in("the cluster went away", "nothing was kept") is None
    assert failure_in(marked(KeyError("x")).partition("trace")[0], "nothing was kept") is None, "cut short"
    with failures_marked("train 0"):
        pass
