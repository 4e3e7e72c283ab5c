"""Trains a tiny recipe on a dataset, as one of the processes that a launcher starts: DATASET OUT [stop step]."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from dataflow.prepared import PreparedDataset
from tests.trainers.tiny_recipes import SHARED
from trainers.training.training import train


class Killed(TrainerCallback):
    """Ends the process where it stands, without any farewell, before the step after `step` of the run's n-th stage."""

    def __init__(self, stage: int, step: int) -> None:
        self._left, self._step = stage, step

    def on_train_begin(self, *_: object, **__: object) -> None:
        self._left -= 1

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
        if self._left <= 0 and state.global_step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    data, run, *stop = sys.argv[1:]
    out = Path(run)
    callbacks = [Killed(int(stop[0]), int(stop[1]))] if stop else []
    train(PreparedDataset(Path(data)), SHARED, out, resume=out.exists(), callbacks=callbacks)
