"""Unfinished directories: whose they are, which of them are swept, and what takes the place of a dataset."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.factories import write
from tests.tfds_builders.portable import wait_until
from tfds_builders.directory import next_to, replace_directory, sign, sweep, unsign, write_json, write_text

OWNER = ".owner.json"
HERE = socket.gethostname()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The directory of a dataset that is not there yet."""
    (tmp_path / "x").mkdir()
    return tmp_path / "x" / "1.0.0"


@pytest.fixture
def living() -> Iterator[int]:
    """The number of a process that lives as long as the test."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def beside(target: Path, name: str, **owner: Any) -> Path:
    """An unfinished directory beside `target`, with something in it."""
    path = target.with_name(f"incomplete.{name}_{target.name}")
    write(path / "shard", name)
    write(path / ".plan" / "shard", name)
    if owner:
        write(path / OWNER, json.dumps(owner))
    return path


def left(target: Path) -> list[str]:
    """What lies beside `target`, and `target` itself."""
    return sorted(path.name for path in target.parent.iterdir())


def test_only_what_the_dead_left_is_swept(target: Path, living: int, dead: int) -> None:
    beside(target, "DEAD", host=HERE, pid=dead)
    beside(target, "SAME", host=HERE, pid=os.getpid())
    beside(target, "LIVE", host=HERE, pid=living)
    beside(target, "ELSE", host="another machine", pid=dead)
    beside(target, "TFDS")
    (target.parent / "incomplete.VOID_1.0.0").mkdir()
    write(target.parent / "incomplete.HALF_1.0.0" / f"{OWNER}.partial", "{")
    write(target.parent / "2.0.0" / "shard", "another version")
    sweep(target)
    assert left(target) == ["2.0.0", "incomplete.ELSE_1.0.0", "incomplete.LIVE_1.0.0", "incomplete.TFDS_1.0.0"]


def test_a_living_process_keeps_what_it_signed(target: Path, living: int) -> None:
    started = Path(f"/proc/{living}/stat").read_text().rpartition(")")[2].split()[19]
    assert started.isdigit()
    beside(target, "LIVE", host=HERE, pid=living, started=started)
    sweep(target)
    assert left(target) == ["incomplete.LIVE_1.0.0"]


def test_a_number_that_was_given_away_again(target: Path, living: int) -> None:
    """The process that runs under it now started later than the owner."""
    beside(target, "LATE", host=HERE, pid=living, started="1")
    sweep(target)
    assert left(target) == []


def test_a_zombie_is_dead(target: Path) -> None:
    """A launcher that was killed and that its parent has not asked about, as in containers without an init."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, 30, "the process ends")
    beside(target, "DEAD", host=HERE, pid=process.pid)
    sweep(target)
    process.wait()
    assert left(target) == []


def test_what_is_signed_says_who_and_since_when(target: Path) -> None:
    target.mkdir()
    sign(target)
    owner = json.loads((target / OWNER).read_text())
    assert (owner["host"], owner["pid"]) == (HERE, os.getpid()) and owner["started"].isdigit()
    unsign(target)
    unsign(target)
    assert list(target.iterdir()) == []


def test_a_name_that_only_looks_like_an_old_dataset(target: Path, dead: int) -> None:
    """TFDS draws six letters and digits for its names: some begin with OLD, and none of them is a dataset."""
    beside(target, "OLD7XQ", host=HERE, pid=dead)
    sweep(target)
    assert left(target) == []


def interrupted(*_: Any) -> None:
    """Takes the place of a step that a killed process did not come to."""
    raise KeyboardInterrupt


def replaced_until(target: Path, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    """A replacement of a dataset "old" by "new" that is interrupted after so many renames, by a process now dead."""
    write(target / "shard", "old")
    new = next_to(target)
    write(new / "shard", "new")
    sign(new)
    rename, done = Path.rename, []

    def counted(self: Path, other: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(other)
        return rename(self, other)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", counted)
        patched.setattr("tfds_builders.directory._remove", interrupted)
        replace_directory(target, new)


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_an_interrupted_replacement_is_the_old_or_the_new(
    renames: int, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced_until(target, monkeypatch, renames)
    assert target.exists() == (renames != 1)
    sweep(target)
    assert left(target) == ["1.0.0"]
    assert sorted(path.name for path in target.iterdir()) == ["shard"], "the owner's name is gone, too"
    assert (target / "shard").read_text() == ("new" if renames == 2 else "old")


def test_a_replacement(target: Path) -> None:
    write(target / "shard", "old")
    new = next_to(target)
    write(new / "shard", "new")
    sign(new)
    replace_directory(target, new)
    assert left(target) == ["1.0.0"] and sorted(path.name for path in target.iterdir()) == ["shard"]
    assert (target / "shard").read_text() == "new"


def test_a_worker_that_still_writes_does_not_keep_a_leftover(target: Path, dead: int) -> None:
    """It outlives its launcher, and makes new files in the directory as fast as it can, while that is swept."""
    path = beside(target, "BUSY", host=HERE, pid=dead)
    stop, written = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            try:
                (path / f"{len(written)}").write_text("late")
                written.append(1)
            except FileNotFoundError:
                return

    worker = threading.Thread(target=work)
    worker.start()
    try:
        wait_until(lambda: len(written) > 50, 30, "the worker is at work")
        sweep(target)
        worker.join(30)
        assert not worker.is_alive(), "it found nothing to write to"
    finally:
        stop.set()
    assert left(target) == []


def test_a_sweep_that_was_killed_is_swept(target: Path, dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    beside(target, "DEAD", host=HERE, pid=dead)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", interrupted)
        sweep(target)
    assert len(left(target)) == 1 and left(target)[0].startswith("incomplete.")
    sweep(target)
    assert left(target) == []


def test_two_sweeps_at_once(target: Path, dead: int) -> None:
    for number in range(40):
        beside(target, f"DEAD{number}", host=HERE, pid=dead)
    failures: list[BaseException] = []

    def one() -> None:
        try:
            sweep(target)
        except BaseException as error:
            failures.append(error)

    sweepers = [threading.Thread(target=one) for _ in range(4)]
    for sweeper in sweepers:
        sweeper.start()
    for sweeper in sweepers:
        sweeper.join()
    assert not failures and left(target) == []


def test_files_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there stays until the new content is complete; a path that is no UTF-8 becomes escapes."""
    path = tmp_path / "a.json"
    write_text(path, "old")

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", interrupted)
        write_json(path, {"a": 1})
    assert path.read_text() == "old"
    write_json(path, {"köttur": "from\udce9"})
    assert path.read_text(encoding="utf-8") == '{\n "köttur": "from\\udce9"\n}'
