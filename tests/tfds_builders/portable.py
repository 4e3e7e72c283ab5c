"""Beam's job service and worker pool on this machine, for tests: free ports, time limits, and nothing left running."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

ROOT = Path(__file__).parents[2]
START_S = 60.0
POOL = "apache_beam.runners.worker.worker_pool_main"
# 1 is PR_SET_PDEATHSIG of prctl(2): where the tests are killed, so is what they started.
_DIES_TOO = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])"


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Fail where Beam would wait for ever, as it does for a worker that never comes. For the main thread only."""

    def late(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Look again and again; `what` is waited for."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not after {seconds} s")
        time.sleep(0.02)


def members(session: int) -> list[psutil.Process]:
    """The living processes of a session, zombies aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def end_session(session: int) -> None:
    """Kill all that is left of a session."""
    for process in members(session):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def service(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with all its children, for as long as the block runs. What it says goes to the file `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _DIES_TOO, *command],
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end_session(process.pid)
        process.wait(10)


def _environment(python: Path, path: Path | None) -> dict[str, str]:
    """That of a Python program. `path`: where it finds more modules."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    # The worker pool starts its workers as `python`.
    kept["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return kept | ({"PYTHONPATH": str(path)} if path else {})


def started(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        raise RuntimeError(f"ended at once: {log.read_text(errors='replace')[-2000:]}")


@contextmanager
def job_service(folder: Path) -> Iterator[str]:
    """Beam's local job service; the address for `--job_endpoint`. Its log is `service.log` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port_file, log = folder / "port", folder / "service.log"
    module = "apache_beam.runners.portability.local_job_service_main"
    python = Path(sys.executable)
    command = [str(python), "-m", module, "--port_file", str(port_file), "--staging_dir", str(folder / "staging")]
    with service(command, _environment(python, ROOT), log) as process:

        def up() -> bool:
            started(process, log)
            return port_file.exists()

        wait_until(up, START_S, "the job service")
        yield f"localhost:{port_file.read_text()}"


@contextmanager
def worker_pool(
    folder: Path,
    python: Path = Path(sys.executable),
    path: Path | None = ROOT,
    more: tuple[str, ...] = (),
    module: str = POOL,
) -> Iterator[str]:
    """Beam's worker pool in the environment of `python`; the address for `--environment_config`.

    Its log is `workers.log` in `folder`. `path`: where its workers find modules that their environment does not have.
    `more`: further options of the pool. `module`: its program.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "workers.log"
    command = [str(python), "-m", module, f"--service_port={port}", *more]
    with service(command, _environment(python, path), log) as process:

        def up() -> bool:
            started(process, log)
            try:
                with socket.create_connection(("localhost", port), timeout=1):
                    return True
            except OSError:
                return False

        wait_until(up, START_S, "the worker pool")
        yield f"localhost:{port}"


@contextmanager
def external(folder: Path, python: Path = Path(sys.executable), path: Path | None = ROOT) -> Iterator[tuple[str, ...]]:
    """A job service and a worker pool; the options of `PortableRunner` that lead there."""
    with ExitStack() as stack:
        jobs = stack.enter_context(job_service(folder))
        workers = stack.enter_context(worker_pool(folder, python, path))
        yield (
            f"--job_endpoint={jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config={workers}",
            "--job_server_timeout=60",
        )


@contextmanager
def loopback(folder: Path) -> Iterator[tuple[str, ...]]:
    """A job service; the options of `PortableRunner` by which the launcher itself is the worker."""
    with job_service(folder) as jobs:
        yield f"--job_endpoint={jobs}", "--environment_type=LOOPBACK", "--job_server_timeout=60"


def free_port() -> int:
    """A port that nothing listened to a moment ago."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
