"""Beam's options of a job, and what is wrong with a job before it is submitted."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType

from dataflow.beam.runners import Check, Submission, default_arguments, submission_checks
from dataflow.errors import MissingExtraError, UsageError

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
    from apache_beam.runners.runner import create_runner
except ImportError as error:
    raise MissingExtraError("apache-beam", "prepare") from error

DEFAULT_RUNNER = "FnApiRunner"


def _given_options(runner: str, arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options for a runner and what the user wrote after `--`."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions([f"--runner={runner}", *arguments])
            options.get_all_options()  # Parses those of all runners.
            mode = options.view_as(DirectOptions).direct_running_mode
            named = options.view_as(StandardOptions).runner
    except SystemExit as error:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise UsageError(f"Beam does not take what follows --: {reason}", "mend or leave it out") from error
    if named != runner:
        raise UsageError(f"--runner {runner}, but {named} after --", "name the runner once, before --")
    if mode == "multi_threading":
        raise UsageError(
            "direct_running_mode=multi_threading loses elements without saying so (Beam 2.77)",
            "use --direct_running_mode=in_memory or multi_processing",
        )
    return options


def added_arguments(runner: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """What a job adds to the user's options by itself (`default_arguments`); raises as `pipeline_options` does."""
    return default_arguments(runner, arguments, _given_options(runner, arguments).get_all_options())


def pipeline_options(runner: str, arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options for a runner: what suits it, then what the user wrote after `--`.

    Raises:
        UsageError: an option that Beam does not take, another runner, or a mode that is known to lose elements.
    """
    return PipelineOptions([f"--runner={runner}", *added_arguments(runner, arguments), *arguments])


def runner_checks(runner: str, arguments: Sequence[str], paths: Mapping[str, str]) -> list[Check]:
    """What can be found out about a job before it is submitted; `paths` are what it reads and writes, by their names.

    Raises:
        UsageError: the runner is unknown, or Beam does not take its options (see `pipeline_options`).
    """
    return submission_checks(submission(runner, arguments, paths))


def submission(runner: str, arguments: Sequence[str], paths: Mapping[str, str]) -> Submission:
    """A job as it would be submitted; raises as `runner_checks` does."""
    options = pipeline_options(runner, arguments)
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"there is no runner {runner!r}", "use FnApiRunner, PrismRunner, FlinkRunner, ...") from error
    return Submission(runner, options.get_all_options(), beam.__version__, version("shardbox"), dict(paths))


def check_runner(runner: str, arguments: Sequence[str], paths: Mapping[str, str] = MappingProxyType({})) -> None:
    """Fail before anything is submitted; see `runner_checks`.

    Raises:
        UsageError: the runner is unknown, its options are known to lose elements, or something is amiss with its
            engine, the packages of its workers, or what these see.
    """
    for check in runner_checks(runner, arguments, paths):
        if check.level == "bad":
            raise UsageError(f"--runner {runner}: {check.what}: {check.found}", check.remedy)
