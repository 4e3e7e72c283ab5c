"""What the heads of dense detectors have in common, and the two that judge every cell: FCOS and RetinaNet.

Layers, losses and post-processing are torchvision's. Its models are not called as a whole: their own resizing would
change the frame of the boxes, and they know neither padding nor centres of cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from transformers import initialization as init
from transformers.utils import ModelOutput

from trainers.detectors.areas import tower

PRIOR = 0.01
"""Probability that a cell starts out with for every class (Lin et al. 2017, section 4.1: focal loss)."""
_DISTANCE = 2.0
"""Distance to each side of a box that a cell starts out with, in cells. torchvision starts at 0 under a ReLU: from
random weights half its units then never get a gradient, and a detector of moved people fell from AP50 0.87 to 0.3."""
NEVER = -1e4
"""Logit of a cell outside its image: no loss, no gradient, score 0."""
RATIOS = (0.5, 1.0, 2.0)
"""Height over width of anchors."""
_RETINANET_SIZES = tuple(4.0 * 2 ** (third / 3) for third in range(3))
"""Sides of RetinaNet's square anchors in cells (Lin et al. 2017, section 4)."""
_GROUPS = 32


@dataclass(frozen=True)
class Levels:
    """A padded batch as a head sees it.

    `features` (B, C, h, w) per level, finest first, zero outside the images' own areas; `masks` (B, 1, h, w) of those
    areas, or None where they fill the grid; `strides` px per cell; `centre`: cell i is centred on pixel
    (i + centre) * stride; `canvas` (H, W) px; `sizes` (B, 2) int64 px of the images.
    """

    features: list[Tensor]
    masks: list[Tensor | None]
    strides: tuple[int, ...]
    centre: float
    canvas: tuple[int, int]
    sizes: Tensor

    def centres(self, level: int) -> Tensor:
        """Centres (h * w, 2) x, y px of a level's cells, row by row."""
        features = self.features[level]
        height, width = features.shape[-2:]
        y, x = (
            (torch.arange(count, device=features.device) + self.centre) * self.strides[level]
            for count in (height, width)
        )
        grid = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([grid[1], grid[0]], dim=-1).reshape(-1, 2).float()

    def cell_boxes(self) -> Tensor:
        """Boxes (A, 4) xyxy px, one stride wide, around the centres of all cells."""
        boxes = []
        for level, stride in enumerate(self.strides):
            centre = self.centres(level)
            boxes.append(torch.cat([centre - stride / 2, centre + stride / 2], dim=1))
        return torch.cat(boxes)

    def anchors(self, cells: Sequence[float]) -> list[Tensor]:
        """Anchors (h * w * sides * ratios, 4) xyxy px per level around the centres of its cells.

        Args:
            cells: sides of a square anchor, in cells.
        """
        make, anchors = AnchorGenerator(), []
        for level, stride in enumerate(self.strides):
            centre = self.centres(level)
            sides = [side * stride for side in cells]
            base = make.generate_anchors(sides, RATIOS, torch.float32, centre.device)
            anchors.append((centre.repeat(1, 2)[:, None] + base[None]).reshape(-1, 4))
        return anchors

    def inside(self, per_cell: int) -> Tensor:
        """Whether each of the anchors (B, A), `per_cell` of them in a cell, belongs to its image."""
        parts = []
        for features, mask in zip(self.features, self.masks, strict=True):
            batch, _, height, width = features.shape
            real = features.new_ones(batch, height * width, dtype=torch.bool) if mask is None else mask.flatten(1)
            parts.append(real.repeat_interleave(per_cell, dim=1))
        return torch.cat(parts, dim=1)


@dataclass
class DenseDetectorOutput(ModelOutput):
    """Raw output over all A anchors (or cells) of all levels, finest level first.

    `logits` (B, A, classes); `regression` (B, A, 4), which turns an anchor into a box, in the head's own terms;
    `centredness` (B, A, 1) logits, of FCOS only; `anchors` (A, 4) xyxy px in the padded image; `anchor_counts`
    (levels,) int64, A by level; `sizes` (B, 2) int64 px of the resized, unpadded images. Faster R-CNN has A proposals
    an image instead (see `trainers.detectors.faster_rcnn`), and while it trains none.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    regression: Tensor | None = None
    centredness: Tensor | None = None
    anchors: Tensor | None = None
    anchor_counts: Tensor | None = None
    sizes: Tensor | None = None


class Bare(nn.Module):
    """Stands for the backbone that torchvision's models want to own."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels


