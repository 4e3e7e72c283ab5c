"""The DETR family as Hugging Face has it: from a hub name, a local checkpoint, or a configuration with random weights.

| architecture | paper | class scores | padding |
|---|---|---|---|
| `detr` | Carion et al. 2020 | softmax with no-object | changes nothing |
| `conditional_detr` | Meng et al. 2021 | sigmoid | changes nothing |
| `deformable_detr` | Zhu et al. 2021 | sigmoid | changes nothing |
| `rt_detr_v2` | Lv et al. 2024 | sigmoid | is seen as part of the picture |
| `d_fine` | Peng et al. 2024 | sigmoid | is seen as part of the picture |
| `yolos` | Fang et al. 2021 | softmax with no-object | is seen as part of the picture |

What padding means is in `trainers.detectors.detr_canvas`. In an image with more objects than the detector has queries,
those that the matching likes best are learned, one to a query, and the others are taken for background.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_OBJECT_DETECTION_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.loss import loss_for_object_detection
from transformers.utils import ModelOutput

from dataflow.bridge.view import View
from dataflow.errors import UsageError
from dataflow.records import Categories
from trainers.detectors.checkpoints import LoadReport, class_names, load_detector, with_categories
from trainers.detectors.detections import Detections
from trainers.detectors.detr_canvas import attach_canvas
from trainers.detectors.stems import channels_of, set_channels, widen

Architecture = Literal["detr", "conditional_detr", "deformable_detr", "rt_detr_v2", "d_fine", "yolos"]
_EARLY = re.compile(r"model\.backbone\.model\.(conv1|bn1|layer1|embedder|encoder\.stages\.0)\.")
"""Names of the stem and first stage of timm's ResNet, and of Hugging Face's."""
_PRIOR = 0.01
"""Probability that a query starts out with for every class, where classes are scored by sigmoid (Lin et al. 2017,
section 4.1). transformers starts RT-DETR at 1 / (classes + 1), which is a half for one class, and others at a half."""

_FIRST_BOXES = re.compile(r"model\.(enc_bbox_head|decoder\.pre_bbox_head)\.layers\.2$")
"""Names of the layers that move RT-DETR's and D-FINE's boxes away from the anchors."""

_HEAD = (
    r"^(class_labels_classifier|bbox_predictor|(model\.decoder\.)?(class_embed|bbox_embed|pre_bbox_head|lqe_layers)"
    r"|model\.(enc_score_head|enc_bbox_head|denoising_class_embed))\."
)
"""Names of the layers of any member that give classes and boxes."""


@dataclass(frozen=True)
class Kind:
    """What is particular to a member of the family."""

    backbone: str
    """Prefix of the names of the backbone's tensors."""
    class_head: str
    """Regular expression that the names of the tensors with one entry per class begin with."""
    no_object: bool
    """Whether scores are by softmax, with no-object as a further class, the last one; by sigmoid otherwise."""
    heeds_mask: bool
    """Whether it heeds `pixel_mask`, see `trainers.detectors.detr_canvas`."""
    multiple_of: int
    """Stride of its coarsest map, px."""
    freezes_early_layers: bool
    """Whether its published training leaves the backbone's stem and first stage as they are."""
    auxiliary_loss: bool = True
    """Whether every decoder layer has a loss (Carion et al. 2020, section 3.2), which speeds learning. YOLOS has no
    decoder, and transformers' code for its layers' losses asks for states that nobody keeps."""


_CLASSIFIER = r"class_labels_classifier\."
_PER_LAYER = r"(model\.decoder\.)?class_embed\."
_WITH_PROPOSALS = rf"{_PER_LAYER}|model\.(enc_score_head|denoising_class_embed)\."
ARCHITECTURES: Mapping[str, Kind] = {
    "detr": Kind("model.backbone.", _CLASSIFIER, True, True, 32, True),
    "conditional_detr": Kind("model.backbone.", _CLASSIFIER, False, True, 32, True),
    "deformable_detr": Kind("model.backbone.", _PER_LAYER, False, True, 64, True),
    "rt_detr_v2": Kind("model.backbone.", _WITH_PROPOSALS, False, False, 32, False),
    "d_fine": Kind("model.backbone.", _WITH_PROPOSALS, False, False, 32, False),
    "yolos": Kind("vit.", rf"{_CLASSIFIER}layers\.2\.", True, False, 16, False, auxiliary_loss=False),
}


