"""What goes wrong with a task on a Beam worker is told where the command was given."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataflow.beam.shard_tasks import TaskRunner, run_tasks
from dataflow.beam.worker_failures import WorkerFailedError
from dataflow.errors import NO_ROOM


@dataclass(frozen=True)
class FullDisk:
    """Shard 2 finds the disk full."""

    directory: Path

    @property
    def paths(self) -> Mapping[str, str]:
        return {}

    def load(self) -> None:
        return None

    def write(self, shard: int, loaded: Any) -> Iterator[int]:
        if shard == 2:
            raise OSError(28, "No space left on device")
        (self.directory / f"part-{shard}").touch()
        yield 1


def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailedError) as told:
        run_tasks(
            FullDisk(tmp_path),
            range(4),
            what="count",
            images=4,
            parts=lambda: len(list(tmp_path.glob("part-*"))),
            running=TaskRunner("FnApiRunner"),
        )
    assert told.value.message == (
        "shard 2 could not be done: OSError: [Errno 28] No space left on device; the parts that were done are kept"
    )
    assert told.value.remedy == NO_ROOM
