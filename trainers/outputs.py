"""Output directories that appear whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from dataflow.errors import UsageError
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import REQUESTS, cache_directory, copy_object, objects_below, remove_tree, upload_files


def check_output(out: Path, marker: str, overwrite: bool) -> None:
    """Refuse an output path that holds something, so that hours of work do not end in that refusal.

    An empty directory is fine. With `overwrite`, only a directory that holds the file `marker`, that is one
    which the same command wrote, is given up.

    Raises:
        UsageError: `out` is taken.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise UsageError(f"{out} exists already", "choose another --out, or remove it first")
    if not (out / marker).is_file():
        raise UsageError(f"{out} exists and holds no {marker}, so it is not replaced", "choose another --out")


@contextmanager
def whole_directory(out: Path, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory beside `out` that takes its name when the block ends well, or else vanishes.

    A killed process leaves at most a hidden `.NAME.incomplete-*` directory, which nothing reads.

    Raises:
        UsageError: `out` is taken (see `check_output`).
    """
    check_output(out, marker, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.incomplete-", dir=out.parent))
    work.chmod(0o777 & ~_umask())
    try:
        yield work
        check_output(out, marker, overwrite)
        if out.exists():
            old = work.with_name(work.name.replace("incomplete", "replaced"))
            out.rename(old)
            work.rename(out)
            shutil.rmtree(old)
        else:
            work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def resumable_directory(out: Path, marker: str, key: str) -> Iterator[Path]:
    """A temporary directory beside `out` that takes its name when the block ends well, or else stays for the next call.

    `key` names all that decides the work, so that only the same work is taken up; what other work for `out` left
    unfinished goes when this one is finished. A directory in which nothing was left is removed at once. In an object
    store nothing has its name changed: there it is copied, the file `marker` last, without which nothing reads `out`.

    Raises:
        UsageError: `out` is taken (see `check_output`), or the store cannot be written to.
    """
    prefix = f".{out.name}.unfinished-"
    work = out.with_name(prefix + key)
    if not (is_cloud(out) and _half_copied(work, out, marker)):
        check_output(out, marker, overwrite=False)
    work.mkdir(parents=True, exist_ok=True)
    try:
        yield work
        if is_cloud(out):
            _copy_whole(work, out, marker)
            remove_tree(work)
        else:
            check_output(out, marker, overwrite=False)
            for path in list(work.rglob(".*")):  # Halves of files, of workers that were killed.
                path.unlink()
            work.rename(out)
        for path in list(out.parent.glob(f"{prefix}*")):
            remove_tree(path)
    finally:
        if not _files(work):
            with suppress(FileNotFoundError):
                remove_tree(work)


def _files(work: Path) -> list[str]:
    """All files below a directory but those that are nobody's, by their paths relative to it."""
    if is_cloud(work):
        found = [PurePosixPath(name) for name in objects_below(work)]
    else:
        found = [PurePosixPath(path.relative_to(work)) for path in work.rglob("*") if path.is_file()]
    return [str(name) for name in found if not name.name.startswith(".")]


def _half_copied(work: Path, out: Path, marker: str) -> bool:
    """Whether all that is in `out` comes from `work`, by a call that was killed before it was done."""
    there = set(_files(out))
    return bool(there) and marker not in there and there <= set(_files(work))


def _copy_whole(work: Path, out: Path, marker: str) -> None:
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(lambda name: copy_object(work / name, out / name), [n for n in _files(work) if n != marker]))
    copy_object(work / marker, out / marker)


@contextmanager
def made_here(out: Path, marker: str) -> Iterator[Path]:
    """Where to make the directory `out`: itself, or for one in an object store a directory of this machine.

    It serves commands whose results are made on the machine that runs them (reports, comparisons, exports), by code
    that writes files of this machine: when the block ends well, what is in the directory is put into the store, the
    file `marker`, without which nothing reads it, last. Its name depends on `out` only. Where the block fails, or the
    store cannot be written to, it stays in the cache, so that the work is not lost.

    Raises:
        UsageError: `out` is taken (see `check_output`), or the store cannot be written to.
    """
    if not is_cloud(out):
        yield out
        return
    check_output(out, marker, overwrite=False)
    here = cache_directory() / "unfinished" / hashlib.sha256(str(out).encode()).hexdigest()[:32] / out.name
    yield here
    try:
        upload_files(here, out, last=marker)
    except UsageError as error:
        raise UsageError(f"{error}; all of it is in {here}", "copy it there, or remove it and try again") from error
    shutil.rmtree(here)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
