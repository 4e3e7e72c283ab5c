"""What `shardbox doctor` does: options to checks, checks to lines and a dictionary."""

import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataflow.beam.runners import Check, command_line
from dataflow.errors import DataRefusedError, UsageError


class NotWellError(DataRefusedError):
    """Something would keep a job from running (exit status 1)."""


def doctor(arguments: Namespace) -> dict[str, Any]:
    """`shardbox doctor`: what this machine has, or what would keep a job from running on an engine.

    Raises:
        NotWellError: something must be mended. Its notes say all that must.
    """
    if arguments.runner is None:
        if arguments.source or arguments.out or arguments.runner_arguments:
            raise UsageError("--source, --out and options after -- are about a runner", "add --runner RUNNER")
        return _told("this machine", list(_machine()), None)
    checks, words = _job(arguments)
    return _told(f"a job on {arguments.runner}", checks, shlex.join(words))


def _machine() -> Iterator[Check]:
    from trainers.commands.doctor import machine_checks

    return machine_checks()


def _job(arguments: Namespace) -> tuple[list[Check], list[str]]:
    """What was looked at, and the words of the command that would submit the job, with all that it adds by itself."""
    from dataflow.beam.options import added_arguments, submission
    from dataflow.beam.runners import submission_checks
    from dataflow.beam.worker_pool import ask_pool, credential_checks, store_checks
    from dataflow.stores.paths import location

    runner, given = arguments.runner, arguments.runner_arguments
    named = {"source": arguments.source, "output": arguments.out}
    paths = {what: _whole(path) for what, path in named.items() if path is not None}
    try:
        job = submission(runner, given, paths)
    except UsageError as error:
        return [Check("options", "bad", error.message, error.remedy)], []
    checks = submission_checks(job) + store_checks(paths) + credential_checks(job)
    if not any(check.level == "bad" for check in checks):
        checks += ask_pool(job)
    words = ["shardbox", "ingest", arguments.source or "SOURCE", "--out", arguments.out or "DIR"]
    if arguments.source and not any(check.level == "bad" for check in checks):
        check, name = _format(location(paths["source"]))
        checks.append(check)
        words += ["--format", name]
    return checks, command_line(words, runner, [*added_arguments(runner, given), *given])


def _format(source: Path) -> tuple[Check, str]:
    """The format of a source by what it holds, and the word for it in the command."""
    from tfds_builders.choices import recognise

    if not source.exists():
        return Check("source", "bad", f"{source} does not exist", "check the path"), "FORMAT"
    try:
        name = recognise(source)
    except UsageError as error:
        return Check("format", "note", error.message, "put the right one in the place of FORMAT"), "FORMAT"
    return Check("format", "good", f"{name}, by what is in {source}"), name


def _whole(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def _told(what: str, checks: Sequence[Check], command: str | None) -> dict[str, Any]:
    """Print all, and raise where something must be mended."""
    print(f"{what}:")
    for check in checks:
        print(f"  {check.level}: {check.what}: {check.found}")
        if check.remedy:
            print(f"      {check.remedy}")
    bad = [check for check in checks if check.level == "bad"]
    if bad:
        error = NotWellError(f"{len(bad)} of {len(checks)} checks failed, the first {bad[0].what}", bad[0].remedy)
        for check in bad:
            error.add_note(f"{check.what}: {check.found}; {check.remedy}")
        raise error
    if command:
        print(f"submit it with:\n  {command}")
    return {"checks": [asdict(check) for check in checks], **({"command": command} if command else {})}
