"""A standalone Spark cluster on this machine: a master, and workers whose executors are processes of their own."""

import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil

from tests.engines.parts import job_server, spark_libraries
from tests.tfds_builders.portable import free_port, service, started, wait_until, worker_pool
from tfds_builders.running import Running

START_S = 300.0
_DEPLOY = "org.apache.spark.deploy"
_EXECUTOR = "org.apache.spark.executor.CoarseGrainedExecutorBackend"


@dataclass(frozen=True)
class SparkCluster:
    """A running cluster: the addresses of its master and of its page, its workers, and the job server's jar."""

    address: str
    page: str
    workers: tuple["Popen[bytes]", ...]
    jar: Path

    @contextmanager
    def running(self, folder: Path) -> Iterator[Running]:
        """How a job is sent to it, with a worker pool of its own."""
        with worker_pool(folder, module="tests.engines.shared_pool") as pool:
            yield Running(
                "SparkRunner",
                (
                    f"--spark_master_url=spark://{self.address}",
                    f"--spark_job_server_jar={self.jar}",
                    "--environment_type=EXTERNAL",
                    f"--environment_config={pool}",
                ),
            )

    def ask(self) -> Any:
        """What the page of its master says."""
        with urllib.request.urlopen(f"http://{self.page}/json/", timeout=10) as response:
            return json.load(response)

    def kill_executor(self, number: int) -> None:
        """SIGKILL for the process in which a worker does its part of the one job that runs."""
        children = psutil.Process(self.workers[number].pid).children(recursive=True)
        [executor] = [child for child in children if _EXECUTOR in child.cmdline()]
        executor.kill()


@contextmanager
def spark_cluster(folder: Path, workers: int = 2) -> Iterator[SparkCluster]:
    """A master, and workers of one core each."""
    home, jar = folder / "spark", job_server("spark")
    (home / "jars").mkdir(parents=True)
    for library in spark_libraries():
        (home / "jars" / library.name).symlink_to(library)
    # Spark's own scripts say the version of Scala; a worker that is not told cannot start an executor.
    environment = {**os.environ, "SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "2.12", "SPARK_LOCAL_IP": "127.0.0.1"}
    port, page = free_port(), free_port()
    java = ["java", "-Xmx384m", "-cp", f"{home}/jars/*"]
    master = [*java, f"{_DEPLOY}.master.Master", "--host", "localhost", "--port", str(port), "--webui-port", str(page)]
    worker = [*java, f"{_DEPLOY}.worker.Worker", "--host", "localhost", "--webui-port", "0", "--cores", "1"]
    worker += ["--memory", "1g", "--work-dir", str(home / "work"), f"spark://localhost:{port}"]
    with ExitStack() as stack:
        logs = [folder / "master.log", *(folder / f"worker_{n}.log" for n in range(workers))]
        processes = [
            stack.enter_context(service(command, environment, log))
            for command, log in zip([master, *[worker] * workers], logs, strict=True)
        ]

        cluster = SparkCluster(f"localhost:{port}", f"localhost:{page}", tuple(processes[1:]), jar)

        def up() -> bool:
            for process, log in zip(processes, logs, strict=True):
                started(process, log)
            try:
                return bool(cluster.ask()["aliveworkers"] == workers)
            except OSError:
                return False

        wait_until(up, START_S, "the Spark cluster")
        yield cluster
