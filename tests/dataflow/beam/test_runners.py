"""What is added to the options of each runner, and what is found wrong before a job is submitted."""

import json
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import apache_beam
import grpc
import pytest

from dataflow.beam import runners
from dataflow.beam.cluster import FlinkCluster, JobServer, answers, flink_cluster, host_of, is_here, on_network_disk
from dataflow.beam.jobs import check_worker
from dataflow.beam.options import added_arguments, check_runner, pipeline_options, runner_checks
from dataflow.beam.runners import Check
from dataflow.errors import UsageError

SETTINGS: list[dict[str, str]] = []
"""Those of the cluster below."""


@pytest.fixture
def flink() -> Iterator[str]:
    """What a Flink 1.20 cluster with six slots answers to `/overview`; its address."""

    class Overview(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = {"/overview": {"flink-version": "1.20.3", "slots-total": 6}, "/jobmanager/config": SETTINGS}
            body = json.dumps(answers.get(self.path))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Overview)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    flink_cluster.cache_clear()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address of this machine at which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def found(runner: str, *arguments: str, **paths: str) -> dict[str, Check]:
    return {check.what: check for check in runner_checks(runner, arguments, paths)}


def test_dataflow_gets_machines_for_images() -> None:
    options = pipeline_options("DataflowRunner", ()).get_all_options()
    assert options["machine_type"] == "e2-standard-4" and options["number_of_worker_harness_threads"] == 2
    assert options["disk_size_gb"] == 50 and options["autoscaling_algorithm"] == "THROUGHPUT_BASED"


@pytest.mark.parametrize("name", ["--machine_type", "--worker_machine_type"])
@pytest.mark.parametrize("apart", [False, True])
def test_what_the_user_writes_wins(name: str, apart: bool) -> None:
    words = (name, "n2-highcpu-8") if apart else (f"{name}=n2-highcpu-8",)
    options = pipeline_options("DataflowRunner", (*words, "--disk_size_gb=200")).get_all_options()
    assert (options["machine_type"], options["disk_size_gb"]) == ("n2-highcpu-8", 200)
    assert "--disk_size_gb=50" not in added_arguments("DataflowRunner", (*words, "--disk_size_gb=200"))


def test_all_slots_of_a_flink_cluster_are_used(flink: str) -> None:
    master = f"--flink_master={flink}"
    assert pipeline_options("FlinkRunner", (master,)).get_all_options()["parallelism"] == 6
    assert pipeline_options("FlinkRunner", (master, "--parallelism=2")).get_all_options()["parallelism"] == 2
    assert pipeline_options("FlinkRunner", (f"--flink_master=http://{flink}",)).get_all_options()["parallelism"] == 6
    assert "--sdk_worker_parallelism=0" in added_arguments("FlinkRunner", (master,))


def test_nothing_is_added_for_this_machine() -> None:
    assert added_arguments("FnApiRunner", ()) == ()
    assert not [check for check in found("FnApiRunner", source="/a", output="/b").values() if check.level != "good"]


def test_a_flink_cluster_of_another_version(flink: str) -> None:
    told = found("FlinkRunner", f"--flink_master={flink}", "--flink_version=1.19")["Flink"]
    assert (told.level, told.remedy) == ("bad", "use --flink_version=1.20")
    assert "Flink 1.20.3 with 6 slots" in told.found
    assert found("FlinkRunner", f"--flink_master={flink}", "--flink_version=1.20")["Flink"].level == "good"


