"""Runs in object stores: trained in a directory of this machine, and put there at each checkpoint.

What is in the store is a run that any machine can resume: a checkpoint counts once its `trainer_state.json` is there,
the trained model once its `config.json` is, and each of them is put there after what it stands for.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from transformers import TrainerCallback

from dataflow.errors import ShardboxError, UsageError
from dataflow.stores.cloud_paths import CloudPath, is_cloud
from dataflow.stores.paths import cache_directory, objects_below
from trainers.outputs import check_output
from trainers.training import processes
from trainers.training.runs import CHECKPOINTS, MODEL_FILES, RUN_JSON

_COMPLETE = ("trainer_state.json", MODEL_FILES[-1])
"""Files that say that what is beside them is whole."""


@dataclass(eq=False)
class _Mirror(TrainerCallback):  # type: ignore[misc]
    """Puts what is new in the directory `here` into the store, and takes away there the checkpoints that went here."""

    here: Path
    there: Path
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Size in bytes and time of change of each file that was put there."""

    def on_save(self, *_: Any, **__: Any) -> None:
        """When a checkpoint is written. A store that cannot be reached then may be reached at the next."""
        if not processes.is_first():
            return
        try:
            self.put()
        except UsageError as error:
            sys.stderr.write(f"warning: a checkpoint is on this machine only: {error.message}\n")

    def put(self) -> None:
        """Make the run in the store what it is here."""
        found = {path.relative_to(self.here).as_posix(): path for path in self.here.rglob("*") if path.is_file()}
        for name in sorted(found, key=_rank):
            status = found[name].stat()
            if self.seen.get(name) != (status.st_size, status.st_mtime_ns):
                self._object(name).upload(found[name])
                self.seen[name] = status.st_size, status.st_mtime_ns
        gone = (name for name in objects_below(self.there) if name.startswith(f"{CHECKPOINTS}/") and name not in found)
        for name in sorted(gone, key=_rank, reverse=True):  # What says that it is whole goes first.
            (self.there / name).unlink(missing_ok=True)

    def get(self) -> None:
        """Fetch what of the run in the store is not here; a directory of another run goes first."""
        if _description(self.here) != _description(self.there):
            shutil.rmtree(self.here, ignore_errors=True)
        for name in sorted(objects_below(self.there), key=_rank):
            if not (self.here / name).exists():
                (self.here / name).parent.mkdir(parents=True, exist_ok=True)
                self._object(name).download(self.here / name)

    def _object(self, name: str) -> CloudPath:
        return cast(CloudPath, self.there / name)


def _rank(name: str) -> tuple[bool, str]:
    return PurePosixPath(name).name in _COMPLETE, name


def _description(run: Path) -> Any:
    try:
        return json.loads((run / RUN_JSON).read_text(encoding="utf-8"))["run_id"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None


@contextmanager
def _naming(out: Path, here: Path) -> Iterator[None]:
    """Errors about the run name the place that the user named, and no directory of the cache."""
    try:
        yield
    except ShardboxError as error:
        error.message = error.message.replace(str(here), str(out))
        raise


@contextmanager
def trained_here(out: Path, resume: bool) -> Iterator[tuple[Path, tuple[TrainerCallback, ...]]]:
    """The directory to train a run in, and the callbacks that keep the one in the store like it.

    For a run of this machine, itself and none. Where training is stopped, or the store cannot be written to any more,
    the directory stays in the cache, and resuming the run on this machine goes on from its last checkpoint.

    Raises:
        UsageError: `out` is taken and not to be resumed, or the store cannot be used.
    """
    if not is_cloud(out):
        yield out, ()
        return
    processes.begin()
    here = cache_directory() / "runs" / hashlib.sha256(str(out).encode()).hexdigest()[:32] / out.name
    mirror = _Mirror(here, out)
    if processes.is_first():
        if resume and not (out / RUN_JSON).is_file():
            raise UsageError(f"there is no run {out} to resume", "leave out --resume to start one")
        if resume:
            mirror.get()
        else:
            check_output(out, RUN_JSON, overwrite=False)
            shutil.rmtree(here, ignore_errors=True)
    processes.wait()
    with _naming(out, here):
        yield here, (mirror,)
    if processes.is_first():
        try:
            mirror.put()
        except UsageError as error:
            raise UsageError(f"{error}; the run is in {here}", "try again with --resume, or copy it there") from error
        shutil.rmtree(here)
    processes.wait()
