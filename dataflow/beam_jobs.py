"""The Beam jobs. This is the only module that constructs a pipeline; what runs tasks on shards is in `beam_tasks`.

One pipeline covers all splits of a dataset. Its plan is a file for each shard, a line for each image: what a worker has
to know to load it. Only the names of shards travel through the pipeline, neither references nor image bytes, and the
graph is of the same size for any dataset: each shard is read, checked, encoded and written by one call of one DoFn.
"""

import contextlib
import io
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dataflow.cloud_paths import is_cloud
from dataflow.errors import DataRefusedError, MissingExtraError, UsageError
from dataflow.job_metrics import TIMES, save_metrics, save_times
from dataflow.paths import REQUESTS, location, remove_tree
from dataflow.runners import Check, Submission, default_arguments, submission_checks
from dataflow.shards import Outcome, ShardFormat, ShardKey, ShardResult, load_results, save_result, write_shard
from dataflow.step_times import StepTimes
from dataflow.worker_failures import failure_in, failures_marked
from dataflow.worker_pool import answer

try:
    import apache_beam as beam
    from apache_beam.metrics import Metrics, MetricsFilter
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
    from apache_beam.portability import python_urns
    from apache_beam.portability.api import beam_fn_api_pb2, beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
    from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
    from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker
    from apache_beam.runners.runner import create_runner
    from apache_beam.transforms.environments import ExternalEnvironment
except ImportError as error:
    raise MissingExtraError("apache-beam", "prepare") from error

DEFAULT_RUNNER = "FnApiRunner"
_RESULTS = ".results"
_PLAN = ".plan"
_SHARDS = "shards"
METRICS = "shardbox"
_ANSWERS = "shardbox answers"


class LostElementsError(DataRefusedError):
    """A runner said that it was done and had not written everything (exit status 1)."""


class WorkerDiedError(DataRefusedError):
    """A worker process ended before its work was done (exit status 1)."""


_DIED = "Worker subprocess exited with return code "  # Beam's own words.


@worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class _WorkerProcess(worker_handlers.SubprocessSdkWorkerHandler):  # type: ignore[misc]
    """A worker process of FnApiRunner whose death ends the job. With Beam's own, the launcher waits for it for ever."""

    def start_worker(self) -> None:
        self.worker = SubprocessSdkWorker(
            self._worker_command_line, self.control_address, self.provision_info, self.worker_id
        )
        self.worker_thread = threading.Thread(name="run_worker", target=self._run)
        self.worker_thread.start()

    def stop_worker(self) -> None:
        # One that has yet to connect would otherwise wait for requests, and we for it.
        self.control_conn.push(worker_handlers.BeamFnControlServicer._DONE_MARKER)
        super().stop_worker()

    def _run(self) -> None:
        try:
            self.worker.run()
        except RuntimeError as error:
            self._answer_for_it(str(error))

    def _answer_for_it(self, reason: str) -> None:
        """All that it was asked, and all that it will be, has failed."""
        connection = self.control_conn

        def push(request: Any) -> Any:
            if request is worker_handlers.BeamFnControlServicer._DONE_MARKER:
                return None
            return worker_handlers.ControlFuture(
                request.instruction_id, beam_fn_api_pb2.InstructionResponse(error=reason)
            )

        connection.push = push
        for name, future in list(connection._futures_by_id.items()):
            future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=name, error=reason))


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
        check_worker(self._version)

    def process(self, element: tuple[str, int, int]) -> Iterator[None]:
        key = ShardKey(*element)
        with failures_marked(f"{key.split} {key.index}"):
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
        UsageError: it has. Beam passes the words on.
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
    """Fail early where `run_shard_job` would; see `runner_checks`.

    Raises:
        UsageError: the runner is unknown, its options are known to lose elements, or something is amiss with its
            engine, the packages of its workers, or what these see.
    """
    for check in runner_checks(runner, arguments, paths):
        if check.level == "bad":
            raise UsageError(f"--runner {runner}: {check.what}: {check.found}", check.remedy)


def run_shard_job(
    job: ShardJob, directory: Path, runner: str = DEFAULT_RUNNER, arguments: Sequence[str] = ()
) -> list[ShardResult]:
    """Write all shards of `job` into `directory` and return their results, by split and index.

    Raises:
        UsageError: see `check_runner`.
        WorkerDiedError: a worker process of FnApiRunner was killed.
        WorkerFailedError: a worker raised.
        LostElementsError: the runner ended without writing every shard, or an input was lost on the way.
    """
    options = pipeline_options(runner, arguments)
    results = directory / _RESULTS
    times = directory / TIMES
    for folder in (results, times):
        folder.mkdir()
    write_plan(job, directory)
    start = time.monotonic()
    with _deaths_told(runner, "nothing was kept"):
        _run_pipeline(job, directory, options)
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


@contextlib.contextmanager
def _deaths_told(runner: str, kept: str) -> Iterator[None]:
    """Quiet Beam's log, and make errors of ours of what it says when a worker failed, or its process died."""
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # It logs what is raised, too.
    try:
        yield
    except RuntimeError as error:
        if failure := failure_in(str(error), kept):
            raise failure from error
        _, died, status = str(error).partition(_DIED)
        if not died:
            raise
        raise WorkerDiedError(
            f"a worker process of {runner} died, exit status {status.split()[0]}; {kept}",
            "137 mostly means that memory ran out: run it again, with fewer workers",
        ) from error


def run_steps(steps: Callable[[beam.Pipeline], None], runner: str, arguments: Sequence[str], *, kept: str) -> None:
    """Run the pipeline that `steps` fills. `kept` says what is left when a worker process of FnApiRunner dies.

    Raises:
        UsageError: see `check_runner`.
        WorkerDiedError: a worker process of FnApiRunner was killed.
    """
    options = pipeline_options(runner, arguments)
    with _deaths_told(runner, kept), beam.Pipeline(options=options) as pipeline:
        steps(pipeline)


def _run_pipeline(job: ShardJob, directory: Path, options: PipelineOptions) -> None:
    # Runs on leaving the block, and raises what the workers raised.
    with beam.Pipeline(options=options) as pipeline:
        add_job(pipeline, job, directory)


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


def _tell(paths: Mapping[str, str]) -> None:
    Metrics.counter(_ANSWERS, json.dumps(answer(paths))).inc()


def question(address: str, paths: Mapping[str, str]) -> str:
    """The `answer` of a worker that the pool at `address` starts. Waits for ever where none comes."""
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    # Without files for workers. The runner's own word for that is a token, by which the boot program of containers
    # asks for files in a manner that the runner does not know any more.
    nothing = ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo())
    runner = FnApiRunner(default_environment=ExternalEnvironment(address), provision_info=nothing)
    pipeline = beam.Pipeline(runner=runner, options=PipelineOptions([]))
    _ = pipeline | beam.Create([dict(paths)]) | beam.Map(_tell)
    result = pipeline.run()
    result.wait_until_finish()
    [told] = result.metrics().query(MetricsFilter().with_namespace(_ANSWERS))["counters"]
    return str(told.key.metric.name)
