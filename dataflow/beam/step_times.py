"""Where the time of a job goes: how long each step takes for an image, on whichever worker.

Steps: `read` (the image's files), `check` (decode, check, convert; of a difference all of making it), `encode` (to the
bytes of an example), `write`. An image's read and check run in one thread, so its thread keeps their times; they are
wall time, waiting for other threads included.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal, get_args

Step = Literal["read", "check", "encode", "write"]
STEPS: tuple[Step, ...] = get_args(Step)
_thread = threading.local()


@contextmanager
def reading() -> Iterator[None]:
    """What happens in the block is reading, for the `Stopwatch` of this thread, if it has one."""
    start = perf_counter()
    try:
        yield
    finally:
        _thread.read = getattr(_thread, "read", 0.0) + perf_counter() - start


class Stopwatch:
    """Takes the time of one image in one thread, from its start on."""

    def __init__(self) -> None:
        _thread.read = 0.0
        self._start = perf_counter()

    def seconds(self) -> tuple[float, float]:
        """Seconds spent on reading, and on all else."""
        read = float(_thread.read)
        return read, perf_counter() - self._start - read


@dataclass
class StepTimes:
    """Of each step: for how many images, their sum, the shortest and the longest, in milliseconds."""

    steps: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: Step, seconds: float) -> None:
        """Count one image."""
        self._merge(step, [1, 1e3 * seconds, 1e3 * seconds, 1e3 * seconds])

    def merge(self, others: Iterable[Mapping[str, list[float]]]) -> "StepTimes":
        """Count what others counted; returns itself."""
        for other in others:
            for step, counted in other.items():
                self._merge(step, counted)
        return self

    def _merge(self, step: str, new: list[float]) -> None:
        old = self.steps.setdefault(step, [0, 0.0, float("inf"), 0.0])
        self.steps[step] = [old[0] + new[0], old[1] + new[1], min(old[2], new[2]), max(old[3], new[3])]

    def means(self) -> dict[str, float]:
        """Milliseconds an image, by step."""
        return {step: self.steps[step][1] / self.steps[step][0] for step in STEPS if step in self.steps}

    def summary(self) -> dict[str, Any]:
        """Plain data for `metrics.json`, rounded to microseconds."""
        told = {}
        for step, mean in self.means().items():
            count, _, least, most = self.steps[step]
            told[step] = {"images": int(count), "mean": round(mean, 3), "min": round(least, 3), "max": round(most, 3)}
        return told
