"""What goes wrong on a worker, told where the command was given.

Exceptions of other processes and machines come back as text, somewhere among what the engine says about it. So a worker
puts what matters into one marked line, which is found again in whatever it comes back in.
"""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataflow.errors import NO_ROOM, DataRefusedError, ShardboxError

_NO_ROOM = ("No space left on device", "Disk quota exceeded", "File too large")
_GONE = ("FileNotFoundError", "NotADirectoryError", "PermissionError", "Stale file handle")
_MARK = "shardbox-failure "
_MOST = 4000
"""Characters of a traceback: engines cut what is longer, and the end matters."""


class WorkerFailedError(DataRefusedError):
    """A worker could not do its work (exit status 1). A note has its traceback."""


@contextmanager
def failures_marked(what: str) -> Iterator[None]:
    """Raise what the block raises as a `RuntimeError` that `failure_in` understands. For workers.

    `what` is what then did not work, as a sentence: "shard train 3 could not be written".
    """
    try:
        yield
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        told = {
            "failed": what,
            "what": f"{type(error).__name__}: {error}",
            "at": f"{Path(frame.filename).name}:{frame.lineno}",
            "message": error.message if isinstance(error, ShardboxError) else "",
            "remedy": error.remedy if isinstance(error, ShardboxError) else "",
            "trace": "".join(traceback.format_exception(error))[-_MOST:],
        }
        raise RuntimeError(_MARK + json.dumps(told)) from error


def failure_in(text: str, kept: str) -> WorkerFailedError | None:
    """The failure that an engine's words tell of, if there is one. `kept` says what is left of the job."""
    _, found, rest = text.partition(_MARK)
    if not found:
        return None
    try:
        told, _ = json.JSONDecoder().raw_decode(rest)
    except json.JSONDecodeError:  # Cut short on its way.
        return None
    error = WorkerFailedError(f"{told['failed']}: {_reason(told)}; {kept}", _remedy(told))
    error.add_note(told["trace"])
    return error


def _reason(told: dict[str, Any]) -> str:
    return told["message"] or (told["what"] if _known(told) else f"{told['what']} ({told['at']})")


def _known(told: dict[str, Any]) -> bool:
    return any(word in told["what"] for word in (*_NO_ROOM, *_GONE))


def _remedy(told: dict[str, Any]) -> str:
    if told["remedy"]:
        return str(told["remedy"])
    if any(word in told["what"] for word in _NO_ROOM):
        return NO_ROOM
    if _known(told):
        return "files went away while they were read, or workers do not see them: run it again"
    return "that is no fault of the data; the notes of this error (--json) have the traceback"
