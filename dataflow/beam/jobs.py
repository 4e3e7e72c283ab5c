"""The Beam job that writes the shards of a dataset; what runs tasks on shards is in `tasks`.

One pipeline covers all splits of a dataset. Its plan is a file for each shard, a line for each image: what a worker has
to know to load it. Only the names of shards travel through the pipeline, neither references nor image bytes, and the
graph is of the same size for any dataset: each shard is read, checked, encoded and written by one call of one DoFn.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from dataflow.beam.job_metrics import TIMES, save_metrics, save_times
from dataflow.beam.options import DEFAULT_RUNNER
from dataflow.beam.pipelines import run_pipeline
from dataflow.beam.step_times import StepTimes
from dataflow.beam.worker_failures import failures_marked
from dataflow.errors import DataRefusedError, MissingExtraError, UsageError
from dataflow.shards import Outcome, ShardFormat, ShardKey, ShardResult, load_results, save_result, write_shard
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import REQUESTS, location, remove_tree

try:
    import apache_beam as beam
    from apache_beam.metrics import Metrics
except ImportError as error:
    raise MissingExtraError("apache-beam", "prepare") from error

_RESULTS = ".results"
_PLAN = ".plan"
_SHARDS = "shards"
METRICS = "shardbox"


class LostElementsError(DataRefusedError):
    """A runner said that it was done and had not written everything (exit status 1)."""


@dataclass(frozen=True)
class ShardJob:
    """A dataset to be: its shards, the inputs of each as lines of text, and what turns them into outcomes.

    `outcomes` gets the lines of a shard in their order. It runs on workers, so it must pickle: a function of a module
    or a frozen dataclass with `__call__`. `expected` is the number of outcomes that all inputs together have.
    """

    shard_format: ShardFormat
    inputs: Mapping[ShardKey, Sequence[str]]
    outcomes: Callable[[Sequence[str]], Iterator[Outcome]]
    expected: int


class _WriteShard(beam.DoFn):  # type: ignore[misc]
    """A shard's name -> the shard's file and its result."""

    def __init__(self, job: ShardJob, directory: str) -> None:
        # Not the job: its inputs would travel with every bundle.
        self._shard_format, self._outcomes, self._directory = job.shard_format, job.outcomes, location(directory)
        self._version = version("shardbox")

    def setup(self) -> None:
        with failures_marked("a worker could not start"):
            check_worker(self._version)

    def process(self, element: tuple[str, int, int]) -> Iterator[None]:
        key = ShardKey(*element)
        with failures_marked(f"shard {key.split} {key.index} could not be written"):
            lines = _plan_file(self._directory, self._shard_format, key).read_text(encoding="ascii").splitlines()
            times = StepTimes()
            result = write_shard(self._directory, self._shard_format, key, self._outcomes(lines), times)
            # Before the result, which says that the shard is done.
            save_times(times, self._directory, result)
            save_result(result, self._directory / _RESULTS)
            _measure(result, times)
        return iter(())


def check_worker(wanted: str) -> None:
    """Where this process has another version of this package than the launcher, it may make other examples.

    Raises:
        UsageError: it has.
    """
    if (found := version("shardbox")) != wanted:
        raise UsageError(f"a worker has shardbox {found}, the launcher {wanted}", "install the same on both")


def _measure(result: ShardResult, times: StepTimes) -> None:
    """Beam's metrics, for the page of the runner."""
    counters = {
        "images_prepared": result.count,
        "images_quarantined": len(result.quarantined),
        "bytes_written": result.num_bytes,
    }
    for step, mean in times.means().items():
        # Of each shard the mean for an image. Distributions hold whole numbers only, so microseconds.
        Metrics.distribution(METRICS, f"{step}_us").update(round(1000 * mean))
    if result.alignment is not None:
        counters |= {"pairs_aligned": result.alignment.aligned, "pairs_refused": result.alignment.refused}
        if result.alignment.aligned:
            mean = result.alignment.residual_sum / result.alignment.aligned
            # Of each shard the mean: distributions hold whole numbers only, so thousandths of a pixel.
            Metrics.distribution(METRICS, "alignment_residual_mpx").update(round(1000 * mean))
    for name, count in counters.items():
        Metrics.counter(METRICS, name).inc(count)