class FcosHead(nn.Module):
    """FCOS (Tian et al. 2019): each cell says whether it is near the centre of a box, and how far its sides are."""

    class_layer = "fcos.head.classification_head.cls_logits"
    background: int | None = None
    """Which of its outputs is no-object."""
    anchor_cells: tuple[float, ...] = ()
    """Sides of its square anchors in cells."""

    def __init__(self, config: Any, strides: Sequence[int]) -> None:
        super().__init__()
        channels = config.pyramid_channels
        self.fcos = FCOS(
            Bare(channels),
            config.num_labels,
            head=FCOSHead(channels, 1, config.num_labels, config.head_convolutions),
            center_sampling_radius=config.centre_radius,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
        )

    def initialise(self, module: nn.Module) -> None:
        """Random weights for one of its layers."""
        if isinstance(module, nn.Conv2d):
            init.normal_(module.weight, std=0.01)
            head = self.fcos.head
            start = {
                head.classification_head.cls_logits: -math.log((1 - PRIOR) / PRIOR),
                head.regression_head.bbox_reg: _DISTANCE,
            }
            init.constant_(module.bias, start.get(module, 0.0))

    def forward(self, levels: Levels, targets: list[dict[str, Tensor]] | None) -> DenseDetectorOutput:
        """Raw output, and the losses where there are `targets`: `boxes` (N, 4) xyxy px, `labels` (N,) int64."""
        raw = self._raw(levels)
        counts = [level.shape[-2] * level.shape[-1] for level in levels.features]
        anchors = levels.cell_boxes()
        losses = None
        if targets is not None:
            losses = self.fcos.compute_loss(targets, raw, [anchors] * len(targets), counts)
        return DenseDetectorOutput(
            loss_dict=losses,
            logits=raw["cls_logits"],
            regression=raw["bbox_regression"],
            centredness=raw["bbox_ctrness"],
            anchors=anchors,
            anchor_counts=torch.tensor(counts),
            sizes=levels.sizes,
        )

    @torch.no_grad()
    def trained_cells(self, levels: Levels, targets: list[dict[str, Tensor]]) -> int:
        """How many cells are matched with boxes: torchvision's matching, asked for its answer instead of its loss."""
        counts = [level.shape[-2] * level.shape[-1] for level in levels.features]
        matching = SimpleNamespace(
            center_sampling_radius=self.fcos.center_sampling_radius,
            head=SimpleNamespace(compute_loss=lambda targets, raw, anchors, matched: matched),
        )
        matched = FCOS.compute_loss(matching, targets, {}, [levels.cell_boxes()] * len(targets), counts)
        return sum(int((cells >= 0).sum()) for cells in matched)

    def _raw(self, levels: Levels) -> dict[str, Tensor]:
        """torchvision's head, with every layer confined to the images' own areas."""
        classify, regress = self.fcos.head.classification_head, self.fcos.head.regression_head
        rows: dict[str, list[Tensor]] = {"cls_logits": [], "bbox_regression": [], "bbox_ctrness": []}
        for level, mask in zip(levels.features, levels.masks, strict=True):
            logits = classify.cls_logits(tower(classify.conv, level, mask))
            rows["cls_logits"].append(_rows(logits if mask is None else logits.masked_fill(~mask, NEVER)))
            regression = tower(regress.conv, level, mask)
            rows["bbox_regression"].append(_rows(regress.bbox_reg(regression).relu()))
            rows["bbox_ctrness"].append(_rows(regress.bbox_ctrness(regression)))
        return {name: torch.cat(parts, dim=1) for name, parts in rows.items()}

    def detect(self, output: DenseDetectorOutput) -> list[dict[str, Tensor]]:
        """`boxes` (M, 4) xyxy px, `scores`, `labels` of every image, best first, duplicates suppressed per class."""
        raw = {
            "cls_logits": output.logits,
            "bbox_regression": output.regression,
            "bbox_ctrness": output.centredness,
        }
        return _postprocessed(self.fcos, raw, output)


