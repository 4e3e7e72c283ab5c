"""The directory of a dataset while it is made, replaced, or left behind by a job that was killed.

Everything unfinished has a name that begins as TFDS's own unfinished directories do, which nothing loads, and holds the
name of its process; the next build sweeps those whose process is gone.
"""

import json
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tensorflow_datasets.core import constants

from dataflow.errors import UsageError
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import REQUESTS, copy_object, objects_below, remove_tree

_OWNER = ".owner.json"
_READY = ".ready"
_LOADS = "dataset_info.json"
# TFDS's own names have letters and digits before the underscore, never a dot.
_OLD = f"{constants.INCOMPLETE_PREFIX}OLD."
_GONE = f"{constants.INCOMPLETE_PREFIX}GONE."


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all."""
    if is_cloud(path):
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return
    partial = path.with_name(f"{path.name}.partial")
    # The source's own path may hold bytes that are no UTF-8: they become escapes.
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)


def sign(directory: Path, words: Sequence[str] = (), outlived: bool = False) -> None:
    """Leave the name of this process in an unfinished directory, and the command line by which it was begun.

    `outlived`: workers go on when this process is gone, so that `sweep` must leave the directory alone.
    """
    here = os.getpid()
    told = {"host": socket.gethostname(), "pid": here, "started": _started(here), "outlived": outlived}
    write_json(directory / _OWNER, told | {"words": list(words), "folder": str(Path.cwd())})


def unsign(directory: Path) -> None:
    """Take that name away."""
    (directory / _OWNER).unlink(missing_ok=True)


def next_to(target: Path) -> Path:
    """Where a replacement for `target` is made ready."""
    return target.with_name(f"{constants.INCOMPLETE_PREFIX}NEXT{os.getpid()}_{target.name}")


def replace_directory(target: Path, replacement: Path) -> None:
    """`replacement` takes the name of `target`, which goes.

    Between the two renames there is no dataset at all, never half of one; `sweep` brings the old one back.
    """
    old = _another_name(target, _OLD)
    sign(target)
    target.rename(old)
    replacement.rename(target)
    unsign(target)
    _remove(old)


def sweep(target: Path, spared: Path | None = None) -> None:
    """Remove what killed jobs left beside `target`; bring back a dataset that one of them was about to replace.

    `spared` is left alone.
    """
    for path in sorted(target.parent.glob(f"{constants.INCOMPLETE_PREFIX}*_{target.name}")):
        try:
            if path == spared or not _abandoned(path):
                continue
            if is_cloud(path):
                _sweep_objects(path, target)
                continue
            if path.name.startswith(_OLD) and not target.exists():
                path.rename(target)
                continue
            # Workers may outlive their launcher for a while: what they still write must not find the directory.
            gone = _another_name(target, _GONE)
            path.rename(gone)
            _remove(gone)
        except FileNotFoundError:  # Another build sweeps, too.
            continue
    if target.is_dir() and (target / _OWNER).exists() and _abandoned(target):
        unsign(target)


def unfinished(target: Path) -> Path:
    """Where a dataset in an object store is made ready. TFDS names the directories of this machine itself."""
    return _another_name(target, constants.INCOMPLETE_PREFIX)


def is_prepared(target: Path) -> bool:
    """Whether something is in the place of a dataset; in an object store, whether that loads."""
    return (target / _LOADS).exists() if is_cloud(target) else target.exists()


def discard(work: Path) -> None:
    """Remove what a failed build left in an object store, unless all of it is ready: then `sweep` will publish it."""
    if not (work / _READY).exists():
        _remove(work)


def publish(work: Path, target: Path) -> None:
    """What is ready below `work` takes its place below `target`, in an object store; what was there before goes.

    `dataset_info.json`, without which nothing loads a dataset, goes first and comes last. Object stores have no rename:
    objects are copied, inside the store. If that is interrupted, `sweep` does it again, from the mark on.
    """
    (work / _READY).write_text("")
    wanted = {name for name in objects_below(work) if not name.startswith(".")}
    (target / _LOADS).unlink(missing_ok=True)
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(lambda name: copy_object(work / name, target / name), wanted - {_LOADS}))
        list(pool.map(lambda name: (target / name).unlink(missing_ok=True), set(objects_below(target)) - wanted))
    copy_object(work / _LOADS, target / _LOADS)
    _remove(work)


def _sweep_objects(work: Path, target: Path) -> None:
    if (work / _READY).exists():
        publish(work, target)
    else:
        _remove(work)


def read_build(work: Path) -> dict[str, Any]:
    """How the build in an unfinished directory was begun: `words` of the command line, `folder` it was given in.

    Raises:
        UsageError: it is no unfinished directory, or was not begun by the command line.
    """
    if not work.name.startswith(constants.INCOMPLETE_PREFIX) or not (work / _OWNER).is_file():
        raise UsageError(f"{work} is no unfinished dataset", f"give a directory {constants.INCOMPLETE_PREFIX}*")
    build: dict[str, Any] = json.loads((work / _OWNER).read_text(encoding="utf-8"))
    if not build.get("words"):
        raise UsageError(f"{work} was not begun by `shardbox`", "run again what began it")
    return build


def claim(work: Path, launcher_is_gone: bool) -> None:
    """Make sure that nobody else finishes this build, and put our name on it.

    Raises:
        UsageError: its launcher lives, or may live on another machine and `launcher_is_gone` is not said.
    """
    build = read_build(work)
    if _is_gone(build) or (launcher_is_gone and build["host"] != socket.gethostname()):
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        write_json(work / _OWNER, build | mine)
        return
    who = f"process {build['pid']} on {build['host']}"
    if build["host"] == socket.gethostname():
        raise UsageError(f"{work}: its launcher, {who}, still runs", "it will finish the build itself")
    raise UsageError(f"{work}: its launcher was {who}", "if it no longer runs, say so with --launcher-is-gone")


def remove_unfinished(work: Path) -> None:
    """Remove an unfinished directory."""
    _remove(work)


def _another_name(target: Path, prefix: str) -> Path:
    return target.with_name(f"{prefix}{uuid.uuid4().hex}_{target.name}")


def _abandoned(path: Path) -> bool:
    """Whether the process that made an unfinished directory is gone. One of another machine may live."""
    owner = path / _OWNER
    if not owner.is_file():
        # Killed before it had written its name, or it is none of ours.
        return not {entry.name for entry in path.iterdir()} - {f"{_OWNER}.partial"}
    made_by = json.loads(owner.read_text(encoding="utf-8"))
    return not made_by.get("outlived") and _is_gone(made_by)


def _is_gone(made_by: Mapping[str, Any]) -> bool:
    """Whether a process of this machine is gone."""
    pid = int(made_by["pid"])
    # Our own number: in a container every job may run under the same one.
    return bool(made_by["host"] == socket.gethostname() and (pid == os.getpid() or not _lives(pid, made_by)))


def _remove(path: Path) -> None:
    """Remove a directory, its owner's name last: killed half-way, it is known as abandoned still."""
    remove_tree(path, last=_OWNER)


def _lives(pid: int, made_by: Mapping[str, Any]) -> bool:
    """Whether the process still runs, and is not a later one that was given the same number."""
    started = _started(pid)
    if started:
        return bool(started == made_by.get("started", started))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not Path("/proc/self/stat").exists()  # There it would have said when it started, had it not ended.


def _started(pid: int) -> str:
    """When a process that still runs was started, in the system's own terms; nothing where there is no /proc."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else str(fields[18])
