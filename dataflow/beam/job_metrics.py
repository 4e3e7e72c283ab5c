"""What a job did and what took how long: times left by workers for each shard, and their sum in `metrics.json`."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataflow.beam.step_times import StepTimes
from dataflow.prepared import METRICS
from dataflow.shards import ShardResult
from dataflow.stores.paths import REQUESTS, whole_file

TIMES = ".times"
"""The folder in an unfinished directory."""


def save_times(times: StepTimes, directory: Path, result: ShardResult) -> None:
    """Leave the times of a shard for the launcher, whole or not at all."""
    with whole_file(directory / TIMES / f"{result.file}.json") as partial:
        partial.write_text(json.dumps(times.steps), encoding="ascii")


def save_metrics(
    work: Path, directory: Path, written: Sequence[ShardResult], runner: str, seconds: float | None
) -> None:
    """Leave `metrics.json` in `directory`: what the job in `work` did and what took how long, of what it wrote anew.

    `seconds` are those of the whole job, None where nobody saw its end.

    Not in the manifest: this is another for each run, and all other files are to be the same.
    """
    with ThreadPoolExecutor(REQUESTS) as pool:
        counted = list(pool.map(lambda path: json.loads(path.read_text()), (work / TIMES).glob("*.json")))
    metrics = {
        "runner": runner,
        "seconds": None if seconds is None else round(seconds, 3),
        "shards_written": len(written),
        "images_prepared": sum(result.count for result in written),
        "images_quarantined": sum(len(result.quarantined) for result in written),
        "bytes_written": sum(result.num_bytes for result in written),
        "milliseconds_an_image": StepTimes().merge(counted).summary(),
    }
    (directory / METRICS).write_text(json.dumps(metrics, indent=1), encoding="ascii")
