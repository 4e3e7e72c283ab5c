"""Why a job failed: the first cause among all that its engine says.

What an engine says last is often a consequence, since one failure ends what else runs: a bundle is cancelled because
its neighbour failed, a channel is closed because the job is over. The line that a worker marked counts before all else,
wherever it stands; next what is no consequence; and what came earlier before what came later.
"""

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from dataflow.beam.worker_failures import failure_in
from dataflow.errors import DataRefusedError

_DIED = "Worker subprocess exited with return code "  # Beam's own words.
_CONSEQUENCES = (
    *("CANCELLED", "client cancelled", "call already cancelled", "Channel closed", "Runner closed connection"),
    *("CancellationException", "InterruptedException", "unknown error"),
)
_PYTHON = "Traceback (most recent call last)"
_PYTHON_ERROR = re.compile(r"^[A-Za-z_][\w.]*: .+")
_JAVA_CAUSE = "Caused by: "
_MOST = 400
"""Characters of a cause; what is longer is in the notes."""


class WorkerDiedError(DataRefusedError):
    """A worker process ended before its work was done (exit status 1)."""


class EngineFailedError(DataRefusedError):
    """A job failed, and no worker said why (exit status 1). The notes have all that the engine said."""


@dataclass(frozen=True)
class EngineWords:
    """What is known of a job that failed.

    Attributes:
        runner: what it was sent to.
        job: its number there; "" where it was not taken.
        said: what the engine said of failures, the earliest first.
        besides: what else it said.
        page: what shows it to a person, if anything does.
        kept: what is left of its work.
    """

    runner: str
    job: str
    said: Sequence[str]
    besides: Sequence[str]
    page: str
    kept: str


def first_cause(words: EngineWords, error: Exception) -> DataRefusedError:
    """An error for the user, of what an engine said and of what Beam raised in the end.

    It is a `WorkerFailedError` where a worker said what was wrong, a `WorkerDiedError` where a worker process of
    FnApiRunner died, else an `EngineFailedError`.
    """
    raised = _raised(error)
    for text in (*words.said, raised, *words.besides):
        if failure := failure_in(text, words.kept):
            return failure
        _, died, status = text.partition(_DIED)
        if died:
            return WorkerDiedError(
                f"a worker process of {words.runner} died, exit status {status.split()[0]}; {words.kept}",
                "137 mostly means that memory ran out: run it again, with fewer workers",
            )
    # Beam says so where no message told of a failure.
    nothing = raised.endswith("failed in state FAILED: None") and words.besides
    engine = EngineFailedError(_told(words, words.said or (words.besides if nothing else [raised])), _remedy(words))
    for text in (*words.said, *words.besides, "".join(traceback.format_exception(error))):
        engine.add_note(text)
    return engine


def _told(words: EngineWords, texts: Sequence[str]) -> str:
    causes = [_cause(text) for text in texts]
    cause = next((each for each in causes if not any(word in each for word in _CONSEQUENCES)), causes[0])
    what = f"the job {words.job} failed" if words.job else "the job was not taken"
    return f"{words.runner}: {what}: {cause}; {words.kept}"


def _raised(error: Exception) -> str:
    """What an exception says. Those of gRPC say it in a method, and in their own words put the whole call around it."""
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    if callable(code) and callable(details):
        return f"{getattr(code(), 'name', code())}: {details()}"
    return str(error) or type(error).__name__


def _cause(text: str) -> str:
    """The line of what an engine said that tells most: of Python's or Java's innermost error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"]
    if _PYTHON in text:
        # Java's own lines may follow, behind a tab.
        own = [line for line in text.rpartition(_PYTHON)[2].splitlines() if _PYTHON_ERROR.match(line)]
        cause = own[0] if own else lines[-1]
    elif _JAVA_CAUSE in text:
        cause = text.rpartition(_JAVA_CAUSE)[2].splitlines()[0].strip()
    else:
        cause = lines[0]
    return cause if len(cause) <= _MOST else f"{cause[:_MOST]}..."


def _remedy(words: EngineWords) -> str:
    notes = "the notes of this error (--json) have all that was said"
    if words.page:
        return f"look at {words.page}; {notes}"
    if words.job:
        return f"look at the log of {words.runner} and of its workers; {notes}"
    return f"ask `shardbox doctor --runner {words.runner}` what is amiss; {notes}"
