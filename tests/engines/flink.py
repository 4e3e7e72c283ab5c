"""A Flink cluster on this machine, of several task managers, each a process of its own."""

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from tests.engines.parts import FLINK, flink_libraries, job_server
from tests.tfds_builders.portable import free_port, service, started, wait_until, worker_pool
from tfds_builders.running import Running

START_S = 300.0
SLOTS = 2
"""Of each task manager: either can do the work of both."""
_OPENED = (
    *(f"java.base/java.{name}" for name in ("lang", "net", "io", "nio", "lang.reflect", "text", "time", "util")),
    *("java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic", "java.base/sun.nio.ch"),
    "java.base/java.util.concurrent.locks",
)
_JAVA = ["java", *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENED)]
# Flink's own script works these out; they must add up, and all be said.
_MEMORY = {
    "memory.network.min": "64m",
    "memory.network.max": "64m",
    "memory.task.heap.size": "256m",
    "memory.task.off-heap.size": "0b",
    "memory.managed.size": "128m",
    "memory.framework.heap.size": "128m",
    "memory.framework.off-heap.size": "128m",
    "memory.jvm-metaspace.size": "256m",
    "memory.jvm-overhead.min": "192m",
    "memory.jvm-overhead.max": "192m",
    "cpu.cores": "1.0",
}
_SETTINGS = """\
jobmanager.rpc.address: localhost
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: localhost
rest.address: localhost
rest.bind-address: localhost
rest.port: {rest}
taskmanager.host: localhost
taskmanager.bind-host: localhost
taskmanager.numberOfTaskSlots: {slots}
cluster.evenly-spread-out-slots: true
heartbeat.interval: 1000
heartbeat.timeout: 8000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 3
restart-strategy.fixed-delay.delay: 1 s
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: the address of its REST API, its task managers, and the job server's jar."""

    address: str
    task_managers: tuple["Popen[bytes]", ...]
    jar: Path

    @contextmanager
    def running(self, folder: Path) -> Iterator[Running]:
        """How a job is sent to it, with a worker pool of its own.

        Workers of all jobs have the same names, and Flink lets go of those of a job some time after it: in one pool
        that ends the workers of the next.
        """
        with worker_pool(folder, module="tests.engines.shared_pool") as pool:
            yield self._running(pool)

    def _running(self, pool: str) -> Running:
        return Running(
            "FlinkRunner",
            (
                f"--flink_master={self.address}",
                f"--flink_version={FLINK}",
                f"--flink_job_server_jar={self.jar}",
                f"--parallelism={SLOTS}",
                "--environment_type=EXTERNAL",
                f"--environment_config={pool}",
            ),
        )

    def ask(self, path: str) -> Any:
        """An answer of the REST API."""
        with urllib.request.urlopen(f"http://{self.address}/{path}", timeout=10) as response:
            return json.load(response)

    def kill(self, number: int) -> None:
        """SIGKILL for a task manager."""
        os.kill(self.task_managers[number].pid, signal.SIGKILL)


@contextmanager
def flink_cluster(folder: Path, task_managers: int = 2) -> Iterator[Cluster]:
    """A job manager, and task managers of two slots each."""
    libraries, jar = flink_libraries(), job_server("flink")
    rest = free_port()
    (folder / "conf").mkdir(parents=True)
    settings = _SETTINGS.format(rpc=free_port(), rest=rest, slots=SLOTS)
    (folder / "conf" / "config.yaml").write_text(settings, encoding="ascii")
    runtime = "org.apache.flink.runtime"
    common = ["-cp", f"{libraries}/*"]
    configured = ["--configDir", str(folder / "conf")]
    manager = [*common, f"{runtime}.entrypoint.StandaloneSessionClusterEntrypoint", *configured]
    memory = [word for name, value in _MEMORY.items() for word in ("-D", f"taskmanager.{name}={value}")]
    worker = [*common, f"{runtime}.taskexecutor.TaskManagerRunner", *configured, *memory]
    with ExitStack() as stack:
        logs = [folder / "job_manager.log", *(folder / f"task_manager_{n}.log" for n in range(task_managers))]
        commands = [[*_JAVA, "-Xmx512m", *manager], *[[*_JAVA, "-Xmx384m", *worker]] * task_managers]
        processes = [
            stack.enter_context(service(command, dict(os.environ), log))
            for command, log in zip(commands, logs, strict=True)
        ]
        cluster = Cluster(f"localhost:{rest}", tuple(processes[1:]), jar)

        def up() -> bool:
            for process, log in zip(processes, logs, strict=True):
                started(process, log)
            try:
                return bool(cluster.ask("overview")["slots-total"] == task_managers * SLOTS)
            except OSError:
                return False

        wait_until(up, START_S, "the Flink cluster")
        yield cluster
