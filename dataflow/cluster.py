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
    if master.startswith("["):
        return None
    url = master if "://" in master else f"http://{master}"
    try:
        told, settings = _json(f"{url}/overview"), _json(f"{url}/jobmanager/config")
        wanted = ("restart-strategy", "restart-strategy.type")
        strategies = {each["value"] for each in settings if each["key"] in wanted} - {"none", "off", "disable"}
        return FlinkCluster(str(told["flink-version"]), int(told["slots-total"]), bool(strategies))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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

    def version(self) -> str | None:
        """Beam's version: by the name of the jar, or of the runner's jar that its manifest leads to."""
        assert self.jar is not None
        names = [self.jar]
        if "://" not in self.jar:
            try:
                with zipfile.ZipFile(self.jar) as archive:
                    manifest = archive.read("META-INF/MANIFEST.MF").decode().replace("\r\n ", "").replace("\n ", "")
            except (OSError, KeyError, ValueError, zipfile.BadZipFile):
                manifest = ""
            names += [word for word in manifest.split() if "/beam-runners-" in word]
        found = (_VERSION.search(name) for name in names)
        return next((match[1] for match in found if match), None)


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
