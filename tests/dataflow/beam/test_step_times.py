"""Times of steps: added up over images, threads and shards."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataflow.beam.jobs import ShardJob, run_shard_job
from dataflow.beam.step_times import STEPS, StepTimes, Stopwatch, reading
from dataflow.prepared import METRICS
from dataflow.shards import Outcome
from tests.dataflow.test_shards import FORMAT, KEY, outcomes


@given(st.lists(st.lists(st.floats(0, 10), min_size=1), min_size=1))
def test_merged_times_are_those_of_all_images(shards: list[list[float]]) -> None:
    counted = []
    for seconds in shards:
        times = StepTimes()
        for each in seconds:
            times.add("check", each)
        counted.append(json.loads(json.dumps(times.steps)))
    found = StepTimes().merge(counted).summary()["check"]
    everything = 1e3 * np.array([each for seconds in shards for each in seconds])
    assert found["images"] == len(everything)
    for name in ("mean", "min", "max"):
        assert abs(found[name] - getattr(everything, name)()) <= 1e-3


def test_reading_counts_for_the_image_of_its_thread() -> None:
    found: dict[str, tuple[float, float]] = {}

    def load(name: str, reads: float, checks: float) -> None:
        watch = Stopwatch()
        for _ in range(2):
            with reading():
                time.sleep(reads / 2)
        time.sleep(checks)
        found[name] = watch.seconds()

    threads = [threading.Thread(target=load, args=each) for each in (("a", 0.2, 0.0), ("b", 0.0, 0.2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["a"][0] > found["a"][1] and found["b"][1] > found["b"][0]
    # Not a bound on speed: sleeping takes no less than it is told to.
    assert found["a"][0] >= 0.2 and found["b"][1] >= 0.2


def _some(lines: Sequence[str]) -> Iterator[Outcome]:
    for outcome in outcomes():
        yield Outcome(outcome.image_id, outcome.example, outcome.findings, seconds=(0.25, 0.5))


def test_a_job_leaves_its_metrics(tmp_path: Path) -> None:
    expected = list(outcomes())
    [result] = run_shard_job(ShardJob(FORMAT, {KEY: ["all"]}, _some, len(expected)), tmp_path)
    found = json.loads((tmp_path / METRICS).read_text())
    assert found["runner"] == "FnApiRunner" and found["shards_written"] == 1 and found["seconds"] > 0
    assert found["bytes_written"] == result.num_bytes and found["images_prepared"] == result.count
    assert found["images_prepared"] + found["images_quarantined"] == len(expected)
    steps = found["milliseconds_an_image"]
    assert tuple(steps) == STEPS
    assert steps["read"] == {"images": len(expected), "mean": 250.0, "min": 250.0, "max": 250.0}
    assert steps["check"]["mean"] == 500.0 and steps["write"]["images"] == result.count
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([METRICS, result.file])
