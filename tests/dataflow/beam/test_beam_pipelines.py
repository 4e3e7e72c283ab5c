"""Why a job failed is found among all that its engine says, in whichever order it says it."""

import logging
import signal
import traceback
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.portable_runner import PipelineResult

from dataflow.beam.engine_failures import EngineFailedError
from dataflow.beam.pipelines import run_pipeline
from dataflow.beam.worker_failures import WorkerFailedError, failures_marked
from dataflow.errors import NO_ROOM
from tests.dataflow.job_services import JOB, Said, flink_page, job_service

CANCELLED = "java.util.concurrent.ExecutionException: org.x.grpc.StatusRuntimeException: CANCELLED: client cancelled"
LOOPBACK = ("--environment_type=LOOPBACK", "--job_server_timeout=20")


def full_disk() -> str:
    """What Java says of a worker that found the disk full."""
    try:
        with failures_marked("shard train 1 could not be written"):
            raise OSError(28, "No space left on device")
    except RuntimeError as raised:
        python = "".join(traceback.format_exception(raised))
    return f"java.lang.RuntimeException: Error received from SDK harness for instruction 2: {python}\n\tat org.x.Y(Z:1)"


def run(endpoint: str, runner: str = "PortableRunner", *arguments: str) -> None:
    def steps(pipeline: Any) -> None:
        _ = pipeline | beam.Create([1])

    run_pipeline(steps, runner, (f"--job_endpoint={endpoint}", *LOOPBACK, *arguments), kept="nothing was kept")


@pytest.mark.parametrize(
    "said",
    [
        [("ERROR", full_disk()), ("ERROR", CANCELLED)],
        [("ERROR", CANCELLED), ("ERROR", full_disk()), ("ERROR", CANCELLED)],
        [("BASIC", "started"), ("DEBUG", full_disk()), ("ERROR", CANCELLED)],
    ],
    ids=["before the last", "in the middle", "only explained"],
)
def test_the_words_of_a_worker_wherever_they_stand(said: Said, capfd: pytest.CaptureFixture[str]) -> None:
    with job_service(said) as (endpoint, _), pytest.raises(WorkerFailedError) as told:
        run(endpoint)
    assert told.value.message == (
        "shard train 1 could not be written: OSError: [Errno 28] No space left on device; nothing was kept"
    )
    assert told.value.remedy == NO_ROOM and "Traceback" in told.value.__notes__[0]
    assert "client cancelled" not in "".join(capfd.readouterr()), "said once, in the error"


def test_flink_is_asked_for_the_attempts_before_the_last() -> None:
    """The job's own words are those of the last attempt, which died of a neighbour's failure."""
    history = [
        {"stacktrace": CANCELLED, "timestamp": 30, "concurrentExceptions": []},
        {"stacktrace": "x.Other: y", "timestamp": 20, "concurrentExceptions": [
            {"stacktrace": full_disk(), "timestamp": 21}
        ]},
    ]  # fmt: skip
    told = pytest.raises(WorkerFailedError, match="No space left on device; nothing was kept")
    with job_service([("ERROR", CANCELLED)]) as (endpoint, _), flink_page(history) as (master, _), told:
        run(endpoint, "FlinkRunner", f"--flink_master={master}")


def test_an_engine_that_fails_by_itself() -> None:
    java = "a.JobException: Job failed\n\tat a.B(C:1)\nCaused by: a.b.NoResourceAvailableException: no slots\n\tat d.E"
    said = [("ERROR", CANCELLED), ("ERROR", "a.b.NoResourceAvailableException: no slots"), ("DEBUG", java)]
    with job_service(said) as (endpoint, _), pytest.raises(EngineFailedError) as told:
        run(endpoint)
    assert told.value.message == (
        f"PortableRunner: the job {JOB} failed: a.b.NoResourceAvailableException: no slots; nothing was kept"
    )
    assert told.value.exit_status == 1 and "log of PortableRunner" in told.value.remedy
    notes = "\n".join(told.value.__notes__)
    assert java in notes and "Traceback" in notes and "client cancelled" in notes


def test_where_flink_shows_a_failure() -> None:
    """Of a worker that cannot read the job there is no marked line."""
    python = "Traceback (most recent call last):\n  File x, line 1\nModuleNotFoundError: No module named 'dataflow'\n"
    history = [{"stacktrace": f"j.E: Error received: {python}\n\tat a.B\nCaused by: {python}", "timestamp": 1}]
    with job_service([("ERROR", CANCELLED)]) as (endpoint, _), flink_page(history) as (master, _):
        with pytest.raises(EngineFailedError, match=f"the job {JOB} failed: ModuleNotFoundError: No module named") as e:
            run(endpoint, "FlinkRunner", f"--flink_master={master}")
        assert e.value.remedy.startswith(f"look at http://{master}/#/job/completed/abc/exceptions; ")


def test_only_consequences() -> None:
    """Then the first of them must do."""
    told = pytest.raises(EngineFailedError, match="CANCELLED: client cancelled; nothing was kept")
    with job_service([("ERROR", CANCELLED), ("ERROR", "")]) as (endpoint, _), told:
        run(endpoint)


def test_a_channel_that_breaks() -> None:
    """What the engine said before is no failure; what Beam raised is."""
    told = pytest.raises(EngineFailedError, match=f"the job {JOB} failed: DEADLINE_EXCEEDED: .*; nothing was kept")
    with job_service([("BASIC", "started")], lasts_s=3) as (endpoint, _), told as error:
        run(endpoint, "PortableRunner", "--job_server_timeout=1")
    assert "started" in error.value.__notes__


def test_a_job_server_that_does_not_start(tmp_path: Path) -> None:
    """What it said is told. The program in the place of Java takes the words of its command line for files."""
    (tmp_path / "server.jar").write_bytes(b"no archive")
    arguments = (f"--flink_job_server_jar={tmp_path}/server.jar", "--job_server_java_launcher=cat", *LOOPBACK)
    with pytest.raises(EngineFailedError, match=r"FlinkRunner: the job was not taken: cat: .*nothing was kept") as told:
        run_pipeline(lambda pipeline: None, "FlinkRunner", arguments, kept="nothing was kept")
    assert "shardbox doctor --runner FlinkRunner" in told.value.remedy
    assert "Service failed to start up" in told.value.__notes__[-1]


def test_an_interruption_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the job service, and at Flink itself, since the same Ctrl-C may have ended a job service of ours."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PipelineResult, "wait_until_finish", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with job_service() as (endpoint, service), flink_page([]) as (master, page):
        with pytest.raises(KeyboardInterrupt):
            run(endpoint, "FlinkRunner", f"--flink_master={master}")
        assert service.cancelled == [JOB] and page.patched == ["/jobs/abc?mode=cancel"]
    assert signal.getsignal(signal.SIGINT) is before and not logging.getLogger().filters