@pytest.mark.parametrize(("strategy", "told"), [(None, True), ("none", True), ("fixed-delay", False)])
def test_a_flink_cluster_that_does_not_try_again(
    strategy: str | None, told: bool, flink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [{"key": "restart-strategy.type", "value": strategy}] if strategy else []
    monkeypatch.setattr(sys.modules[__name__], "SETTINGS", settings)
    assert ("retries" in found("FlinkRunner", f"--flink_master={flink}", "--flink_version=1.20")) is told


def test_engines_that_do_not_answer(nobody: str) -> None:
    assert f"nothing answers at {nobody}" in found("FlinkRunner", f"--flink_master={nobody}")["Flink"].found
    assert found("SparkRunner", f"--spark_master_url=spark://{nobody}")["Spark"].level == "bad"
    assert found("PortableRunner", f"--job_endpoint={nobody}")["job service"].level == "bad"
    assert found("PortableRunner")["job service"].found == "no --job_endpoint"
    external = ("--environment_type=EXTERNAL", f"--environment_config={nobody}")
    assert found("PortableRunner", f"--job_endpoint={nobody}", *external)["worker pool"].level == "bad"


def test_an_endpoint_that_is_no_job_service(flink: str) -> None:
    """A client of gRPC would wait for ever for a page such as Flink's."""
    page = found("FlinkRunner", f"--flink_master={flink}", f"--job_endpoint={flink}")["job service"]
    assert page.level == "bad" and page.found == f"what answers at {flink} is no job service"
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert found("PortableRunner", f"--job_endpoint=127.0.0.1:{port}")["job service"].level == "good"
    server.stop(None)


def jar(path: Path, class_path: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\r\n{class_path}\r\n")
    return path


def test_the_version_of_a_job_server(tmp_path: Path) -> None:
    beam = apache_beam.__version__
    for name, class_path, level, told in (
        (f"beam-runners-flink-1.20-job-server-{beam}.jar", "", "good", f"Beam {beam}"),
        ("beam-runners-flink-1.20-job-server-2.1.0.jar", "", "note", f"is of Beam 2.1.0; this is Beam {beam}"),
        ("server.jar", "", "note", "does not say of which version"),
        # Manifests break lines anywhere; a blank goes on with the line before.
        ("thin.jar", "Class-Path: file:///a/b.jar file:///a/beam-runners-fl\r\n ink-1.19-2.62.0.jar", "note", "2.62.0"),
    ):
        path = jar(tmp_path / name, class_path)
        check = found("FlinkRunner", f"--flink_job_server_jar={path}")["job server"]
        assert (check.level, told in check.found) == (level, True), check
    absent = found("SparkRunner", f"--spark_job_server_jar={tmp_path / 'no.jar'}")["job server"]
    assert absent.level == "bad" and "no.jar is no file" in absent.found
    jar(tmp_path / "other.jar", "Main-Class: org.apache.beam.runners.spark.SparkJobServerDriver\r\n")
    other = found("FlinkRunner", f"--flink_job_server_jar={tmp_path / 'other.jar'}")["job server"]
    assert other.level == "bad" and "SparkJobServerDriver, no job server of Flink" in other.found
    assert found("SparkRunner", f"--spark_job_server_jar={tmp_path / 'other.jar'}")["job server"].level == "note"
    (tmp_path / "text.jar").write_text("no archive")
    text = found("FlinkRunner", f"--flink_job_server_jar={tmp_path / 'text.jar'}")["job server"]
    assert text.level == "bad" and text.found.endswith("text.jar is no jar") and "Maven Central" in text.remedy
    named = JobServer.of("SparkRunner", {"spark_job_server_jar": None, "spark_version": "3"})
    assert named.published("2.77.0") == "beam-runners-spark-3-job-server-2.77.0.jar"


def test_a_job_server_without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found("FlinkRunner")["Java"].level == "bad"


def test_local_paths_and_workers_elsewhere(tmp_path: Path, flink: str) -> None:
    there = {"source": str(tmp_path), "output": "gs://bucket/data"}
    far = found("FlinkRunner", "--flink_master=cluster.invalid:8081", "--environment_type=LOOPBACK", **there)
    assert far["source"].level == "bad" and "use gs://" in far["source"].remedy and str(tmp_path) in far["source"].found
    assert far["output"].level == "good"
    contained = found("FlinkRunner", f"--flink_master={flink}", "--environment_config=r/shardbox:1", **there)
    assert "workers of FlinkRunner are in containers" in contained["source"].found
    near = found("FlinkRunner", f"--flink_master={flink}", "--environment_type=LOOPBACK", **there)
    assert near["source"].level == "good"
    assert found("FlinkRunner", **there)["source"].level == "good", "a cluster in the job server, here"
    assert found("DataflowRunner", **there)["source"].level == "bad"


def test_network_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def mounts(kind: str) -> None:
        table = f"/dev/sda / ext4 rw 0 0\nserver:/export {tmp_path} {kind} rw 0 0\n"
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: table)

    for kind, shared in (("nfs4", True), ("fuse.gcsfuse", True), ("ext4", False), ("tmpfs", False)):
        mounts(kind)
        assert on_network_disk(tmp_path / "not" / "yet") is shared
        assert on_network_disk(tmp_path.parent) is False
    mounts("nfs")
    far = ("--flink_master=cluster.invalid:8081", "--environment_type=LOOPBACK")
    assert found("FlinkRunner", *far, source=str(tmp_path))["source"].level == "note"


def test_containers() -> None:
    ours, image = found("DataflowRunner")["container"], "eu.docker.pkg.dev/p/shardbox"
    assert ours.level == "bad" and "docker build --target prepare" in ours.remedy
    version = ours.remedy.partition("shardbox:")[2].split()[0]
    for tag, level in (
        (f":{version}", "good"),
        (f":{version}-predict", "good"),
        (":latest", "note"),
        ("", "note"),
        (":9.9.9", "note"),
    ):
        assert found("DataflowRunner", f"--sdk_container_image={image}{tag}")["container"].level == level


def test_packages_that_are_staged(tmp_path: Path) -> None:
    setup = tmp_path / "setup.py"
    assert found("DataflowRunner", f"--setup_file={setup}")["packages of workers"].level == "bad"
    setup.touch()
    assert found("DataflowRunner", f"--setup_file={setup}")["packages of workers"].level == "note"
    needs = f"--requirements_file={tmp_path / 'needs.txt'}"
    assert found("DataflowRunner", f"--setup_file={setup}", needs)["packages of workers"].level == "good"
    wheel = tmp_path / "shardbox-0.2.0-py3-none-any.whl"
    assert found("DataflowRunner", f"--extra_package={wheel}", needs)["packages of workers"].level == "bad"
    wheel.touch()
    assert found("DataflowRunner", f"--extra_package={wheel}", needs)["packages of workers"].level == "good"


def test_dataflow_without_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    checks = found("DataflowRunner", "--temp_location=/tmp/x")
    assert {checks[what].level for what in ("project", "region", "staging", "credentials", "container")} == {"bad"}
    (tmp_path / "key.json").touch()
    named = ("--project=p", "--region=r", "--temp_location=gs://b/t")
    checks = found("DataflowRunner", *named)
    assert {checks[what].level for what in ("project", "region", "staging", "credentials")} == {"good"}


def test_prism(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"prism@v{apache_beam.__version__}" in found("PrismRunner")["prism"].remedy
    (tmp_path / "prism").touch(0o755)
    assert f"--prism_location={tmp_path / 'prism'}" in added_arguments("PrismRunner", ())
    assert found("PrismRunner")["prism"].level == "good"
    assert found("PrismRunner", "--prism_location=/no/prism")["prism"].level == "bad"


@pytest.mark.parametrize("runner", ["PrismRunner", "PortableRunner"])
def test_a_job_may_take_longer_than_an_answer_of_its_service(runner: str) -> None:
    """Beam limits the streams of a job's states and messages by it, and so jobs."""
    limits = pipeline_options(runner, ()).get_all_options(), pipeline_options(runner, ("--job_server_timeout=9",))
    assert limits[0]["job_server_timeout"] > 7 * 24 * 3600
    assert limits[1].get_all_options()["job_server_timeout"] == 9, "what the user says goes"


def test_jobs_are_refused_for_the_same_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--runner PortableRunner: job service: no --job_endpoint"):
        check_runner("PortableRunner", ())
    with pytest.raises(UsageError, match=r"source: .* is on this machine, and workers of FlinkRunner are on other"):
        monkeypatch.setattr(runners, "answers", lambda _: True)
        monkeypatch.setattr(runners, "speaks_http2", lambda _: True)
        monkeypatch.setattr(runners, "flink_cluster", lambda _: FlinkCluster("2.2.0", 4, True))
        job = ("--job_endpoint=localhost:1", "--environment_type=LOOPBACK", "--flink_master=far.invalid:1")
        check_runner("FlinkRunner", job, {"source": str(tmp_path)})
    with pytest.raises(UsageError, match="multi_threading loses elements"):
        check_runner("FnApiRunner", ("--direct_running_mode=multi_threading",))
    check_runner("FnApiRunner", (), {"source": str(tmp_path)})


def test_addresses(nobody: str) -> None:
    assert [host_of(each) for each in ("a:1", "http://b:2/x", "spark://c:3", "[::1]:4", "d")] == [*"abc", "::1", "d"]
    assert all(map(is_here, ("localhost", "127.0.0.1", "127.3.2.1", "::1", socket.gethostname())))
    assert not is_here("cluster.invalid") and not is_here("10.0.0.1")
    assert not answers(nobody) and not answers("localhost:port") and flink_cluster("[auto]") is None


def test_a_worker_of_another_version() -> None:
    with pytest.raises(UsageError, match=r"a worker has shardbox .*, the launcher 9\.9\.9"):
        check_worker("9.9.9")
