"""A small dense detector: residual pyramid, torchvision's FCOS head (Tian et al. 2019), as a Hugging Face model.

It has the contract of `AutoModelForObjectDetection`: `pixel_values`, `pixel_mask` and `labels` in, a `ModelOutput` with
`loss` and `loss_dict` out, `save_pretrained` and `from_pretrained`. Importing this module registers it there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS, FCOSHead
from transformers import AutoConfig, AutoModelForObjectDetection, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from dataflow.errors import UsageError
from dataflow.records import Categories
from dataflow.view import View
from trainers.checkpoints import LoadReport, load_detector, with_categories
from trainers.detections import Detections, cxcywh_to_xyxy, xyxy_to_cxcywh
from trainers.residual_pyramid import STRIDES, ResidualPyramid, group_norm

_PRIOR = 0.01
"""Probability that a cell starts out with for every class (Lin et al. 2017, section 4.1: focal loss)."""
_DISTANCE = 2.0
"""Distance to each side of a box that a cell starts out with, in cells. torchvision starts at 0 under a ReLU: from
random weights half its units then never get a gradient, and a detector of moved people fell from AP50 0.87 to 0.3."""
_NEVER = -1e4
"""Logit of a cell outside its image: no loss, no gradient, score 0."""
_FRAME_CHANNELS = 3


class DenseDetectorConfig(PreTrainedConfig):
    """Shape of a `DenseDetector`, and how its raw output becomes detections.

    Args:
        widths: channels of the four stages (the stem has the first's); multiples of `groups`.
        blocks: residual blocks per stage.
        pyramid_channels: channels of the pyramid; torchvision's head wants a multiple of 32.
        groups: groups of the group normalisation.
        head_convolutions: convolutions in each of the head's two towers.
        centre_radius: a box trains the cells this many cells around its centre.
        score_threshold, nms_threshold: detections below the one are dropped, those that overlap a better one of their
            class by more than the other (IoU) too.
        num_channels: channels of `pixel_values`.
        compares_frames: the channels are the before frame's three, then the after frame's three; the backbone sees the
            frames apart, and the detector what differs between its maps of them (see `ResidualPyramid`).

    Raises:
        UsageError: frames are to be compared in other than six channels.
    """

    model_type = "shardbox_dense"

    def __init__(
        self,
        *,
        widths: Sequence[int] = (16, 32, 64, 96),
        blocks: int = 2,
        pyramid_channels: int = 64,
        groups: int = 8,
        head_convolutions: int = 2,
        centre_radius: float = 1.5,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.6,
        num_channels: int = 3,
        compares_frames: bool = False,
        **kwargs: Any,
    ) -> None:
        if compares_frames and num_channels != 2 * _FRAME_CHANNELS:
            raise UsageError(
                f"compares_frames with num_channels={num_channels}",
                f"give num_channels={2 * _FRAME_CHANNELS}: three of the before frame, then three of the after frame",
            )
        self.widths = list(widths)
        self.blocks = blocks
        self.pyramid_channels = pyramid_channels
        self.groups = groups
        self.head_convolutions = head_convolutions
        self.centre_radius = centre_radius
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.num_channels = num_channels
        self.compares_frames = compares_frames
        super().__init__(**kwargs)


@dataclass
class DenseDetectorOutput(ModelOutput):
    """Raw output over all A cells of all levels, finest level first.

    `logits` (B, A, classes); `distances` (B, A, 4) from a cell's centre to the left, top, right, bottom sides, in
    cells; `centredness` (B, A, 1) logits; `cell_counts` (levels,) int64, A by level; `cell_boxes` (A, 4) xyxy px of
    the cells in the padded image; `sizes` (B, 2) int64 px of the resized, unpadded images.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    distances: Tensor | None = None
    centredness: Tensor | None = None
    cell_counts: Tensor | None = None
    cell_boxes: Tensor | None = None
    sizes: Tensor | None = None


class DenseDetector(PreTrainedModel):
    """FCOS on a residual pyramid; see `DenseDetectorConfig`."""

    config_class = DenseDetectorConfig
    base_model_prefix = "fcos"
    main_input_name = "pixel_values"

    def __init__(self, config: DenseDetectorConfig) -> None:
        super().__init__(config)
        backbone = ResidualPyramid(
            config.widths,
            config.blocks,
            config.pyramid_channels,
            config.groups,
            _FRAME_CHANNELS if config.compares_frames else config.num_channels,
            compares_frames=config.compares_frames,
        )
        head = FCOSHead(config.pyramid_channels, 1, config.num_labels, config.head_convolutions)
        # Only FCOS's head, loss and post-processing are called: its own resizing would change the frame of the boxes,
        # and its anchors assume a padded size that every stride divides.
        self.fcos = FCOS(
            backbone,
            config.num_labels,
            head=head,
            center_sampling_radius=config.centre_radius,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        head = self.fcos.head
        if isinstance(module, nn.Conv2d):
            if any(module is part for part in head.modules()):
                init.normal_(module.weight, std=0.01)
            else:
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                start = {
                    head.classification_head.cls_logits: -math.log((1 - _PRIOR) / _PRIOR),
                    head.regression_head.bbox_reg: _DISTANCE,
                }
                init.constant_(module.bias, start.get(module, 0.0))
        elif isinstance(module, nn.GroupNorm):
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
        features, masks = self.fcos.backbone(pixel_values, sizes)
        raw = self._head(features, masks)
        grids = [level.shape[-2:] for level in features]
        counts = [height * width for height, width in grids]
        cell_boxes = _cell_boxes(grids, pixel_values)
        output = DenseDetectorOutput(
            logits=raw["cls_logits"],
            distances=raw["bbox_regression"],
            centredness=raw["bbox_ctrness"],
            cell_counts=torch.tensor(counts),
            cell_boxes=cell_boxes,
            sizes=sizes,
        )
        if labels is not None:
            targets = [_target(label, size) for label, size in zip(labels, sizes, strict=True)]
            output.loss_dict = self.fcos.compute_loss(targets, raw, [cell_boxes] * len(sizes), counts)
            output.loss = torch.stack(list(output.loss_dict.values())).sum()
        return output

    def _head(self, features: list[Tensor], masks: list[Tensor | None]) -> dict[str, Tensor]:
        """torchvision's head, with every layer confined to the images' own areas."""
        classify, regress = self.fcos.head.classification_head, self.fcos.head.regression_head
        rows: dict[str, list[Tensor]] = {"cls_logits": [], "bbox_regression": [], "bbox_ctrness": []}
        for level, mask in zip(features, masks, strict=True):
            logits = classify.cls_logits(_tower(classify.conv, level, mask))
            rows["cls_logits"].append(_rows(logits if mask is None else logits.masked_fill(~mask, _NEVER)))
            regression = _tower(regress.conv, level, mask)
            rows["bbox_regression"].append(_rows(regress.bbox_reg(regression).relu()))
            rows["bbox_ctrness"].append(_rows(regress.bbox_ctrness(regression)))
        return {name: torch.cat(levels, dim=1) for name, levels in rows.items()}

    @torch.no_grad()
    def detect(self, output: DenseDetectorOutput, limit: int = 100) -> list[Detections]:
        """The best `limit` detections of every image, duplicates suppressed per class."""
        assert output.cell_counts is not None and output.cell_boxes is not None and output.sizes is not None
        counts = output.cell_counts.tolist()
        raw = {"cls_logits": output.logits, "bbox_regression": output.distances, "bbox_ctrness": output.centredness}
        levels = {
            name: list(torch.split(rows.float(), counts, dim=1)) for name, rows in raw.items() if rows is not None
        }
        cell_boxes = [list(torch.split(output.cell_boxes, counts))] * len(output.sizes)
        found = self.fcos.postprocess_detections(levels, cell_boxes, [tuple(size) for size in output.sizes.tolist()])
        detections = []
        for image, size in zip(found, output.sizes, strict=True):
            boxes = xyxy_to_cxcywh(image["boxes"], size)
            detections.append(Detections(boxes[:limit], image["scores"][:limit], image["labels"][:limit]))
        return detections


def _sizes(pixel_values: Tensor, pixel_mask: Tensor | None) -> Tensor:
    """Heights and widths (B, 2) int64 px of the images in a padded batch."""
    if pixel_mask is None:
        size = torch.tensor(pixel_values.shape[-2:], device=pixel_values.device)
        return size.expand(len(pixel_values), 2)
    real = pixel_mask.bool()
    return torch.stack([real[:, :, 0].sum(1), real[:, 0, :].sum(1)], dim=1)


def _tower(layers: nn.Sequential, x: Tensor, mask: Tensor | None) -> Tensor:
    for layer in layers:
        x = group_norm(layer, x, mask) if isinstance(layer, nn.GroupNorm) else layer(x)
    return x


def _rows(x: Tensor) -> Tensor:
    """A map (B, C, H, W) as rows (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def _cell_boxes(grids: Sequence[Sequence[int]], like: Tensor) -> Tensor:
    """Boxes (A, 4) xyxy px, one stride wide, around the pixel each cell is centred on.

    A chain of padded 3x3 convolutions of stride 2 centres cell i on pixel i * stride.
    """
    boxes = []
    for (height, width), stride in zip(grids, STRIDES, strict=True):
        y, x = torch.meshgrid(
            torch.arange(height, device=like.device) * stride,
            torch.arange(width, device=like.device) * stride,
            indexing="ij",
        )
        centre = torch.stack([x, y], dim=-1).reshape(-1, 2).float()
        boxes.append(torch.cat([centre - stride / 2, centre + stride / 2], dim=1))
    return torch.cat(boxes)


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
    """A dense detector for `categories`, with the weights of a checkpoint or, given None, random ones of `config`.

    What the detector is shown is decided by `view`, whatever the configuration or the checkpoint says: a detector that
    compares frames can start from one of single images, and the other way round.

    Raises:
        UsageError: see `load_detector`.
    """
    shown = {"num_channels": view.channels, "compares_frames": view.inputs == "frames"}
    if weights is None:
        fresh = with_categories(config(), categories)
        fresh.update(shown)
        return DenseDetector(fresh), LoadReport("")
    return load_detector(
        DenseDetector,
        weights,
        categories,
        backbone="fcos.backbone.",
        class_head="fcos.head.classification_head.cls_logits",
        **shown,
    )
