"""Places: paths of this machine, and `gs://` and `s3://` in the manner of `pathlib`.

`location` makes either of what a user wrote. A path of this machine is a plain `pathlib.Path` and costs nothing more
than one. An object store has no directories and no renames, but an object appears whole or not at all; so what is
written there is made ready here and put there by one request.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, cast

from dataflow.errors import UsageError
from dataflow.stores.cloud_paths import CloudPath, is_cloud, partial_beside
from dataflow.stores.object_stores import SCHEMES

REQUESTS = 16
"""Requests to an object store that are on their way at the same time."""
# Files that are asked for before the first of them is looked at.
_AHEAD = 50 * REQUESTS


def location(text: str | os.PathLike[str]) -> Path:
    """The place that a user named: a `Path`, or for `gs://` and `s3://` a `CloudPath`, which is used like one."""
    if isinstance(text, PurePath):
        return cast(Path, text)
    if str(text).partition("://")[0] in SCHEMES and "://" in str(text):
        return cast(Path, CloudPath(str(text)))
    return Path(text)


def nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there: what is yet to be written is not.

    Raises:
        UsageError: its object store cannot be used, or has no such bucket.
    """
    while not path.exists() and path != path.parent:
        if is_cloud(path) and len(path.parts) <= 2:  # Of a scheme and a bucket.
            raise UsageError(f"there is no bucket {path}", "create it first, or mend its name")
        path = path.parent
    return path


def walk(folder: Path) -> Iterator[tuple[str | Path, list[str], list[str]]]:
    """`os.walk`, in object stores, too."""
    return folder.walk() if isinstance(folder, CloudPath) else os.walk(folder)


def read_each(files: Sequence[Path]) -> Iterator[bytes | OSError]:
    """What each file holds, in their order, or why that cannot be told; objects are asked for many at a time."""
    if not any(is_cloud(file) for file in files):
        yield from map(_content, files)
        return
    with ThreadPoolExecutor(REQUESTS) as pool:
        for start in range(0, len(files), _AHEAD):
            yield from pool.map(_content, files[start : start + _AHEAD])


def _content(file: Path) -> bytes | OSError:
    try:
        return file.read_bytes()
    except OSError as error:
        return error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file of this machine to write, which takes the name (or place) `path` when the block ends well."""
    if not is_cloud(path):
        with partial_beside(path) as partial:
            yield partial
        return
    with tempfile.TemporaryDirectory(prefix="shardbox-") as folder:
        local = Path(folder, path.name)
        yield local
        cast(CloudPath, path).upload(local)


@contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """The file at `path` as one of this machine: itself, or a copy for as long as the block lasts."""
    if not is_cloud(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="shardbox-") as folder:
        local = Path(folder, path.name)
        cast(CloudPath, path).download(local)
        yield local


def objects_below(folder: Path) -> dict[str, Any]:
    """Every object below a folder of a store, by its path relative to it: its status, as `Path.stat` gives it."""
    try:
        return cast(CloudPath, folder).files()
    except FileNotFoundError:
        return {}


def copy_object(source: Path, target: Path) -> None:
    """Copy an object inside its store, without its bytes coming here."""
    cast(CloudPath, source).copy(cast(CloudPath, target))


def upload_files(folder: Path, target: Path, last: str = "") -> None:
    """Put what is in a folder of this machine below `target` in an object store, the file named `last` last."""
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(
            pool.map(lambda name: cast(CloudPath, target / name).upload(folder / name), [n for n in names if n != last])
        )
    if last:
        cast(CloudPath, target / last).upload(folder / last)


def remove_tree(path: Path, last: str = "") -> None:
    """Remove a directory and all below it; the entry named `last` goes when all else has gone."""
    if not is_cloud(path) and not last:
        shutil.rmtree(path)
        return
    if not is_cloud(path):
        for entry in path.iterdir():
            if entry.name == last:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        (path / last).unlink(missing_ok=True)
        path.rmdir()
        return
    names = [name for name in objects_below(path) if name != last]
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(lambda name: (path / name).unlink(missing_ok=True), names))
    if last:
        (path / last).unlink(missing_ok=True)


def cache_directory() -> Path:
    """Where copies of objects are kept: `shardbox` below $XDG_CACHE_HOME, or ~/.cache; nothing there is deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardbox"


def cached_files(paths: Sequence[Path]) -> list[Path]:
    """These files as ones of this machine; objects are copied into the cache, each version of one once."""
    if not any(is_cloud(path) for path in paths):
        return list(paths)
    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(_cached, paths))


def _cached(path: Path) -> Path:
    if not is_cloud(path):
        return path
    status = path.stat()
    version = hashlib.sha256(f"{path}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:32]
    local = cache_directory() / version / path.name
    _fetch(path, local)
    return local


def cached_directory(path: Path, wanted: Callable[[str], bool]) -> Path:
    """A directory of an object store as one in the cache, with those of its files whose names are `wanted`.

    Each state of the directory is a copy of its own, which is made once.

    Raises:
        UsageError: there is nothing, or the store cannot be used.
    """
    found = {name: status for name, status in sorted(objects_below(path).items()) if wanted(name)}
    if not found:
        raise UsageError(f"{path}: there is nothing", "check the path")
    states = [f"{name}\0{status.st_size}\0{status.st_mtime_ns}" for name, status in found.items()]
    version = hashlib.sha256("\0".join([str(path), *states]).encode()).hexdigest()[:32]
    local = cache_directory() / version / path.name
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(lambda name: _fetch(path / name, local / name), found))
    return local


def _fetch(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        cast(CloudPath, source).download(target)


@contextmanager
def local_directory(path: Path) -> Iterator[Path]:
    """The directory at `path` as one of this machine: itself, or a copy of it for as long as the block lasts."""
    if not is_cloud(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="shardbox-") as folder:
        local = Path(folder, path.name)
        names = objects_below(path)
        if not names:
            raise UsageError(f"{path}: there is nothing", "check the path")
        for name in names:
            (local / name).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(lambda name: cast(CloudPath, path / name).download(local / name), names))
        yield local
