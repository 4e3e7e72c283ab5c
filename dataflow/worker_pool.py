"""A worker pool asked, by a worker that it starts, which packages it has and which paths it sees.

The question is a pipeline of one element, so it goes the way of a job. A pool that cannot start a worker never answers,
and Beam would wait for ever: the question is asked by a process of its own, for a time.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataflow.cluster import answers, host_of, is_here
from dataflow.runners import Check, Submission, engine_is_here, environment

PATIENCE_S = 60.0
_ANSWER = "shardbox answer "


def answer(paths: Mapping[str, str]) -> dict[str, Any]:
    """What a worker says of itself. Runs there."""
    return {
        "shardbox": version("shardbox"),
        "apache-beam": version("apache-beam"),
        "Python": platform.python_version(),
        "sees": {what: Path(path).exists() for what, path in paths.items()},
    }


def ask_pool(submission: Submission, patience_s: float = PATIENCE_S) -> list[Check]:
    """What the workers of a job's pool have and see; nothing for other environments, or where the pool is out of reach.

    A worker is started, and ended again. A pool whose address is one of each task manager cannot be asked from here.
    """
    address = submission.options["environment_config"]
    if environment(submission) != "EXTERNAL" or not address or not answers(address):
        return []
    if is_here(host_of(address)) and not engine_is_here(submission):
        return []
    paths = {what: _existing(path) for what, path in submission.paths.items() if "://" not in path}
    code = f"from dataflow.beam_jobs import question; print({_ANSWER!r} + question(*{(address, paths)!r}))"
    folders = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": folders},
            capture_output=True,
            text=True,
            timeout=patience_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = f"it started no worker within {patience_s:.0f} s"
        return [Check("worker pool", "bad", found, "its log says why; mostly apache-beam is not installed there")]
    told = [line.removeprefix(_ANSWER) for line in done.stdout.splitlines() if line.startswith(_ANSWER)]
    if not told:
        return [_failure(done.stderr)]
    return list(_compared(submission, json.loads(told[-1]), paths))


def _existing(path: str) -> str:
    """The path, or the nearest folder above it that exists: what is yet to be written cannot be seen."""
    found = Path(path)
    while not found.exists() and found != found.parent:
        found = found.parent
    return str(found)


def _failure(log: str) -> Check:
    what = "packages of workers"
    remedy = "install shardbox[prepare] of this version in the environment of the pool"
    missing = log.rpartition("No module named ")[2].split()
    if missing and "No module named " in log:
        return Check(what, "bad", f"a worker of the pool has no module {missing[0].strip()}", remedy)
    lines = [line for line in log.splitlines() if line.strip()] or ["nothing"]
    return Check(what, "bad", f"a worker of the pool failed: {lines[-1][:300]}", remedy)


def _compared(submission: Submission, told: Mapping[str, Any], paths: Mapping[str, str]) -> list[Check]:
    """Its answer beside what is here. Pickled functions need the same Python, up to its second number."""
    here = {"shardbox": submission.our_version, "apache-beam": submission.beam_version}
    other = [f"{name} {told[name]} (here {ours})" for name, ours in here.items() if told[name] != ours]
    if told["Python"].split(".")[:2] != platform.python_version().split(".")[:2]:
        other.append(f"Python {told['Python']} (here {platform.python_version()})")
    has = ", ".join(f"{name} {told[name]}" for name in (*here, "Python"))
    if other:
        checks = [Check("packages of workers", "bad", ", ".join(other), "install the same versions in both places")]
    else:
        checks = [Check("packages of workers", "good", f"a worker of the pool has {has}")]
    for what, seen in told["sees"].items():
        told_so = f"a worker of the pool {'sees' if seen else 'does not see'} {paths[what]}"
        remedy = "" if seen else "use gs:// or s3://, or a disk that is at the same place for all"
        checks.append(Check(what, "good" if seen else "bad", told_so, remedy))
    return checks
