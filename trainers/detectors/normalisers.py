"""What detectors divide their losses by, so that parts of a batch have the gradient of the whole.

A loss is a sum over boxes, cells or queries, divided by their number in the batch. Taken in parts (gradient
accumulation, several processes) each part divides by its own number, and the mean of the parts is not the loss of the
whole batch: of two parts with 1 and 9 boxes, the one box counts as much as the nine. So each part is weighted by its
own number over that of the whole batch, which is known from the labels before anything is computed.

| detector | number | held to it |
|---|---|---|
| DETR, YOLOS | weighted queries for the class, boxes for the rest | exactly |
| Conditional and Deformable DETR | boxes | exactly |
| RT-DETR v2 | boxes | exactly, but for the random denoising queries, whose number follows the fullest image |
| D-FINE | boxes; images for its distillation, an average of no sum | exactly but for these two |
| FCOS | cells that are trained to find a box | exactly |
| RetinaNet | images | exactly |
| Faster R-CNN | images | in the mean: the regions it trains on are drawn at random |

Batch normalisation that is not frozen sees a part at a time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from trainers.detectors.dense import DenseDetector
from trainers.detectors.detr import ARCHITECTURES

Labels = Sequence[Mapping[str, Tensor]]


def loss_counts(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, float]:
    """By what a batch's losses are to be divided, by the names that `loss_parts` has.

    Args:
        model: any detector.
        inputs: `pixel_values` (B, C, H, W), `pixel_mask` (B, H, W) and `labels`, as for its `forward`.
    """
    labels: Labels = inputs["labels"]
    if isinstance(model, DenseDetector):
        if model.config.head != "fcos":
            return {"images": len(labels)}
        return {"cells": model.trained_cells(inputs["pixel_values"], inputs["pixel_mask"], labels)}
    counts: dict[str, float] = {"boxes": sum(len(label["class_labels"]) for label in labels)}
    if ARCHITECTURES[model.config.model_type].no_object:
        counts["queries"] = _weighted_queries(model.config, labels)
    if model.config.model_type == "d_fine":
        counts["images"] = len(labels)
    return counts


def _weighted_queries(config: Any, labels: Labels) -> float:
    """Queries, those that have no object at the weight that no-object has (Carion et al. 2020, section 3.1)."""
    queries = config.num_detection_tokens if config.model_type == "yolos" else config.num_queries
    matched = sum(min(queries, len(label["class_labels"])) for label in labels)
    return float(matched + config.eos_coefficient * (queries * len(labels) - matched))


def loss_parts(model: PreTrainedModel, output: ModelOutput) -> dict[str, Tensor]:
    """The loss in the terms that are divided by the same number; they add up to it."""
    if isinstance(model, DenseDetector):
        return {"cells" if model.config.head == "fcos" else "images": output.loss}
    if ARCHITECTURES[model.config.model_type].no_object:
        queries = _summed(output, "loss_ce")
        return {"queries": queries, "boxes": output.loss - queries}
    if model.config.model_type == "d_fine":
        images = _summed(output, "loss_ddf")
        return {"images": images, "boxes": output.loss - images}
    return {"boxes": output.loss}


def _summed(output: ModelOutput, term: str) -> Tensor:
    """The sum of a term of all decoder layers."""
    found = [value for name, value in output.loss_dict.items() if name.startswith(term)]
    return torch.stack([output.loss.new_zeros(()), *found]).sum()


def divisor(name: str, count: float) -> float:
    """What is divided by for a count: every detector takes at least one box, cell or image."""
    return count if name == "queries" else max(1.0, count)
