"""A proxy on loopback before the emulator of gs://: it keeps what is asked for, and fails where it is told to."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import patch

from dataflow import object_stores


class Proxy:
    """`asked`: method and path of every request. `busy`: how often each object still answers 503."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.asked: list[str] = []
        self.busy: dict[str, int] = {}
        self._lock = threading.Lock()

    def fails(self, request: str) -> bool:
        """Whether this request finds the store busy."""
        with self._lock:
            self.asked.append(request)
            name = next((name for name, left in self.busy.items() if left and name in request), None)
            if name is not None:
                self.busy[name] -= 1
            return name is not None


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length) if length else None
            if proxy.fails(f"{self.command} {self.path}"):
                self._answer(503, [], b'{"error": {"code": 503, "message": "busy"}}')
                return
            asked = urllib.request.Request(proxy.store + self.path, body, dict(self.headers), method=self.command)
            try:
                with urllib.request.urlopen(asked) as told:
                    self._answer(told.status, told.getheaders(), told.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, list(error.headers.items()), error.read())

        def do_POST(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def before_the_store() -> Iterator[Proxy]:
    """The proxy, for as long as the block runs; within `object_store("gs")`."""
    proxy = Proxy(os.environ["STORAGE_EMULATOR_HOST"])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with patch.dict(os.environ, {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{server.server_address[1]}"}):
            object_stores.file_system.cache_clear()
            yield proxy
    finally:
        object_stores.file_system.cache_clear()
        server.shutdown()
        server.server_close()
