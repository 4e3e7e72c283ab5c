"""What training shows while it goes on: a line on standard error, and TensorBoard."""

import contextlib
import math
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from dataflow.errors import MissingExtraError
from dataflow.progress import Progress
from dataflow.tensorflow_runtime import load_tensorflow

_EVALUATED = "eval_"
_NO_CURVES = (
    "epoch",
    "total_flos",
    "train_loss",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
)
"""What `Trainer` logs beside the curves: the step in another unit, and its own summary of the whole training."""


class ProgressLines(TrainerCallback):
    """Says how far training is, on standard error; steps are the run's, of which a stage has those after `before`."""

    def __init__(self, batch_size: int, before: int, steps: int) -> None:
        self._batch_size = batch_size
        self._before = before
        self._steps = steps
        self._progress: Progress | None = None
        self._first = 0
        self._loss = math.nan
        self._figures = ""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the clock."""
        self._first = state.global_step
        if state.is_world_process_zero:
            self._progress = Progress("train", (state.max_steps - self._first) * self._batch_size, "images")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        """Remember the loss, and what was evaluated."""
        logs = logs or {}
        self._loss = logs.get("loss", self._loss)
        found = [f"{name} {logs[_EVALUATED + name]:.3f}" for name in ("AP50", "AP") if _EVALUATED + name in logs]
        self._figures = ", ".join(found) or self._figures

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Renew the line."""
        if self._progress is not None:
            self._progress.update((state.global_step - self._first) * self._batch_size, self._note(state))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leave the line, with what was evaluated last."""
        if self._progress is not None:
            done = (state.global_step - self._first) * self._batch_size
            self._progress.update(done, self._note(state))
            self._progress.close(done)

    def _note(self, state: TrainerState) -> str:
        note = f"step {self._before + state.global_step} of {self._steps}"
        if not math.isnan(self._loss):  # Not logged yet.
            note += f", loss {self._loss:.3g}"
        return note + (f", {self._figures}" if self._figures else "")


class Board(TrainerCallback):
    """Writes scalars and pictures for TensorBoard, by the steps of the run, of which a stage has those after `before`.

    What an interrupted run wrote after `first_step` is left out of the curves.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        with contextlib.suppress(MissingExtraError):
            load_tensorflow()  # TensorBoard imports TensorFlow where it is installed, and not as carefully.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=first_step or None)
        self.before = 0

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        """Write what is logged, under `train/` and `eval/`."""
        if not state.is_world_process_zero:
            return
        for name, value in (logs or {}).items():
            if isinstance(value, int | float) and name not in _NO_CURVES:
                evaluated = name.startswith(_EVALUATED)
                tag = f"eval/{name.removeprefix(_EVALUATED)}" if evaluated else f"train/{name}"
                self._writer.add_scalar(tag, value, self.before + state.global_step)
        self._writer.flush()

    def show(self, name: str, picture: Tensor, step: int) -> None:
        """Write a picture (3, H, W) uint8 of the step `step` of a stage."""
        self._writer.add_image(f"validation/{name}", picture, self.before + step)

    def close(self) -> None:
        """Finish the files."""
        self._writer.close()
