"""Engines asked over the network, briefly: whether they answer, and of which version they are."""

import json
import re
import socket
import urllib.request
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_WAIT_S = 3.0
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\x04"
_NO_SETTINGS = b"\0\0\0" + _SETTINGS + b"\0\0\0\0\0"
_NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "glusterfs", "gpfs", "beegfs", "9p", "fuse.")
_VERSION = re.compile(r"-(\d+\.\d+\.\d+)(?:-SNAPSHOT)?\.jar$")


def _split(address: str) -> tuple[str, int | None]:
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        return parts.hostname or "", parts.port
    except ValueError:  # A port that is no number.
        return parts.hostname or "", None


def host_of(address: str) -> str:
    """The host of `host:port` or of a URL."""
    return _split(address)[0]


def is_here(host: str) -> bool:
    """Whether a name or number of a host is of this machine's own loopback, or its own name."""
    return host in ("localhost", "::1", socket.gethostname()) or host.startswith("127.")


def answers(address: str) -> bool:
    """Whether something takes connections at `host:port`."""
    host, port = _split(address)
    try:
        with socket.create_connection((host, port or 80), timeout=_WAIT_S):
            return True
    except OSError:
        return False


def speaks_http2(address: str) -> bool:
    """Whether what takes connections at `host:port` speaks HTTP/2 (RFC 9113, section 3.4), as every gRPC service does.

    A client of gRPC waits for ever for one that does not, such as the page of an engine.
    """
    host, port = _split(address)
    try:
        with socket.create_connection((host, port or 80), timeout=_WAIT_S) as connection:
            connection.sendall(_HTTP2_PREFACE + _NO_SETTINGS)
            # Its own settings are the first that it sends: three bytes of length, then the kind.
            return connection.recv(4, socket.MSG_WAITALL)[3:4] == _SETTINGS
    except OSError:
        return False


@dataclass(frozen=True)
class FlinkCluster:
    """What a Flink cluster says of itself."""

    version: str
    slots: int
    restarts: bool
    """Whether it runs a job again when a task manager dies. Beam's own option for that is not for batch jobs."""


@cache
def flink_cluster(master: str) -> FlinkCluster | None:
    """The cluster at `host:port` or a URL; None where none answers, or `master` is Beam's word for no cluster."""
    url = _page(master)
    if url is None:
        return None
    try:
        told, settings = _json(f"{url}/overview"), _json(f"{url}/jobmanager/config")
        wanted = ("restart-strategy", "restart-strategy.type")
        strategies = {each["value"] for each in settings if each["key"] in wanted} - {"none", "off", "disable"}
        return FlinkCluster(str(told["flink-version"]), int(told["slots-total"]), bool(strategies))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class FlinkJob:
    """A job of a Flink cluster: its address in the cluster's REST API, the page that shows it, why it failed."""

    url: str
    page: str
    failures: tuple[str, ...]
    """All that the cluster remembers, of every attempt, the earliest first."""

    def cancel(self) -> None:
        """End it; raises OSError where the cluster does not answer."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}?mode=cancel", method="PATCH"), timeout=_WAIT_S)


def flink_job(master: str, name: str) -> FlinkJob | None:
    """The last job of this name on the cluster at `master`; None where there is none, or nobody to ask.

    When Flink has run out of attempts it tells the failure of the last one only. That may be a consequence, such as
    "CANCELLED: client cancelled" of a bundle whose neighbour failed, so it is asked for those before.
    """
    url = _page(master)
    if url is None:
        return None
    try:
        jobs = [job for job in _json(f"{url}/jobs/overview")["jobs"] if job["name"] == name]
        if not jobs:
            return None
        number = max(jobs, key=lambda job: job["start-time"])["jid"]
        entries = _json(f"{url}/jobs/{number}/exceptions")["exceptionHistory"]["entries"]
        every = [each for entry in entries for each in (entry, *entry.get("concurrentExceptions", ()))]
        failures = tuple(each["stacktrace"] for each in sorted(every, key=lambda each: each["timestamp"]))
        return FlinkJob(f"{url}/jobs/{number}", f"{url}/#/job/completed/{number}/exceptions", failures)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _page(master: str) -> str | None:
    """The address of a Flink cluster's page and REST API; None for Beam's words for no cluster."""
    if master.startswith("["):
        return None
    return (master if "://" in master else f"http://{master}").rstrip("/")


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=_WAIT_S) as response:
        return json.load(response)


@dataclass(frozen=True)
class JobServer:
    """The Java program that takes jobs for an engine: the option that names its jar, and what that said."""

    option: str
    jar: str | None
    engine: str

    @classmethod
    def of(cls, runner: str, options: Any) -> "JobServer":
        """The job server of `FlinkRunner` or `SparkRunner`."""
        if runner == "FlinkRunner":
            return cls("flink_job_server_jar", options["flink_job_server_jar"], f"flink-{options['flink_version']}")
        return cls("spark_job_server_jar", options["spark_job_server_jar"], f"spark-{options['spark_version']}")

    def published(self, beam_version: str) -> str:
        """The name under which Beam publishes it."""
        return f"beam-runners-{self.engine}-job-server-{beam_version}.jar"

    def amiss(self) -> str:
        """Why its jar, a file of this machine, starts no job server of this engine; "" where it may."""
        assert self.jar is not None
        if not zipfile.is_zipfile(self.jar):
            return "is no jar"
        main = self._manifest().get("Main-Class", "")
        wanted = self.engine.partition("-")[0]
        return f"starts {main}, no job server of {wanted.title()}" if main and wanted not in main else ""

    def version(self) -> str | None:
        """Beam's version: by the name of the jar, or of the runner's jar that its manifest leads to."""
        assert self.jar is not None
        parts = self._manifest().get("Class-Path", "").split() if "://" not in self.jar else []
        found = (_VERSION.search(name) for name in (self.jar, *(part for part in parts if "/beam-runners-" in part)))
        return next((match[1] for match in found if match), None)

    def _manifest(self) -> dict[str, str]:
        """What the jar says of itself. A line that begins with a blank goes on from the one before."""
        assert self.jar is not None
        try:
            with zipfile.ZipFile(self.jar) as archive:
                text = archive.read("META-INF/MANIFEST.MF").decode().replace("\r\n", "\n").replace("\n ", "")
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return {}
        return {name: value for name, _, value in (line.partition(": ") for line in text.splitlines())}


def on_network_disk(path: Path) -> bool:
    """Whether a path, or the nearest folder above it that exists, is on a file system that machines share."""
    while not path.exists() and path != path.parent:
        path = path.parent
    best, kind = "", ""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in mounts:
        _, point, filesystem, *_ = line.split(" ")
        if path.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, filesystem
    return kind.startswith(_NETWORK_DISKS)