def write_plan(job: ShardJob, directory: Path) -> int:
    """Leave the plan of a job where its workers find it; returns the bytes written."""
    folder = directory / _PLAN
    folder.mkdir()

    def write_lines(key: ShardKey) -> int:
        text = "".join(f"{line}\n" for line in job.inputs[key])
        return _plan_file(directory, job.shard_format, key).write_text(text, encoding="ascii")

    with ThreadPoolExecutor(REQUESTS) as pool:
        size = sum(pool.map(write_lines, job.inputs))
    shards = "".join(json.dumps([key.split, key.index, key.of]) + "\n" for key in job.inputs)
    return size + (folder / _SHARDS).write_text(shards, encoding="ascii")


def _planned_shards(directory: str) -> Iterator[tuple[str, int, int]]:
    for line in (location(directory) / _PLAN / _SHARDS).read_text(encoding="ascii").splitlines():
        split, index, of = json.loads(line)
        yield split, index, of


def _plan_file(directory: Path, shard_format: ShardFormat, key: ShardKey) -> Path:
    return directory / _PLAN / shard_format.file_name(key)


def run_shard_job(
    job: ShardJob, directory: Path, runner: str = DEFAULT_RUNNER, arguments: Sequence[str] = ()
) -> list[ShardResult]:
    """Write all shards of `job` into `directory` and return their results, by split and index.

    Raises:
        UsageError, WorkerFailedError, WorkerDiedError, EngineFailedError: see `run_pipeline`.
        LostElementsError: the runner ended without writing every shard, or an input was lost on the way.
    """
    results = directory / _RESULTS
    times = directory / TIMES
    for folder in (results, times):
        folder.mkdir()
    write_plan(job, directory)
    start = time.monotonic()
    run_pipeline(lambda pipeline: add_job(pipeline, job, directory), runner, arguments, kept="nothing was kept")
    written = load_results(results)
    save_metrics(directory, directory, written, runner, time.monotonic() - start)
    for folder in (results, times, directory / _PLAN):
        remove_tree(folder)
    _remove_partial(job, directory)
    _check_nothing_lost(job, written, runner)
    return written


def results_so_far(directory: Path) -> list[ShardResult]:
    """The results of those shards that a job which nobody waits for any longer has written, by split and index."""
    return load_results(directory / _RESULTS)


def add_job(pipeline: beam.Pipeline, job: ShardJob, directory: Path) -> None:
    """The steps that write what is planned in `directory`."""
    (
        pipeline
        | "plan" >> beam.Create([str(directory)])
        | "shards" >> beam.FlatMap(_planned_shards)
        | "to all workers" >> beam.Reshuffle()
        | "write shards" >> beam.ParDo(_WriteShard(job, str(directory)))
    )


def _remove_partial(job: ShardJob, directory: Path) -> None:
    """Remove half-written shards: of a worker that was killed, where the runner gave its shard to another."""
    if is_cloud(directory):
        return  # There an object is whole or not there.
    names = {job.shard_format.file_name(key) for key in job.inputs}
    for path in list(directory.iterdir()):
        if path.name.startswith(".") and path.name[1:].rpartition(".")[0] in names:
            path.unlink()


def _check_nothing_lost(job: ShardJob, written: Sequence[ShardResult], runner: str) -> None:
    """Every shard and every outcome arrived. Runners have been seen to lose elements and still report success."""
    expected = sorted((key.split, key.index) for key in job.inputs)
    outcomes = sum(result.count + len(result.quarantined) for result in written)
    if [(result.split, result.index) for result in written] != expected or outcomes != job.expected:
        raise LostElementsError(
            f"{runner} reported success but {len(written)} of {len(expected)} shards and {outcomes} of "
            f"{job.expected} images arrived; nothing was kept",
            "run it again, with fewer workers or another --runner",
        )
