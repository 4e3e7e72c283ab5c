"""The detectors there are, and what they have in common: one way to detections, whatever the architecture.

A further detector is a further file, and a line in `_DECODERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForObjectDetection, PreTrainedModel
from transformers.utils import ModelOutput

from dataflow.errors import UsageError
from trainers.detectors import dense, detr
from trainers.detectors.checkpoints import quiet_transformers
from trainers.detectors.detections import Detections

_DECODERS: Mapping[str, Callable[[Any, Any, int], list[Detections]]] = {
    **dict.fromkeys(detr.ARCHITECTURES, detr.detect),
    dense.DenseDetectorConfig.model_type: dense.DenseDetector.detect,
}


def detect(model: PreTrainedModel, output: ModelOutput, limit: int = 100) -> list[Detections]:
    """The best `limit` detections of every image in the batch that gave `output`; see `Detections` for their frame.

    No score is too low: average precision wants the whole ranking.
    """
    return _DECODERS[model.config.model_type](model, output, limit)


@dataclass(frozen=True)
class ClassHead:
    """How a detector scores classes: its `outputs`, and which of them is no-object, if any."""

    outputs: int
    no_object: int | None


def class_head(model: PreTrainedModel, output: ModelOutput) -> ClassHead:
    """What scores classes in the batch that gave `output` in evaluation."""
    outputs = int(output.logits.shape[-1])
    if model.config.model_type in detr.ARCHITECTURES:
        return ClassHead(outputs, outputs - 1 if detr.ARCHITECTURES[model.config.model_type].no_object else None)
    return ClassHead(outputs, model.head.background)


@dataclass(frozen=True)
class Reach:
    """What limits the objects that a detector can learn.

    `stride` of its finest map, px; side of its smallest `anchor`, px, and the number of its `queries`, if it has any.
    """

    stride: int
    anchor: float | None = None
    queries: int | None = None


def reach(model: PreTrainedModel) -> Reach:
    """The limits of a model."""
    if model.config.model_type in detr.ARCHITECTURES:
        return Reach(detr.finest_stride(model.config), queries=detr.queries(model.config))
    stride = min(model.pyramid.strides)
    cells = model.head.anchor_cells
    return Reach(stride, anchor=min(cells) * stride if cells else None)


def part_patterns(model: PreTrainedModel) -> Mapping[str, str]:
    """Regular expressions for the names of the parameters of a detector's `backbone` and of its `head`, the layers that
    give classes and boxes."""
    return detr.part_patterns(model) if model.config.model_type in detr.ARCHITECTURES else dense.PARTS


def load_trained(path: Path) -> PreTrainedModel:
    """A trained detector, ready to detect; see `save_pretrained`. Only safetensors are read.

    Raises:
        UsageError: the file lacks weights of the model, which would be random ones then.
    """
    with quiet_transformers():
        model, info = AutoModelForObjectDetection.from_pretrained(
            path, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    if lacking := sorted(info["missing_keys"]):
        raise UsageError(
            f"{path} lacks {len(lacking)} of the model's tensors, such as {lacking[0]}", "train again with this version"
        )
    model.eval()
    return detr.ready(model) if model.config.model_type in detr.ARCHITECTURES else model
