"""The App: the view it opens on, the port it listens on, and its end."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import psutil

from dataflow.errors import UsageError

CONFIDENT = "confident"
"""Name of the saved view that the App opens on."""
_PATIENCE_S = 5.0


def save_confident_view(stored: Any, scores: Mapping[str, float]) -> None:
    """Save the view of a FiftyOne dataset that leaves out detections below a score, by field.

    Average precision wants a hundred detections an image, most of them hopeless; a person looking wants those that
    count at the score where F1 is best, as the report shows them.
    """
    view = stored.view()
    for field, score in scores.items():
        view = view.filter_labels(field, {"$gte": ["$$this.confidence", score]}, only_matches=False)
    stored.save_view(CONFIDENT, view, overwrite=True)


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
