"""Beam pipelines run to their end, whichever that is. This is the only module that constructs one.

What pipelines do is in `jobs` and `tasks`.
"""

import contextlib
import json
import logging
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dataflow.beam.cluster import FlinkJob, flink_job
from dataflow.beam.engine_failures import EngineWords, first_cause
from dataflow.beam.options import pipeline_options
from dataflow.beam.worker_pool import answer
from dataflow.errors import MissingExtraError, ShardboxError

try:
    import apache_beam as beam
    from apache_beam.metrics import Metrics, MetricsFilter
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability import python_urns
    from apache_beam.portability.api import beam_fn_api_pb2, beam_job_api_pb2, beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
    from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
    from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker
    from apache_beam.transforms.environments import ExternalEnvironment
except ImportError as error:
    raise MissingExtraError("apache-beam", "prepare") from error

_ANSWERS = "shardbox answers"
_JOB_SERVERS = ("FlinkJarJobServer", "SparkJarJobServer", "PrismJobServer")
"""The loggers by which Beam passes on what the job servers say that it starts."""
_LINES = 40
_CONSOLE = "https://console.cloud.google.com/dataflow/jobs"


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


def run_pipeline(steps: Callable[[beam.Pipeline], None], runner: str, arguments: Sequence[str], *, kept: str) -> None:
    """Run the pipeline that `steps` fills to its end. `kept` says what is left of its work where it fails.

    Who interrupts it ends the job, but for one on Dataflow, which goes on.

    Raises:
        UsageError: see `check_runner`.
        WorkerFailedError: a worker raised.
        WorkerDiedError: a worker process of FnApiRunner was killed.
        EngineFailedError: the job failed, and no worker said why.
    """
    options = pipeline_options(runner, arguments)
    pipeline = beam.Pipeline(options=options)
    steps(pipeline)
    run = _Run(runner, options.get_all_options())
    with _quiet() as said:
        try:
            with _interruptible():
                run.result = pipeline.run()
            run.result.wait_until_finish()
        except KeyboardInterrupt:
            run.cancel()
            raise
        except (ShardboxError, OSError):
            raise
        except Exception as error:
            heard, besides = run.messages() if run.job else (["\n".join(said)] if said else [], [])
            words = EngineWords(runner, run.job, heard, besides, run.page(), kept)
            raise first_cause(words, error) from error


class _Run:
    """A pipeline that was sent to a runner: what there is to be known of it, from Beam and from its engine."""

    def __init__(self, runner: str, options: Mapping[str, Any]) -> None:
        self._runner, self._options = runner, options
        self.result: Any = None
        """Beam's; None as long as the job is not taken."""
        self._flink: FlinkJob | None = None

    @property
    def job(self) -> str:
        """Its number; "" where there is none."""
        if self._runner == "DataflowRunner":
            return str(self.result.job_id()) if self.result else ""
        return str(getattr(self.result, "_job_id", ""))

    def _on_flink(self) -> FlinkJob | None:
        """The job as its cluster knows it: by its name, which is the first part of its number."""
        if self._flink is None and self._runner == "FlinkRunner" and self.job:
            self._flink = flink_job(self._options["flink_master"], self.job.rpartition("_")[0])
        return self._flink

    def messages(self) -> tuple[list[str], list[str]]:
        """What the engine said of failures, first what Flink remembers; and what else it said. The earliest first."""
        flink = self._on_flink()
        failures: list[str] = list(flink.failures) if flink else []
        besides: list[str] = []
        for message in getattr(self.result, "_messages", ()):
            response = message.message_response
            if response.message_text:
                failed = response.importance == beam_job_api_pb2.JobMessage.JOB_MESSAGE_ERROR
                (failures if failed else besides).append(response.message_text)
        return failures, besides

    def page(self) -> str:
        """Where a person sees the job; "" where that is not known."""
        if self._runner == "DataflowRunner" and self.job:
            return f"{_CONSOLE}/{self._options['region']}/{self.job}?project={self._options['project']}"
        flink = self._on_flink()
        return flink.page if flink else ""

    def cancel(self) -> None:
        """End the job. The interruption may have ended its job server already: Flink is asked itself."""
        if self.result is None or self._runner == "DataflowRunner":
            return
        with contextlib.suppress(Exception):
            self.result.cancel()
        with contextlib.suppress(OSError):
            if flink := self._on_flink():
                flink.cancel()


@contextlib.contextmanager
def _quiet() -> Iterator["deque[str]"]:
    """Keep Beam quiet, whose errors come as exceptions too; gives the last lines of the job servers that it starts."""
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # It logs what is raised, too.
    said: deque[str] = deque(maxlen=_LINES)
    handler = _Keeping(said)
    root, servers = logging.getLogger(), [logging.getLogger(name) for name in _JOB_SERVERS]
    for server in servers:
        server.setLevel(logging.INFO)
        server.propagate = False
        server.addHandler(handler)
    root.addFilter(_not_of_a_job)
    before = threading.excepthook
    threading.excepthook = lambda death: None if _of_a_channel(death) else before(death)
    try:
        yield said
    finally:
        threading.excepthook = before
        root.removeFilter(_not_of_a_job)
        for server in servers:
            server.removeHandler(handler)


class _Keeping(logging.Handler):
    """Keeps what is said."""

    def __init__(self, said: "deque[str]") -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())


def _not_of_a_job(record: logging.LogRecord) -> bool:
    """Whether a record is not one by which Beam's portable runner passes on what a job says; that comes as an error."""
    return record.module != "portable_runner"


def _of_a_channel(death: threading.ExceptHookArgs) -> bool:
    """Whether a thread of Beam's or gRPC's died of its channel, which closes when a job server ends."""
    frames = traceback.extract_tb(death.exc_traceback)
    return bool(frames) and "grpc" in frames[-1].filename


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C does afterwards what it did before: Beam would end its job server first, by which the job is cancelled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
