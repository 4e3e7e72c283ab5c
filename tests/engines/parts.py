"""The parts of real engines: where they lie, and how they are fetched by the package managers that have them.

    python -m tests.engines.parts DIRECTORY

fetches what is missing: Flink's own libraries (pip), Beam's runners for Flink and Spark (mvn), Prism (go). About 1 GB.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
VARIABLE = "SHARDBOX_ENGINES"
FLINK = "1.19"
_FLINK_RELEASE, _BEAM = "1.19.3", "2.77.0"
_MAINS = {
    "flink": "org.apache.beam.runners.flink.FlinkJobServerDriver",
    "spark": "org.apache.beam.runners.spark.SparkJobServerDriver",
}


def part(name: str) -> Path:
    """A part of an engine. The test is skipped where it is not there."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        pytest.skip(f"${VARIABLE} names no directory with the parts of engines: run .ci/engines, which fetches them")
    found = sorted(Path(directory).glob(name))
    if not found:
        pytest.skip(f"there is no {name} in {directory}: run .ci/engines, which fetches what is missing")
    return found[0]


def flink_libraries() -> Path:
    """The directory of Flink's jar files."""
    return part("flink/lib/python3*/site-packages/pyflink/lib")


def job_server(engine: str) -> Path:
    """The jar that starts Beam's job server for `flink` or `spark`."""
    return part(f"{engine}-job-server.jar")


def spark_libraries() -> list[Path]:
    """Spark's jar files, those of Beam's runner among them."""
    return [Path(path) for path in part("spark.classpath").read_text().strip().split(os.pathsep)]


def prism() -> Path:
    """Beam's Prism."""
    return part("prism")


def fetch(directory: Path) -> None:
    """Fetch what is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "flink").exists():
        _run([sys.executable, "-m", "venv", str(directory / "flink")])
        pip = [str(directory / "flink" / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, f"apache-flink-libraries=={_FLINK_RELEASE}"])
    for engine, main in _MAINS.items():
        if not (directory / f"{engine}-job-server.jar").exists():
            _thin_jar(engine, main, directory)
    if not (directory / "prism").exists():
        install = ["go", "install", f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{_BEAM}"]
        _run(install, {"GOBIN": str(directory.resolve())})


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env={**os.environ, **(environment or {})}, timeout=1800)


def _thin_jar(engine: str, main: str, directory: Path) -> None:
    """A jar that holds nothing but where the parts of the job server lie, and its main class."""
    listed = directory / f"{engine}.classpath"
    options = [f"-P{engine}", f"-Dmdep.outputFile={listed.resolve()}"]
    _run(["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), *options, "dependency:build-classpath"])
    urls = " ".join(Path(path).as_uri() for path in listed.read_text().strip().split(os.pathsep))
    lines = ["Manifest-Version: 1.0", f"Main-Class: {main}", *_folded(f"Class-Path: {urls}")]
    with zipfile.ZipFile(directory / f"{engine}-job-server.jar", "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "\r\n".join(lines) + "\r\n\r\n")


def _folded(line: str) -> list[str]:
    """A line of a manifest: of at most 72 bytes, going on behind a blank."""
    return [line[:70], *(f" {line[at : at + 69]}" for at in range(70, len(line), 69))]


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
