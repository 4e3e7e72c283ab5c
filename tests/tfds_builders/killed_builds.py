"""Builds that die at a point of their work, each in a process of its own.

They are forked from a process that has all modules loaded: a build in memory takes half a second then.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dataflow.beam import jobs as beam_jobs
from dataflow.shards import Outcome
from tests.tfds_builders.faulty_sources import Around
from tests.tfds_builders.portable import ROOT, end_session
from tfds_builders import builders, directory, reuse
from tfds_builders.builders import IngestOptions, SourceBuilder
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.planning import PlanOptions
from tfds_builders.running import Running
from tfds_builders.sources.source import Checks, Reference, Source

SHARDS = 2
OPTIONS = IngestOptions(PlanOptions(shards=SHARDS))
LIMIT_S = 120.0


def open_source(root: Path) -> Source:
    """The source that all of these builds read."""
    return open_yolo(root)


def build(source: Source, out: Path, running: Running = Running(), update: bool = False) -> Any:
    """The build that is killed, let alone."""
    return SourceBuilder(source, name="dataset", out=out, options=OPTIONS, running=running, update=update).prepare()


@dataclass(frozen=True)
class Deadly(Around):
    """A source whose worker kills `victim`, or itself where there is none, when a condition holds at an image."""

    point: str
    victim: int
    launcher: int
    out: Path
    calls: Path

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        if not _alive(self.launcher):
            time.sleep(0.2)  # An orphan takes its time: the next build overtakes it.
        elif checks.level == "decode" and self._now():  # The plan is made with "header".
            victim = self.victim or os.getpid()
            os.kill(victim, signal.SIGKILL)
            while _alive(victim):
                time.sleep(0.005)
        return self.inner.load(reference, checks)

    def _now(self) -> bool:
        with self.calls.open("ab") as file:
            file.write(b".")
        if self.point == "a shard and not the next":
            return any(self.out.glob("dataset/incomplete.*/dataset-*"))
        if self.point == "a result and not the next":
            return any(self.out.glob("dataset/incomplete.*/.results/dataset-*.json"))
        return self.calls.stat().st_size >= {"first image": 1, "third image": 3}[self.point]


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _then_die(function: Callable[..., Any], calls: int = 1) -> Callable[..., Any]:
    """The function, which is the last thing to happen when it is called so many times."""
    left = [calls]

    def wrapped(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        left[0] -= 1
        if not left[0]:
            _die()
        return result

    return wrapped


AT_IMAGES = ("first image", "third image", "a shard and not the next", "a result and not the next")
"""Where a worker is: in another process than the launcher, perhaps."""

# Point -> the module or class, its function, and what takes its place.
_DESCRIPTION = (builders.tfds.core.DatasetInfo, "write_to_directory")
_TFDS = (builders.dataset_builder.DatasetBuilder, "download_and_prepare")
PATCHES: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "no name": (directory, "write_json", lambda _: _die),
    "half a name": (Path, "replace", lambda _: _die),
    "half a plan": (beam_jobs, "_plan_file", lambda function: _then_die(function, SHARDS)),
    "plan written": (beam_jobs.beam, "Pipeline", lambda _: _die),
    "results written": (beam_jobs, "load_results", _then_die),
    "job done": (builders, "run_shard_job", _then_die),
    "audit written": (builders, "write_audit", _then_die),
    "inputs written": (builders, "save_inputs", _then_die),
    "manifest written": (builders, "write_json", _then_die),
    "all but the description": (builders, "write_json", lambda function: _then_die(function, 2)),
    "description written": (*_DESCRIPTION, _then_die),
    "named": (*_TFDS, _then_die),
    "done": (builders, "unsign", _then_die),
}
BEFORE_NAMED = (*tuple(PATCHES)[:4], *AT_IMAGES, *tuple(PATCHES)[4:-2])
"""Points of a build at which it must not have the name of the dataset yet, in their order."""

IN_THE_LAUNCHER: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "a shard without its result": (beam_jobs, "save_result", lambda _: _die),
}
"""Points of workers that can be patched where these are threads of the launcher."""

# Points of an update, when a dataset is there already.
UPDATES: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "a shard linked": (reuse.os, "link", _then_die),
    "all shards linked": (builders, "take_shards", _then_die),
    "update written": (builders, "run_shard_job", _then_die),
    "new one ready": (builders, "replace_directory", lambda _: _die),
    "old one signed": (directory, "sign", lambda function: _then_die(function, 1)),
    "between the renames": (Path, "rename", _then_die),
    "after the renames": (Path, "rename", lambda function: _then_die(function, 2)),
    "new one unsigned": (directory, "unsign", _then_die),
    "old one half removed": (Path, "unlink", lambda function: _then_die(function, 5)),
    "update done": (directory, "_remove", _then_die),
}


@dataclass(frozen=True)
class Dying:
    """A build that dies at `point`, of the source at `root`. What it says goes to the file `log`."""

    point: str
    root: Path
    out: Path
    log: Path
    running: Running = Running()
    update: bool = False

    def __call__(self) -> None:
        """Runs in its own process, and session."""
        os.setsid()
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        here = os.getpid()
        source, calls = open_source(self.root), self.log.with_suffix(".calls")
        if self.point in AT_IMAGES:
            source = Deadly(source, self.point, here, here, self.out, calls)
        elif self.point == "worker":
            source = Deadly(source, "third image", 0, here, self.out, calls)
        else:
            owner, name, replaced = {**PATCHES, **IN_THE_LAUNCHER, **UPDATES}[self.point]
            setattr(owner, name, replaced(getattr(owner, name)))
        build(source, self.out, self.running, self.update)


def run(dying: Dying) -> tuple[int, int | None]:
    """Its session, and its exit status: negative for the signal that killed it.

    Raises:
        TimeoutError: it neither died nor ended.
    """
    os.environ["PYTHONPATH"] = str(ROOT)  # Workers find the tests' modules.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=dying)
    process.start()
    assert process.pid is not None
    process.join(LIMIT_S)
    if process.is_alive():
        end_session(process.pid)
        process.join()
        raise TimeoutError(f"{dying.point}: still running after {LIMIT_S} s")
    return process.pid, process.exitcode
