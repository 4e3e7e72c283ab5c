"""For Beam's `--setup_file`, which wants a file of this name; all is said in pyproject.toml."""

from setuptools import setup

setup()
