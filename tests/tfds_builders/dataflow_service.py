"""A stand-in for Dataflow's REST service on loopback, which runs what it is given.

It keeps each job as it was submitted, takes the staged graph out of the bucket, and runs it in this process.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from dataflow.stores.paths import location
from tests.object_stores import free_port

IMAGE = f"registry.example/shardbox:{version('shardbox')}"
"""The container that workers would have."""
DONE = {"id": "job-1", "currentState": "JOB_STATE_DONE", "projectId": "p", "location": "us-central1"}


class Service:
    """What was submitted, and the address to submit to. With `runs=False` it says that it is done, and does nothing."""

    def __init__(self, runs: bool) -> None:
        self.runs = runs
        self.endpoint = f"http://localhost:{free_port()}"
        self.jobs: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

    def options(self, bucket: Path) -> tuple[str, ...]:
        """Those of `DataflowRunner` that lead here, with a bucket for what it stages."""
        return (
            "--project=p",
            "--region=us-central1",
            "--no_auth",
            f"--dataflow_endpoint={self.endpoint}",
            f"--temp_location={bucket}/temp",
            f"--sdk_container_image={IMAGE}",
        )

    @property
    def graph(self) -> Any:
        """The staged graph of the last job."""
        options = self.jobs[-1]["environment"]["sdkPipelineOptions"]["options"]
        return beam_runner_api_pb2.Pipeline.FromString(location(options["pipelineUrl"]).read_bytes())

    def submit(self, body: bytes) -> None:
        self.bodies.append(body)
        self.jobs.append(json.loads(body))
        if not self.runs:
            return
        graph = self.graph
        for environment in graph.components.environments.values():
            environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
        FnApiRunner().run_via_runner_api(graph, PipelineOptions()).wait_until_finish()


def do_fns(graph: Any) -> dict[str, Any]:
    """What the steps of a staged graph call, by their names. It lies in there pickled and compressed."""
    steps = {step.unique_name: step.spec for step in graph.components.transforms.values()}
    payloads = {
        name: beam_runner_api_pb2.ParDoPayload.FromString(spec.payload).do_fn.payload
        for name, spec in steps.items()
        if spec.urn == common_urns.primitives.PAR_DO.urn
    }
    return {name: pickler.loads(payload)[0] for name, payload in payloads.items()}


@contextmanager
def dataflow_service(runs: bool = True) -> Iterator[Service]:
    """The service, until the block ends."""
    service = Service(runs)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            service.submit(self.rfile.read(int(self.headers["content-length"])))
            self.do_GET()

        def do_GET(self) -> None:
            data = json.dumps(DONE).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("localhost", int(service.endpoint.rpartition(":")[2])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
