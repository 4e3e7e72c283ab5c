"""The moving average of a model's weights while it trains, which is often the better model.

After step t it is `decay * average + (1 - decay) * weights` (Tarvainen & Valpola 2017, section 3, for their teacher),
with min(decay, (1 + t) / (10 + t)) in place of the decay, as TensorFlow's `ExponentialMovingAverage` has it: at first
the average is over the last ninth of the steps, and forgets the random weights it began with, without which a short
training is harmed. Running statistics of batch normalisation are averaged too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

AVERAGE = "average.safetensors"
_UPDATES = "updates"


class Average:
    """The moving average of a model's floating-point parameters and buffers, by their names in `state_dict`."""

    def __init__(self, model: PreTrainedModel, decay: float) -> None:
        self._decay = decay
        self._updates = 0
        self._values = {name: value.detach().clone() for name, value in _floats(model).items()}

    @torch.no_grad()
    def update(self, model: PreTrainedModel) -> None:
        """Take in the weights after a step."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for name, value in _floats(model).items():
            self._values[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: PreTrainedModel) -> None:
        """Give the model the averaged weights."""
        for name, value in _floats(model).items():
            value.copy_(self._values[name])

    @contextmanager
    def lent_to(self, model: PreTrainedModel) -> Iterator[None]:
        """Let the model have the averaged weights for a while."""
        own = {name: value.detach().clone() for name, value in _floats(model).items()}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in _floats(model).items():
                    value.copy_(own[name])

    def save(self, directory: Path) -> None:
        """Write it beside a checkpoint."""
        values = {name: value.contiguous() for name, value in self._values.items()}
        save_file(values, directory / AVERAGE, metadata={_UPDATES: str(self._updates)})

    def load(self, directory: Path) -> None:
        """Take what was written beside a checkpoint."""
        with safe_open(directory / AVERAGE, framework="pt") as file:
            self._updates = int(file.metadata()[_UPDATES])
            for name, value in self._values.items():
                value.copy_(file.get_tensor(name))


def _floats(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
