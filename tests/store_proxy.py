"""A proxy on loopback before the emulator of gs://: it keeps what is asked for, fails where it is told to, and gives
listings in pages, which the emulator does not."""

import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import patch

from dataflow.stores import object_stores


class Proxy:
    """`asked`: method and path of every request. `busy`: how often each object still answers 503. `page`: objects in
    one answer to a listing, 0 for all."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.asked: list[str] = []
        self.busy: dict[str, int] = {}
        self.page = 0
        self._lock = threading.Lock()

    def fails(self, request: str) -> bool:
        """Whether this request finds the store busy."""
        with self._lock:
            self.asked.append(request)
            name = next((name for name, left in self.busy.items() if left and name in request), None)
            if name is not None:
                self.busy[name] -= 1
            return name is not None

    def paged(self, path: str, body: bytes) -> bytes:
        """The page of a listing that is asked for. Its second is empty and not the last, as Google's documentation of
        `nextPageToken` allows."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        start, empty = int(query.get("pageToken", ["0"])[0].lstrip("e")), query.get("pageToken", [""])[0][:1] == "e"
        content = json.loads(body)
        items = content.pop("items", [])
        content.pop("nextPageToken", None)
        stop = start if empty else start + min(self.page, int(query["maxResults"][0]))
        if items[start:stop]:
            content["items"] = items[start:stop]
        if stop < len(items):
            content["nextPageToken"] = f"e{stop}" if start == 0 and not empty else str(stop)
        return json.dumps(content).encode()


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
                    content = told.read()
                    if proxy.page and urllib.parse.urlsplit(self.path).path.endswith("/o") and self.command == "GET":
                        content = proxy.paged(self.path, content)
                    self._answer(told.status, told.getheaders(), content)
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
