"""Stand-ins on loopback for a job service and for Flink's REST API: they say of a job what a test wants them to say."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc

JOB = "job-name_0b8a"
Said = Sequence[tuple[str, str]]
"""Importance (`ERROR`, `DEBUG`, `BASIC`) and text of messages, in their order."""


class _Service(beam_job_api_pb2_grpc.JobServiceServicer):  # type: ignore[misc]
    """Its methods have the names of the protocol."""

    def __init__(self, said: Said, lasts_s: float) -> None:
        self._said, self._lasts_s = said, lasts_s
        self.cancelled: list[str] = []

    def DescribePipelineOptions(self, *_: Any) -> Any:  # noqa: N802
        return api.DescribePipelineOptionsResponse()

    def Prepare(self, *_: Any) -> Any:  # noqa: N802
        return api.PrepareJobResponse(preparation_id=JOB)

    def Run(self, *_: Any) -> Any:  # noqa: N802
        return api.RunJobResponse(job_id=JOB)

    def Cancel(self, request: Any, _: Any) -> Any:  # noqa: N802
        self.cancelled.append(request.job_id)
        return api.CancelJobResponse(state=api.JobState.CANCELLED)

    def GetStateStream(self, *_: Any) -> Iterator[Any]:  # noqa: N802
        yield api.JobStateEvent(state=api.JobState.RUNNING)
        time.sleep(self._lasts_s)
        yield api.JobStateEvent(state=api.JobState.FAILED)

    def GetMessageStream(self, *_: Any) -> Iterator[Any]:  # noqa: N802
        for importance, text in self._said:
            message = api.JobMessage(message_text=text, importance=f"JOB_MESSAGE_{importance}")
            yield api.JobMessagesResponse(message_response=message)


@contextmanager
def job_service(said: Said = (), lasts_s: float = 0) -> Iterator[tuple[str, _Service]]:
    """A job service whose one job says this and fails; its address, and itself."""
    service, server = _Service(said, lasts_s), grpc.server(ThreadPoolExecutor(8))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(service, server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield f"localhost:{port}", service
    finally:
        server.stop(None).wait()


class FlinkPage:
    """What a Flink cluster remembers of a job called as the one above, and which it was told to cancel."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self.answers = {
            "/overview": {"flink-version": "1.19.3", "slots-total": 2},
            "/jobmanager/config": [],
            "/jobs/overview": {
                "jobs": [
                    {"jid": "old", "name": JOB.partition("_")[0], "start-time": 1},
                    {"jid": "abc", "name": JOB.partition("_")[0], "start-time": 2},
                    {"jid": "other", "name": "another", "start-time": 3},
                ]
            },
            "/jobs/abc/exceptions": {"exceptionHistory": {"entries": entries}},
        }
        self.patched: list[str] = []


@contextmanager
def flink_page(entries: list[dict[str, Any]]) -> Iterator[tuple[str, FlinkPage]]:
    """The REST API of a Flink cluster with this history of failures; its address, and what it keeps."""
    page = FlinkPage(entries)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(page.answers.get(self.path))

        def do_PATCH(self) -> None:
            page.patched.append(self.path)
            self._answer({})

        def _answer(self, told: Any) -> None:
            self.send_response(404 if told is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"localhost:{server.server_port}", page
    finally:
        server.shutdown()
        server.server_close()