def build_detr(
    categories: Categories,
    weights: str | None,
    config: Callable[[], PreTrainedConfig] | None = None,
    train_early_layers: bool = False,
    *,
    architecture: Architecture = "detr",
    view: View = View(),
) -> tuple[PreTrainedModel, LoadReport]:
    """A detector of the family for `categories`.

    Args:
        weights: hub name or checkpoint directory; None for random weights throughout.
        config: what to build where there are no weights.
        train_early_layers: train the backbone's stem and first stage too; without, they keep the weights they have
            where the architecture's own training does so (Carion et al. 2020, section A.4), which makes sense with
            pretrained weights only. A stem that sees two images trains in any case.
        architecture: which one; the checkpoint or configuration must be of it.
        view: what it is shown. Two images are stacked along the channels; weights of one image can start with two, see
            `trainers.detectors.stems.widen`.

    Raises:
        UsageError: see `load_detector`; there are neither weights nor a configuration; the weights take fewer or more
            channels than `view` has, and cannot be widened.
    """
    kind = ARCHITECTURES[architecture]
    if weights is not None:
        model, report = _loaded(categories, weights, architecture, view)
    elif config is not None:
        fresh = with_categories(config(), categories)
        assert fresh.model_type == architecture
        fresh.auxiliary_loss = kind.auxiliary_loss
        set_channels(fresh, view.channels)
        model, report = _model_class(architecture)(fresh), LoadReport("")
        _start(model, model.state_dict())
    else:
        raise UsageError("this recipe wants weights to start from", "pass --weights NAME or --weights DIR")
    check_class_head(model, categories)
    _check_proposals(model, report)
    _choose_trainable(model, kind, train_early_layers or view.images > 1)
    ready(model)
    return model, report


def part_patterns(model: PreTrainedModel) -> Mapping[str, str]:
    """Regular expressions for the names of the backbone's parameters, and of those that give classes and boxes."""
    return {"backbone": "^" + re.escape(ARCHITECTURES[model.config.model_type].backbone), "head": _HEAD}


