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

from dataflow.beam.cluster import answers, host_of, is_here
from dataflow.beam.runners import Check, Submission, engine_is_here, environment
from dataflow.errors import ShardboxError
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import location, nearest

PATIENCE_S = 60.0
_ANSWER = "shardbox answer "
_PLACES = {
    "gs": "a service account of the machine or GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "a role of the machine, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE",
}
"""Where the libraries of each store look for credentials."""


def answer(paths: Mapping[str, str]) -> dict[str, Any]:
    """What a worker says of itself. Runs there."""
    return {
        "shardbox": version("shardbox"),
        "apache-beam": version("apache-beam"),
        "Python": platform.python_version(),
        "blind": {what: _reason(path) for what, path in paths.items()},
    }


def _reason(path: str) -> str:
    """Why a worker does not see a path; "" where it does."""
    try:
        return "" if location(path).exists() else "it is not there"
    except ShardboxError as error:
        return str(error)


def store_checks(paths: Mapping[str, str]) -> list[Check]:
    """Whether paths in object stores are seen from here: the source, and the bucket to write to."""
    checks = []
    for what, path in paths.items():
        place = location(path)
        if not is_cloud(place):
            continue
        try:
            there = nearest(place)
        except ShardboxError as error:
            checks.append(Check(f"{what}, from here", "bad", error.message, error.remedy))
            continue
        if what == "source" and there != place:
            checks.append(Check(f"{what}, from here", "bad", f"{place} does not exist", "check the path"))
        else:
            checks.append(Check(f"{what}, from here", "good", f"{there} is there"))
    return checks


def credential_checks(submission: Submission) -> list[Check]:
    """What workers have to reach object stores with, as far as that can be told from here.

    Workers of this process have what `store_checks` tried, and a pool that can be asked says itself what it sees.
    """
    kind = environment(submission)
    if kind == "LOOPBACK" or (kind == "EXTERNAL" and _can_be_asked(submission)):
        return []
    schemes = {path.partition("://")[0] for path in submission.paths.values() if is_cloud(location(path))}
    return [_credentials(submission, kind, scheme) for scheme in sorted(schemes)]


def _credentials(submission: Submission, kind: str, scheme: str) -> Check:
    what, options = f"credentials of workers for {scheme}://", submission.options
    if kind != "DATAFLOW":
        found = "cannot be seen from here; those of this machine do not go with the job"
        return Check(what, "note", found, f"workers need credentials of their own, {_PLACES[scheme]}")
    if scheme == "gs":
        account = options["service_account_email"] or "the default account of Compute Engine in the project"
        remedy = "it needs the role roles/storage.objectAdmin on the buckets; --service_account_email names another"
        return Check(what, "note", f"workers act as {account}; what it may do cannot be asked from here", remedy)
    image = options["sdk_container_image"]
    remedy = "put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the container, or use gs://"
    if image:
        return Check(what, "note", f"Dataflow gives none; whether {image} has some cannot be seen from here", remedy)
    return Check(what, "bad", "Dataflow gives none, and Beam's own image has none", remedy)


def _can_be_asked(submission: Submission) -> bool:
    """Whether the pool answers here, and is not one of those that task managers have each beside them."""
    address = submission.options["environment_config"]
    if not address or not answers(address):
        return False
    return not is_here(host_of(address)) or engine_is_here(submission)


def ask_pool(submission: Submission, patience_s: float = PATIENCE_S) -> list[Check]:
    """What the workers of a job's pool have and see; nothing for other environments, or where the pool is out of reach.

    A worker is started, and ended again. A pool whose address is one of each task manager cannot be asked from here.
    """
    if environment(submission) != "EXTERNAL" or not _can_be_asked(submission):
        return []
    address = submission.options["environment_config"]
    paths = {what: str(nearest(location(path))) for what, path in submission.paths.items()}
    code = f"from dataflow.beam.pipelines import question; print({_ANSWER!r} + question(*{(address, paths)!r}))"
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
    return [*checks, *(_sight(what, paths[what], reason) for what, reason in told["blind"].items())]


def _sight(what: str, path: str, reason: str) -> Check:
    """Whether a worker sees a path."""
    if not reason:
        return Check(what, "good", f"a worker of the pool sees {path}")
    remedy = "use gs:// or s3://, or a disk that is at the same place for all"
    if is_cloud(location(path)):
        remedy = "workers need shardbox[cloud], and credentials of their own"
    return Check(what, "bad", f"a worker of the pool does not see {path}: {reason}", remedy)
