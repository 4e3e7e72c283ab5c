"""What workers are packed with says the same in all places, and a source archive has all packages.

Docker is not asked for: `tests/tfds_builders/test_runners.py` builds the same environment by the same steps.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PACKAGES = ("dataflow", "tfds_builders", "trainers")


def test_requirements_of_workers() -> None:
    lines = (ROOT / "requirements-workers.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [*EXTRAS["prepare"], *EXTRAS["cloud"]]


def test_workers_ask_for_neither_tensorflow_nor_torch() -> None:
    wanted = [*PROJECT["dependencies"], *EXTRAS["prepare"], *EXTRAS["cloud"]]
    assert not {re.split(r"[>=<\[]", each)[0] for each in wanted} & {"tensorflow", "torch", "torchvision", "fiftyone"}


def test_the_container_has_the_beam_of_the_lock() -> None:
    locked = re.search(r"^apache-beam==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert locked is not None
    assert re.findall(r"^FROM apache/beam_python(\S+)_sdk:(\S+)", DOCKERFILE, re.M) == [("3.11", locked[1])]
    assert set(re.findall(r"^FROM python:(\S+?)-", DOCKERFILE, re.M)) == {"3.11"}


def test_the_containers_get_what_pyproject_asks_for() -> None:
    """The lock, which constrains the installation, has all that their extras name, at versions that they take."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {Requirement(line).name: Requirement(line).specifier for line in lines if "==" in line}
    assert DOCKERFILE.count('--constraint requirements.lock ".[${EXTRAS}]"') == 2
    extras = re.findall(r"^ARG EXTRAS=(\S+)", DOCKERFILE, re.M)
    assert extras == ["prepare,cloud", "prepare,cloud,predict"]
    wanted = [*PROJECT["dependencies"], *(each for extra in extras[1].split(",") for each in EXTRAS[extra])]
    for requirement in map(Requirement, wanted):
        [pin] = locked[requirement.name]
        assert pin.version in requirement.specifier, requirement


def test_who_predicts_has_what_trains_but_for_training() -> None:
    assert set(EXTRAS["predict"]) < set(EXTRAS["train"])


def test_documents_name_the_container_of_this_version() -> None:
    named = re.findall(r"/shardbox:(\d[\w.]*)", (ROOT / "docs" / "runners.md").read_text())
    assert named and set(named) == {PROJECT["version"]}


def test_what_the_container_copies_is_there() -> None:
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if re.match(r"COPY [^-]", line)]
    names = {name for words in copied for name in words}
    assert names >= {*PACKAGES, "pyproject.toml", "requirements.lock", PROJECT["readme"]}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert names == kept and all((ROOT / name).exists() for name in names)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what is packed: packing leaves its traces."""
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_archive_that_beam_makes_of_setup_py(tree: Path) -> None:
    """By the command of Beam's stager where the package `build` is absent."""
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", "made"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=120)
    [archive] = (tree / "made").glob("*.tar.gz")
    assert archive.name == f"shardbox-{PROJECT['version']}.tar.gz"
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    expected = {
        path.relative_to(tree).as_posix()
        for package in PACKAGES
        for path in (tree / package).rglob("*")
        if path.is_file()
    }
    assert names >= expected
