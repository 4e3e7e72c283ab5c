"""Network ports of what is shown in a browser."""

import socket

from dataflow.errors import UsageError


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
