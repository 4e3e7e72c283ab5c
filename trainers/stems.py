"""The first convolution of a detector, for more channels than the weights at hand were trained on."""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from dataflow.errors import UsageError
from dataflow.view import View
from trainers.checkpoints import LoadReport


def channels_of(config: PreTrainedConfig) -> int:
    """How many channels the images of a detector have."""
    return int((getattr(config, "backbone_config", None) or config).num_channels)


def set_channels(config: PreTrainedConfig, channels: int) -> None:
    """Have a detector of this configuration take images of `channels`."""
    for part in filter(None, (config, getattr(config, "backbone_config", None))):
        if hasattr(part, "num_channels"):
            part.num_channels = channels
        if hasattr(part, "stem_channels"):  # HGNet names its input there once more.
            part.stem_channels = [channels, *part.stem_channels[1:]]


def stem_of(model: PreTrainedModel) -> tuple[str, nn.Conv2d]:
    """Name and layer of the convolution that sees the pixels."""
    return next((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))


def widen(model: PreTrainedModel, report: LoadReport, view: View) -> tuple[PreTrainedModel, LoadReport]:
    """A model that takes what `view` shows, two images, and does with the after frame what `model` does with its image.

    The weights of the other image's channels start at zero: pretrained features stay what they are until training finds
    a use for the other image. (Spreading the weights over both halves the first frame's part, and shows the layers
    above what they were never trained on.)

    Raises:
        UsageError: the model takes other than three channels.
    """
    before = channels_of(model.config)
    if (before, view.channels) != (3, 6):
        raise UsageError(
            f"{report.source} takes {before} channels, {view} have {view.channels}",
            "choose weights and --input that belong together; weights of one image can also start with two",
        )
    config = copy.deepcopy(model.config)
    set_channels(config, view.channels)
    wide = type(model)(config)
    name = f"{stem_of(model)[0]}.weight"
    state = model.state_dict()
    state[name] = _with_zeros(state[name], after_first=view.inputs == "stack")
    wide.load_state_dict(state)
    return wide.train(model.training), replace(report, widened=(name,))


def _with_zeros(weight: Tensor, after_first: bool) -> Tensor:
    """Weights (O, 3, k, k) of one image as (O, 6, k, k) of two, of which the after frame comes first or second."""
    nothing = torch.zeros_like(weight)
    return torch.cat([weight, nothing] if after_first else [nothing, weight], dim=1)
