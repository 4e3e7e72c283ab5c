"""Work shard by shard: each shard of a split leaves a part on disk, by a plain loop in this process or by Beam.

A part appears whole under its own name or not at all, so work that was killed is taken up where it was: the caller asks
for the parts that are not there yet. Nothing but the numbers of shards goes to a worker and nothing comes back; it
reads its shard, and leaves its part, itself. This module needs no Beam.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dataflow.errors import DataRefusedError, ShardboxError, UsageError
from dataflow.progress import Progress

_FAILURE = ".failed-"


class ShardTask(Protocol):
    """What is done to each shard. It goes to workers, so it must pickle: a frozen dataclass of paths and values."""

    @property
    def directory(self) -> Path:
        """Where the parts are left. Names that start with a dot are not the task's."""

    @property
    def paths(self) -> Mapping[str, str]:
        """What it reads and writes, by their names: a job is refused where its workers would not see them."""

    def load(self) -> Any:
        """What a process needs once for all of its shards, such as a model."""

    def write(self, shard: int, loaded: Any) -> Iterator[int]:
        """Leave the part of a shard; yields how many images were done since it last did."""


@dataclass(frozen=True)
class TaskRunner:
    """Where tasks run: in this process, or by a Beam runner with the options that the user wrote after `--`."""

    runner: str | None = None
    arguments: tuple[str, ...] = ()

    @property
    def by_beam(self) -> bool:
        """Whether Beam does the work. Its options without a runner ask for the local one."""
        return self.runner is not None or bool(self.arguments)


IN_THIS_PROCESS = TaskRunner()


def run_tasks(
    task: ShardTask,
    shards: Sequence[int],
    *,
    what: str,
    images: int,
    parts: Callable[[], int],
    running: TaskRunner = IN_THIS_PROCESS,
    loaded: Any = None,
) -> None:
    """Do a task for each of these shards.

    Args:
        task: what is done.
        shards: numbers of the shards that have no part yet.
        what: names the work in its progress.
        images: how many there are in these shards.
        parts: tells how many of these shards have their part.
        running: in this process, which stops at the first error; or by Beam, where the other shards are done all the
            same, and the error of the first of those that failed is raised at the end.
        loaded: what `task.load` gave, if it was called before.

    Raises:
        ShardboxError: what the task raised, naming the shard.
    """
    for old in task.directory.glob(f"{_FAILURE}*"):
        old.unlink()
    if not shards:
        return
    if running.by_beam:
        from dataflow.beam.tasks import run_on_beam

        run_on_beam(task, shards, what=what, parts=parts, runner=running.runner, arguments=running.arguments)
        return
    state = task.load() if loaded is None else loaded
    progress, done = Progress(what, images, "images"), 0
    for shard in shards:
        for count in task.write(shard, state):
            done += count
            progress.update(done)
    progress.close(done)


def parts_there(parts: Sequence[Path]) -> int:
    """How many of these files, all of one directory, are there; asks an object store once."""
    try:
        there = {path.name for path in parts[0].parent.iterdir()} if parts else set()
    except FileNotFoundError:
        return 0
    return sum(part.name in there for part in parts)


def save_failure(directory: Path, shard: int, error: ShardboxError) -> None:
    """Leave word of what a worker could not do."""
    told = {"exit_status": error.exit_status, "message": error.message, "remedy": error.remedy}
    (directory / f"{_FAILURE}{shard:08d}").write_text(json.dumps(told), encoding="utf-8")


def raise_failures(directory: Path) -> None:
    """Raise the first of the failures that workers left, and take them away.

    Raises:
        ShardboxError: there are some.
    """
    paths = sorted(directory.glob(f"{_FAILURE}*"))
    if not paths:
        return
    told = json.loads(paths[0].read_text(encoding="utf-8"))
    for path in paths:
        path.unlink()
    kind = DataRefusedError if told["exit_status"] == DataRefusedError.exit_status else UsageError
    more = f" (and {len(paths) - 1} more shards failed)" if len(paths) > 1 else ""
    raise kind(told["message"] + more, told["remedy"])