class RetinaNetDenseHead(nn.Module):
    """RetinaNet (Lin et al. 2017): nine anchors a cell, focal loss. Its towers have group normalisation.

    The loss is taken image by image over the image's own anchors, which is how torchvision averages it.
    """

    class_layer = "retinanet.head.classification_head.cls_logits"
    background: int | None = None
    anchor_cells = _RETINANET_SIZES

    def __init__(self, config: Any, strides: Sequence[int]) -> None:
        super().__init__()
        channels, per_cell = config.pyramid_channels, len(_RETINANET_SIZES) * len(RATIOS)
        head = RetinaNetHead(channels, per_cell, config.num_labels, norm_layer=partial(nn.GroupNorm, _GROUPS))
        for part in (head.classification_head, head.regression_head):
            part.conv = part.conv[: config.head_convolutions]
        self.retinanet = RetinaNet(
            Bare(channels),
            config.num_labels,
            head=head,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
        )

    def initialise(self, module: nn.Module) -> None:
        """Random weights for one of its layers."""
        if isinstance(module, nn.Conv2d):
            init.normal_(module.weight, std=0.01)
            classes = self.retinanet.head.classification_head.cls_logits
            if module.bias is not None:
                init.constant_(module.bias, -math.log((1 - PRIOR) / PRIOR) if module is classes else 0.0)

    def forward(self, levels: Levels, targets: list[dict[str, Tensor]] | None) -> DenseDetectorOutput:
        """Raw output, and the losses where there are `targets`: `boxes` (N, 4) xyxy px, `labels` (N,) int64."""
        by_level = levels.anchors(_RETINANET_SIZES)
        anchors = torch.cat(by_level)
        real = levels.inside(len(_RETINANET_SIZES) * len(RATIOS))
        raw = self._raw(levels)
        losses = None if targets is None else self._losses(raw, anchors, real, targets)
        return DenseDetectorOutput(
            loss_dict=losses,
            logits=raw["cls_logits"].masked_fill(~real[..., None], NEVER),
            regression=raw["bbox_regression"],
            anchors=anchors,
            anchor_counts=torch.tensor([len(level) for level in by_level]),
            sizes=levels.sizes,
        )

    def _raw(self, levels: Levels) -> dict[str, Tensor]:
        """torchvision's head, with every layer confined to the images' own areas."""
        classify, regress = self.retinanet.head.classification_head, self.retinanet.head.regression_head
        rows: dict[str, list[Tensor]] = {"cls_logits": [], "bbox_regression": []}
        for level, mask in zip(levels.features, levels.masks, strict=True):
            logits = classify.cls_logits(tower(classify.conv, level, mask))
            rows["cls_logits"].append(_rows(logits, classify.num_classes))
            rows["bbox_regression"].append(_rows(regress.bbox_reg(tower(regress.conv, level, mask)), 4))
        return {name: torch.cat(parts, dim=1) for name, parts in rows.items()}

    def _losses(
        self, raw: dict[str, Tensor], anchors: Tensor, real: Tensor, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        parts = []
        for i, target in enumerate(targets):
            own = {name: rows[i : i + 1, real[i]] for name, rows in raw.items()}
            parts.append(self.retinanet.compute_loss([target], own, [anchors[real[i]]]))
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    def detect(self, output: DenseDetectorOutput) -> list[dict[str, Tensor]]:
        """`boxes` (M, 4) xyxy px, `scores`, `labels` of every image, best first, duplicates suppressed per class."""
        return _postprocessed(
            self.retinanet, {"cls_logits": output.logits, "bbox_regression": output.regression}, output
        )


def _rows(x: Tensor, width: int | None = None) -> Tensor:
    """A map (B, K * width, h, w) as rows (B, h * w * K, width); one a cell where there is no width."""
    cells = x.permute(0, 2, 3, 1)
    return cells.reshape(len(x), -1, width or x.shape[1])


def _postprocessed(model: Any, raw: dict[str, Tensor | None], output: DenseDetectorOutput) -> list[dict[str, Tensor]]:
    """torchvision's post-processing of raw rows (B, A, ...)."""
    assert output.anchor_counts is not None and output.anchors is not None and output.sizes is not None
    counts = output.anchor_counts.tolist()
    levels = {name: list(torch.split(rows.float(), counts, dim=1)) for name, rows in raw.items() if rows is not None}
    anchors = [list(torch.split(output.anchors, counts))] * len(output.sizes)
    found: list[dict[str, Tensor]] = model.postprocess_detections(
        levels, anchors, [tuple(size) for size in output.sizes.tolist()]
    )
    return found
