"""Object stores on loopback: moto for s3://, gcp-storage-emulator for gs://, each with one bucket called `bucket`."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from unittest.mock import patch
from urllib.request import Request, urlopen

BUCKET = "bucket"
SECRETS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def gcs() -> Iterator[str]:
    """A store for gs://; yields `gs://bucket`. Environment variables lead there, in subprocesses too."""
    from gcp_storage_emulator.server import create_server

    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    # Its server prints a traceback for each client that hangs up early.
    silent = patch.object(HTTPServer, "handle_error", lambda *_: None)
    server.start()
    try:
        with silent, patch.dict(os.environ, {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}):
            yield f"gs://{BUCKET}"
    finally:
        server.stop()


@contextmanager
def s3() -> Iterator[str]:
    """The same for s3://, empty: what moto holds belongs to the process and would outlive its server."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    urlopen(Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    try:
        with patch.dict(os.environ, {**SECRETS, "AWS_ENDPOINT_URL": endpoint}):
            boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
            yield f"s3://{BUCKET}"
    finally:
        server.stop()


STORES = {"gs": gcs, "s3": s3}


@contextmanager
def object_store(scheme: str) -> Iterator[str]:
    """One of the stores. File systems that were opened before would still lead to an older one."""
    from dataflow.stores import object_stores

    with STORES[scheme]() as root:
        object_stores.file_system.cache_clear()
        yield root
    object_stores.file_system.cache_clear()
