"""The first convolution of a detector, for more channels than the weights at hand were trained on.

A backbone under a head that is new anyway starts from the mean of the images (`widen_stem`); a whole detector goes on
with the after frame alone (`widen`), so that its head sees what it was trained on.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from dataflow.bridge.view import View
from dataflow.errors import UsageError
from trainers.detectors.checkpoints import LoadReport


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


def stem_of(model: nn.Module) -> str:
    """Name of the weights (outputs, channels, k, k) of the convolution that sees the pixels."""
    return next(f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))


def widen_stem(weight: Tensor, channels: int) -> Tensor:
    """A stem's weights (outputs, C, k, k) for another number of channels: a stack of images starts out as their mean.

    The C channels are repeated in turn, and scaled so that repeated input gives what it gave before.
    """
    before = weight.shape[1]
    turns = torch.arange(channels, device=weight.device) % before
    counts = torch.bincount(turns, minlength=before).to(weight.dtype)
    return weight[:, turns] / counts[turns][None, :, None, None]


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
    name, state = stem_of(model), model.state_dict()
    state[name] = _with_zeros(state[name], after_first=view.inputs == "stack")
    wide.load_state_dict(state)
    return wide.train(model.training), replace(report, widened=(name,))


def _with_zeros(weight: Tensor, after_first: bool) -> Tensor:
    """Weights (O, 3, k, k) of one image as (O, 6, k, k) of two, of which the after frame comes first or second."""
    nothing = torch.zeros_like(weight)
    return torch.cat([weight, nothing] if after_first else [nothing, weight], dim=1)
