"""`shardbox ingest` of a source in an object store, for tests, and what must be the same wherever a source is."""

from pathlib import Path

from dataflow.prepared import METRICS
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import objects_below
from tests.tfds_builders.portable import time_limit
from trainers.cli import main

LIMIT_S = 900.0
ORIGIN = "a place that differs"


def contents(dataset: Path, source: Path) -> dict[str, bytes]:
    """All files of a dataset, but for where its source was, and when that was changed."""
    names = objects_below(dataset) if is_cloud(dataset) else [path.name for path in dataset.iterdir()]
    found = {name: (dataset / name).read_bytes() for name in names if name not in (METRICS, "inputs.json")}
    return {name: data.replace(str(source).encode(), ORIGIN.encode()) for name, data in found.items()}


def ingested_here(source: Path) -> dict[str, bytes]:
    """The dataset that the command makes of a source on a disk, beside it."""
    out = source.parent / "out"
    assert main(["ingest", str(source), "--out", str(out), "--shards", "4"]) == 0
    return contents(out / "photos/1.0.0", source)


def ingested(source: Path, out: Path, *runner: str) -> dict[str, bytes]:
    """The dataset that the command makes of a source in a store."""
    with time_limit(LIMIT_S):
        assert main(["ingest", str(source), "--out", str(out), "--shards", "4", *runner]) == 0
    assert not [name for name in objects_below(out) if not name.startswith("photos/1.0.0/")], (
        "nothing unfinished is left"
    )
    return contents(out / "photos/1.0.0", source)