def ready(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, made to take `pixel_values`, `pixel_mask` and `labels` as every detector here does: boxes of
    labels and predictions are cxcywh relative to the unpadded image."""
    kind = ARCHITECTURES[model.config.model_type]
    attach_canvas(model, kind.multiple_of, kind.heeds_mask)
    return model


def finest_stride(config: PreTrainedConfig) -> int:
    """Pixels of the resized image per cell of the finest map that is looked at."""
    match config.model_type:
        case "yolos":
            return int(config.patch_size)
        case "rt_detr_v2" | "d_fine":
            return int(min(config.feat_strides))
        case "deformable_detr" if config.num_feature_levels > 1:
            return 8
    return 16 if getattr(config, "dilation", False) else 32


def queries(config: PreTrainedConfig) -> int:
    """How many objects can be found in an image."""
    return int(config.num_detection_tokens if config.model_type == "yolos" else config.num_queries)


def _model_class(architecture: str) -> type[PreTrainedModel]:
    found: type[PreTrainedModel] = MODEL_FOR_OBJECT_DETECTION_MAPPING[type(AutoConfig.for_model(architecture))]
    return found


def _loaded(categories: Categories, weights: str, architecture: str, view: View) -> tuple[PreTrainedModel, LoadReport]:
    """The model of a checkpoint, with as many channels as `view` has."""
    kind = ARCHITECTURES[architecture]
    model, report = load_detector(
        _model_class(architecture),
        weights,
        categories,
        backbone=kind.backbone,
        class_head=kind.class_head,
        auxiliary_loss=kind.auxiliary_loss,
    )
    _start(model, report.reinitialised)
    return (model, report) if channels_of(model.config) == view.channels else widen(model, report, view)


@torch.no_grad()
def _start(model: PreTrainedModel, names: Collection[str]) -> None:
    """Amend what transformers puts into new tensors of these names where the architectures' authors have others.

    It starts RT-DETR's and D-FINE's layers at a standard deviation of 0.01 whatever their width, and RT-DETR's batch
    norm too, so that signals vanish; and it lets their first boxes differ from the anchors.
    """
    kind = ARCHITECTURES[model.config.model_type]
    hybrid = model.config.model_type in ("rt_detr_v2", "d_fine")
    for module_name, layer in model.named_modules():
        weight = f"{module_name}.weight"
        if weight not in names:
            continue
        if re.match(kind.class_head, weight):
            if not kind.no_object and isinstance(layer, nn.Linear):
                nn.init.constant_(layer.bias, -math.log((1 - _PRIOR) / _PRIOR))
        elif hybrid and isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
        elif hybrid and isinstance(layer, nn.Linear):
            if _FIRST_BOXES.match(module_name):
                nn.init.zeros_(layer.weight)
            elif bool(layer.weight.any()):  # What transformers starts at zero is meant to.
                nn.init.xavier_uniform_(layer.weight)


def check_class_head(model: PreTrainedModel, categories: Categories) -> None:
    """Every layer that scores classes has one output per category, in order; no-object, where there is one, is last."""
    kind = ARCHITECTURES[model.config.model_type]
    outputs = len(categories) + kind.no_object
    heads = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if re.match(kind.class_head, name) and "denoising" not in name
    }
    assert heads
    assert all(len(tensor) == outputs for tensor in heads.values())
    assert class_names(model.config) == categories.names


def _check_proposals(model: PreTrainedModel, report: LoadReport) -> None:
    """Deformable DETR's second variant picks its queries by scores whose loss transformers (5.23) leaves out.

    Raises:
        UsageError: these scores start at random, and so would stay.
    """
    fresh = not report.source or report.reinitialised
    if fresh and getattr(model.config, "two_stage", False):
        raise UsageError(
            f"{report.source or 'this configuration'} is a two-stage Deformable DETR, whose proposals nothing trains",
            "choose one that is not, such as SenseTime/deformable-detr-with-box-refine",
        )


def _choose_trainable(model: PreTrainedModel, kind: Kind, train_early_layers: bool) -> None:
    """Say for every parameter of the backbone whether it trains.

    Hugging Face means to freeze the stem and first stage, but matches other names than its own ResNet has: that one
    it freezes whole. Whether batch norm is frozen is a matter of the architecture and its configuration.
    """
    keep = kind.freezes_early_layers and not train_early_layers
    for name, parameter in model.named_parameters():
        if name.startswith(kind.backbone):
            parameter.requires_grad_(not (keep and _EARLY.match(name)))


@contextmanager
def without_sharing() -> Iterator[None]:
    """Let transformers count the boxes of this process alone, which the trainer puts into proportion.

    Among several processes, three of its losses divide the mean number of boxes by the number of processes again
    (5.23: `reduce` means already), the others take their own.
    """
    known = loss_for_object_detection.is_accelerate_available
    loss_for_object_detection.is_accelerate_available = lambda: False
    try:
        yield
    finally:
        loss_for_object_detection.is_accelerate_available = known


@torch.no_grad()
def detect(model: PreTrainedModel, output: ModelOutput, limit: int = 100) -> list[Detections]:
    """The best `limit` detections of every image, whatever their score.

    Where classes are scored by softmax, these are each query's best class, and no-object is never one. Where they are
    scored by sigmoid, a query may be several: the best pairs of query and class. So do the authors of each.
    """
    if ARCHITECTURES[model.config.model_type].no_object:
        scores, labels = output.logits.float().softmax(-1)[..., :-1].max(-1)
        queries = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    else:
        by_class = output.logits.float().sigmoid()
        scores = by_class.flatten(1)
        pairs = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        queries, labels = pairs // by_class.shape[-1], pairs % by_class.shape[-1]
    return [_best(limit, *image) for image in zip(scores, labels, queries, output.pred_boxes.float(), strict=True)]


def _best(limit: int, scores: Tensor, labels: Tensor, queries: Tensor, boxes: Tensor) -> Detections:
    """The best of (M,) candidates, each with the box of its query; `boxes` (Q, 4)."""
    best = scores.argsort(descending=True, stable=True)[:limit]
    return Detections(boxes[queries[best]], scores[best], labels[best])
