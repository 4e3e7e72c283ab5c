"""Predictions that die at a point of their work, in processes of their own.

    python -m tests.trainers.killed_predictions WHO DATASET RUN OUT [BEAM OPTIONS]

WHO: `launcher`, which is killed by its task once two parts are there, wherever that runs; `worker`, where the process
that finds two parts kills itself, the first time that happens.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataflow.beam.shard_tasks import TaskRunner
from dataflow.prepared import PreparedDataset
from trainers.prediction import prediction
from trainers.prediction.parts import TABLE
from trainers.prediction.prediction import PredictionTask


@dataclass(frozen=True)
class Deadly(PredictionTask):
    """Takes its time over an image, so that others are under way when it kills."""

    def write(self, shard: int, loaded: Any) -> Iterator[int]:
        for count in super().write(shard, loaded):
            time.sleep(0.05)
            if len(list((self.directory / TABLE).glob("part-*"))) >= 2:
                self._kill()
            yield count

    def _kill(self) -> None:
        victim = int(os.environ["VICTIM"])
        if victim:
            os.kill(victim, signal.SIGKILL)
            return
        try:
            Path(os.environ["KILLED"]).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def main(who: str, dataset: str, run: str, out: str, *beam_options: str) -> None:
    """Predict, and die of it."""
    os.environ["VICTIM"] = str(os.getpid()) if who == "launcher" else "0"
    os.environ["KILLED"] = f"{out}.killed"
    from tests.trainers import killed_predictions  # Not `__main__`, which workers do not have.

    prediction.PredictionTask = killed_predictions.Deadly  # type: ignore[misc]
    prediction.predict(PreparedDataset(dataset), run, Path(out), running=TaskRunner(None, beam_options))


if __name__ == "__main__":
    main(*sys.argv[1:])
