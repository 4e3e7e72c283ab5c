"""What is evaluated while training, and what follows from it."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dataflow.errors import UsageError

Figure = Literal["AP", "AP50", "loss"]
FIGURES: tuple[Figure, ...] = get_args(Figure)


@dataclass(frozen=True)
class Watch:
    """Evaluation every so many steps; the run's model is the best that was seen.

    Raises:
        UsageError: a number below one, or a figure that does not exist.
    """

    every: int
    """Steps from one evaluation to the next; each stage is also evaluated at its end."""
    split: str = "validation"
    best: Figure = "AP"
    """By which figure: the highest average precision, or the lowest loss."""
    patience: int | None = None
    """Evaluations without a better one after which a stage ends; None: never."""
    pictures: int = 4
    """How many of the split's images TensorBoard shows, with truth and detections."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"an evaluation every {self.every} steps", "give at least 1")
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"a patience of {self.patience} evaluations", "give at least 1")
        if self.best not in FIGURES:
            raise UsageError(f"the best by {self.best!r}", f"choose from {', '.join(FIGURES)}")

    def better(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best so far. Not a number is not."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value < best if self.best == "loss" else value > best
