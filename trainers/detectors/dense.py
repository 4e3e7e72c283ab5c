"""Dense detectors: a backbone, a pyramid over it and a head of torchvision's, as one Hugging Face model.

It has the contract of `AutoModelForObjectDetection`: `pixel_values`, `pixel_mask` and `labels` in, a `ModelOutput` with
`loss` and `loss_dict` out, `save_pretrained` and `from_pretrained`. Importing this module registers it there.

An image's detections are the same alone and padded beside a larger one, whatever the backbone.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForObjectDetection, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from dataflow.bridge.view import View
from dataflow.errors import UsageError
from dataflow.records import Categories
from trainers.detectors.backbones import (
    BackboneKind,
    OwnSizeBackbone,
    architecture_of,
    build_body,
    kind_from_json,
    kind_to_json,
)
from trainers.detectors.body_weights import find_checkpoint, kind_of_checkpoint, load_body, read_json
from trainers.detectors.checkpoints import LoadReport, load_detector, with_categories
from trainers.detectors.dense_heads import DenseDetectorOutput, FcosHead, Levels, RetinaNetDenseHead
from trainers.detectors.detections import Detections, cxcywh_to_xyxy, xyxy_to_cxcywh
from trainers.detectors.faster_rcnn import FasterRcnnHead
from trainers.detectors.pyramids import build_pyramid
from trainers.detectors.residual_network import ResidualNetwork

Head = Literal["fcos", "retinanet", "faster_rcnn"]
_HEADS: Mapping[Head, type[FcosHead | RetinaNetDenseHead | FasterRcnnHead]] = {
    "fcos": FcosHead,
    "retinanet": RetinaNetDenseHead,
    "faster_rcnn": FasterRcnnHead,
}
_FRAME_CHANNELS = 3
PARTS: Mapping[str, str] = {"backbone": r"^backbone\.", "head": r"^head\."}
"""Regular expressions for the names of parameters; the pyramid is in neither."""


class DenseDetectorConfig(PreTrainedConfig):
    """Shape of a `DenseDetector`, and how its raw output becomes detections.

    Args:
        head: which of torchvision's detectors the head is.
        body: a backbone of another library (see `trainers.detectors.backbones`) instead of the small residual network;
            or what `kind_to_json` made of one.
        frozen_batch_norm: the body's batch normalisation keeps its statistics, as pretrained ones should.
        widths: channels of the four stages (the stem has the first's); multiples of `groups`.
        blocks: residual blocks per stage.
        groups: groups of the group normalisation; like `widths` and `blocks` of the small residual network.
        pyramid_channels: channels of the pyramid; torchvision's heads want a multiple of 32.
        head_convolutions: convolutions in each of the two towers of FCOS and RetinaNet, at most four for RetinaNet.
        centre_radius: of FCOS; a box trains the cells this many cells around its centre.
        box_head_width: of Faster R-CNN; units of the two layers that judge a region.
        regions_per_image: of Faster R-CNN; how many regions the box head is trained on.
        score_threshold, nms_threshold: detections below the one are dropped, those that overlap a better one of their
            class by more than the other (IoU) too.
        num_channels: channels of `pixel_values`.
        compares_frames: the channels are the before frame's three, then the after frame's three; the backbone sees the
            frames apart, and the pyramid what differs between its maps of them (see `DenseDetector`).

    Raises:
        UsageError: there is no such head; frames are to be compared in other than six channels.
    """

    model_type = "shardbox_dense"

    def __init__(
        self,
        *,
        head: Head = "fcos",
        body: BackboneKind | Mapping[str, Any] | None = None,
        frozen_batch_norm: bool = False,
        widths: Sequence[int] = (16, 32, 64, 96),
        blocks: int = 2,
        groups: int = 8,
        pyramid_channels: int = 64,
        head_convolutions: int = 2,
        centre_radius: float = 1.5,
        box_head_width: int = 1024,
        regions_per_image: int = 512,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.6,
        num_channels: int = 3,
        compares_frames: bool = False,
        **kwargs: Any,
    ) -> None:
        if head not in get_args(Head):
            raise UsageError(f"there is no head {head!r}", f"choose among {', '.join(get_args(Head))}")
        if compares_frames and num_channels != 2 * _FRAME_CHANNELS:
            raise UsageError(
                f"compares_frames with num_channels={num_channels}",
                f"give num_channels={2 * _FRAME_CHANNELS}: three of the before frame, then three of the after frame",
            )
        self.head = head
        self.body = body if body is None or isinstance(body, Mapping) else kind_to_json(body)
        self.frozen_batch_norm = frozen_batch_norm
        self.widths = list(widths)
        self.blocks = blocks
        self.groups = groups
        self.pyramid_channels = pyramid_channels
        self.head_convolutions = head_convolutions
        self.centre_radius = centre_radius
        self.box_head_width = box_head_width
        self.regions_per_image = regions_per_image
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.num_channels = num_channels
        self.compares_frames = compares_frames
        super().__init__(**kwargs)


class DenseDetector(PreTrainedModel):
    """Backbone, pyramid and head; see `DenseDetectorConfig`.

    Where it compares frames, the backbone sees two frames apart, and the pyramid sees the maps of the after frame less
    those of the before frame, as in FC-Siam-diff (Daudt, Le Saux & Boulch 2018), but with their sign: the absolute
    value shows what arrived and what left alike. Frames that are the same leave exactly zero.
    """

    config_class = DenseDetectorConfig
    base_model_prefix = "dense"
    main_input_name = "pixel_values"

    def __init__(self, config: DenseDetectorConfig) -> None:
        super().__init__(config)
        self.backbone = _backbone(config)
        self.pyramid = build_pyramid(self.backbone.channels, self.backbone.strides, config.pyramid_channels)
        self.head = _HEADS[config.head](config, self.pyramid.strides)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if any(module is part for part in self.head.modules()):
            self.head.initialise(module)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and module.weight is not None:
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        labels: Sequence[Mapping[str, Tensor]] | None = None,
        **_: Any,
    ) -> DenseDetectorOutput:
        """Raw output, and the losses where there are labels.

        Args:
            pixel_values: (B, num_channels, H, W) normalised, zero in the padding on the right and at the bottom.
            pixel_mask: (B, H, W), nonzero on real pixels; None where there is no padding.
            labels: per image `class_labels` (N,) int64 and `boxes` (N, 4) cxcywh relative to the unpadded image.
        """
        sizes = _sizes(pixel_values, pixel_mask)
        canvas = (pixel_values.shape[2], pixel_values.shape[3])
        features, masks = self.pyramid(self._maps(pixel_values, sizes), sizes, canvas)
        levels = Levels(features, masks, self.pyramid.strides, self.backbone.centre, canvas, sizes)
        targets = None
        if labels is not None:
            targets = [_target(label, size) for label, size in zip(labels, sizes, strict=True)]
        output: DenseDetectorOutput = self.head(levels, targets)
        if output.loss_dict is not None:
            output.loss = torch.stack(list(output.loss_dict.values())).sum()
        return output

    def trained_cells(
        self, pixel_values: Tensor, pixel_mask: Tensor | None, labels: Sequence[Mapping[str, Tensor]]
    ) -> int:
        """How many cells an FCOS head is trained to find boxes with, by which its losses are divided; see `forward`."""
        sizes = _sizes(pixel_values, pixel_mask)
        canvas = (pixel_values.shape[2], pixel_values.shape[3])
        strides = self.pyramid.strides
        grids = [[-(-side // stride) for side in canvas] for stride in strides]
        features = [pixel_values.new_empty(0, 0, *grid) for grid in grids]
        levels = Levels(features, [None] * len(grids), strides, self.backbone.centre, canvas, sizes)
        targets = [_target(label, size) for label, size in zip(labels, sizes, strict=True)]
        assert isinstance(self.head, FcosHead)
        return self.head.trained_cells(levels, targets)

    def _maps(self, pixels: Tensor, sizes: Tensor) -> list[Tensor]:
        """The backbone's maps of a batch, or what differs between those of its frames."""
        if not self.config.compares_frames:
            maps: list[Tensor] = self.backbone(pixels, sizes)
            return maps
        both = self.backbone(torch.cat(pixels.chunk(2, dim=1)), sizes.repeat(2, 1))
        return [after - before for before, after in (each.chunk(2) for each in both)]

    @torch.no_grad()
    def detect(self, output: DenseDetectorOutput, limit: int = 100) -> list[Detections]:
        """The best `limit` detections of every image, duplicates suppressed per class."""
        assert output.sizes is not None
        detections = []
        for image, size in zip(self.head.detect(output), output.sizes, strict=True):
            boxes = xyxy_to_cxcywh(image["boxes"], size)
            detections.append(Detections(boxes[:limit], image["scores"][:limit], image["labels"][:limit]))
        return detections


def _backbone(config: DenseDetectorConfig) -> ResidualNetwork | OwnSizeBackbone:
    """The backbone of one image, or of each of two frames."""
    channels = _FRAME_CHANNELS if config.compares_frames else config.num_channels
    if config.body is None:
        return ResidualNetwork(config.widths, config.blocks, config.groups, channels)
    body = build_body(kind_from_json(config.body), channels)
    return OwnSizeBackbone(body, frozen_batch_norm=config.frozen_batch_norm)


def _sizes(pixel_values: Tensor, pixel_mask: Tensor | None) -> Tensor:
    """Heights and widths (B, 2) int64 px of the images in a padded batch."""
    if pixel_mask is None:
        size = torch.tensor(pixel_values.shape[-2:], device=pixel_values.device)
        return size.expand(len(pixel_values), 2)
    real = pixel_mask.bool()
    return torch.stack([real[:, :, 0].sum(1), real[:, 0, :].sum(1)], dim=1)


def _target(label: Mapping[str, Tensor], size: Tensor) -> dict[str, Tensor]:
    """A label as torchvision wants it: boxes xyxy in pixels of the padded image, whose origin is the unpadded one's."""
    boxes = cxcywh_to_xyxy(label["boxes"].float(), size)
    return {"boxes": boxes, "labels": label["class_labels"].long()}


AutoConfig.register(DenseDetectorConfig.model_type, DenseDetectorConfig, exist_ok=True)
AutoModelForObjectDetection.register(DenseDetectorConfig, DenseDetector, exist_ok=True)


def build_dense(
    categories: Categories,
    weights: str | None,
    config: Callable[[], DenseDetectorConfig] = DenseDetectorConfig,
    *,
    view: View = View(),
) -> tuple[DenseDetector, LoadReport]:
    """A dense detector for `categories`.

    What the detector is shown is decided by `view`, whatever the configuration or the checkpoint says: a detector that
    compares frames can start from one of single images, and the other way round.

    Args:
        weights: hub name or directory of a dense detector, or of a published backbone of the library that `config`'s
            is of, whose shape then takes the place of that one's; None for random weights throughout.
        config: what to build, but for what the weights decide.

    Raises:
        UsageError: a dense detector with another head, or a backbone of another architecture, than what `config` says;
            see `load_detector`, `kind_of_checkpoint` and `load_body`.
    """
    shown = {"num_channels": view.channels, "compares_frames": view.inputs == "frames"}
    path = None if weights is None else find_checkpoint(weights)
    if weights is not None and path is not None and (found := _dense_config(path)) is not None:
        _check_alike(weights, found, config().to_dict())
        return load_detector(
            DenseDetector,
            weights,
            categories,
            backbone=("backbone.", "pyramid."),
            class_head=r"head\.(" + "|".join(re.escape(kind.class_layer) for kind in _HEADS.values()) + ")",
            **shown,
        )
    fresh = with_categories(config(), categories)
    fresh.update(shown)
    if weights is None or path is None:
        return DenseDetector(fresh), LoadReport("")
    kind = kind_of_checkpoint(path, None if fresh.body is None else kind_from_json(fresh.body))
    fresh.update({"body": kind_to_json(kind), "frozen_batch_norm": True})
    model = DenseDetector(fresh)
    report = load_body(model.get_submodule("backbone.body"), kind, path, weights, "backbone.body.")
    random = set(model.state_dict()) - set(report.loaded)
    return model, replace(report, reinitialised=tuple(sorted(random)))


def _dense_config(path: Path) -> dict[str, Any] | None:
    """The configuration of a checkpoint, if it is of a `DenseDetector`."""
    file = path / "config.json"
    content = read_json(file) if file.is_file() else {}
    return content if content.get("model_type") == DenseDetectorConfig.model_type else None


def _check_alike(weights: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """A checkpoint's shape may be another than the recipe's, but not its kind: the run would have a wrong name."""
    for there, here in ((_head_in(found), _head_in(wanted)), (_backbone_in(found), _backbone_in(wanted))):
        if there != here:
            raise UsageError(
                f"{weights} is a detector with {there}, this recipe builds one with {here}",
                "choose weights and recipe that belong together",
            )


def _head_in(config: Mapping[str, Any]) -> str:
    return f"the head {config.get('head', get_args(Head)[0])!r}"


def _backbone_in(config: Mapping[str, Any]) -> str:
    body = config.get("body")
    return "a residual network of its own" if body is None else f"a backbone of {architecture_of(kind_from_json(body))}"
