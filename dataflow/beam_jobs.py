"""The Beam jobs. This is the only module that constructs a pipeline.

One pipeline covers all splits of a dataset. What travels between workers are references (paths and annotations),
never image bytes: each shard is read, checked, encoded and written by one call of one DoFn.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataflow.errors import DataRefusedError, MissingExtraError, UsageError
from dataflow.shards import Outcome, ShardFormat, ShardKey, ShardResult, load_results, save_result, write_shard

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
    from apache_beam.runners.runner import create_runner
except ImportError as error:
    raise MissingExtraError("apache-beam", "prepare") from error

DEFAULT_RUNNER = "FnApiRunner"
_RESULTS = ".results"


class LostElementsError(DataRefusedError):
    """A runner said that it was done and had not written everything (exit status 1)."""


@dataclass(frozen=True)
class ShardJob:
    """A dataset to be: its shards, the inputs of each, and what turns a shard's inputs into outcomes.

    Inputs reach `outcomes` in no particular order. It runs on workers, so it must pickle: a function of a module or a
    frozen dataclass with `__call__`. `expected` is the number of outcomes that all inputs together have.
    """

    shard_format: ShardFormat
    shards: Sequence[ShardKey]
    inputs: Sequence[tuple[ShardKey, Any]]
    outcomes: Callable[[Sequence[Any]], Iterator[Outcome]]
    expected: int


class _WriteShard(beam.DoFn):  # type: ignore[misc]
    """(shard, its inputs) -> the shard's file and its result."""

    def __init__(self, job: ShardJob, directory: str) -> None:
        # Not the job: its inputs would travel with every bundle.
        self._shard_format, self._outcomes, self._directory = job.shard_format, job.outcomes, Path(directory)

    def process(self, element: tuple[tuple[str, int, int], Iterable[Any]]) -> Iterator[None]:
        key, inputs = element
        outcomes = self._outcomes([item for item in inputs if item is not None])
        result = write_shard(self._directory, self._shard_format, ShardKey(*key), outcomes)
        save_result(result, self._directory / _RESULTS)
        return iter(())


def pipeline_options(runner: str, arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options for a runner and what the user wrote after `--`.

    Raises:
        UsageError: an option that Beam does not take, another runner, or a mode that is known to lose elements.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions([f"--runner={runner}", *arguments])
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


def check_runner(runner: str, arguments: Sequence[str]) -> None:
    """Fail early where `run_shard_job` would.

    Raises:
        UsageError: the runner is unknown, or its options are known to lose elements.
    """
    pipeline_options(runner, arguments)
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"there is no runner {runner!r}", "use FnApiRunner, PrismRunner, FlinkRunner, ...") from error


def run_shard_job(
    job: ShardJob, directory: Path, runner: str = DEFAULT_RUNNER, arguments: Sequence[str] = ()
) -> list[ShardResult]:
    """Write all shards of `job` into `directory` and return their results, by split and index.

    Raises:
        UsageError: see `check_runner`.
        LostElementsError: the runner ended without writing every shard, or an input was lost on the way.
    """
    options = pipeline_options(runner, arguments)
    results = directory / _RESULTS
    results.mkdir()
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    # A None for each shard, so that a shard without inputs is written too: TFDS wants every file it counts.
    every_shard = [(key, None) for key in job.shards]
    keyed = [((key.split, key.index, key.of), item) for key, item in [*every_shard, *job.inputs]]
    # Runs on leaving the block, and raises what the workers raised.
    with beam.Pipeline(options=options) as pipeline:
        (
            pipeline
            | "inputs" >> beam.Create(keyed)
            | "by shard" >> beam.GroupByKey()
            | "write shards" >> beam.ParDo(_WriteShard(job, str(directory)))
        )
    written = load_results(results)
    for path in results.iterdir():
        path.unlink()
    results.rmdir()
    _check_nothing_lost(job, written, runner)
    return written


def _check_nothing_lost(job: ShardJob, written: Sequence[ShardResult], runner: str) -> None:
    """Every shard and every outcome arrived. Runners have been seen to lose elements and still report success."""
    expected = sorted((key.split, key.index) for key in job.shards)
    outcomes = sum(result.count + len(result.quarantined) for result in written)
    if [(result.split, result.index) for result in written] != expected or outcomes != job.expected:
        raise LostElementsError(
            f"{runner} reported success but {len(written)} of {len(expected)} shards and {outcomes} of "
            f"{job.expected} images arrived; nothing was kept",
            "run it again, with fewer workers or another --runner",
        )
