"""An environment made for workers alone, by the steps of the Dockerfile's `prepare`: neither TensorFlow nor torch."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories import write
from tests.tfds_builders.portable import ROOT


def make_light_environment(folder: Path) -> Path:
    """Make it; returns its interpreter. The test is skipped where no package index can be reached."""
    tree = folder / "tree"  # A copy: installing leaves its traces in the tree.
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.lock"):
        write(tree / name, (ROOT / name).read_bytes())
    for package in ("dataflow", "tfds_builders", "trainers"):
        shutil.copytree(ROOT / package, tree / package)
    python = folder / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "environment"], check=True, timeout=300)
    extras = re.findall(r"^ARG EXTRAS=(\S+)", (ROOT / "Dockerfile").read_text(), re.M)[0]
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", "requirements.lock", f".[{extras}]"]
    done = subprocess.run(install, cwd=tree, check=False, timeout=900, capture_output=True, text=True)
    if done.returncode and "No matching distribution" in done.stderr and "connection" in done.stderr.lower():
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr[-3000:]
    return python
