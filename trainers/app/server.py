"""The App: the port it listens on, and its end."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import psutil

from dataflow.errors import UsageError

_PATIENCE_S = 5.0


def check_port(address: str, port: int) -> None:
    """Refuse a port that cannot be listened on, before a server is started that would only fail later.

    Raises:
        UsageError: it is taken, not allowed, or the address is not this machine's.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # A server that just ended is no obstacle.
        try:
            probe.bind((address, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot listen on {address}:{port} ({reason})", "choose another --port") from error


@contextlib.contextmanager
def ended_soon() -> Iterator[None]:
    """Around what ends FiftyOne's server: if that takes more than a few seconds, the server is killed.

    From Python 3.12 on the server waits for every browser that is still connected before it ends, for ever if need be,
    and FiftyOne waits for the server (seen with FiftyOne 1.22 on Python 3.13).
    """
    timer = threading.Timer(_PATIENCE_S, _kill_servers)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kill_servers() -> None:
    """Kill what FiftyOne's service for the App has started; the service then ends by itself, the database goes on."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[2:4] == ["--51-service", "server"]:
                for server in process.children(recursive=True):
                    server.kill()
