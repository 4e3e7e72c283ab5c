"""Faster R-CNN (Ren et al. 2015) on a feature pyramid: proposals first, then a verdict on each.

Layers, losses, sampling and post-processing are torchvision's. What is done here is what they leave out: anchors in the
padding of an image are neither proposed nor trained on, and losses can be had together with detections.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import (
    AnchorGenerator,
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper
from transformers import initialization as init

from trainers.detectors.dense_heads import NEVER, RATIOS, DenseDetectorOutput, Levels

_CELLS = (4.0, 8.0)
"""Sides of square anchors in cells."""
_POOLED = 7
_FOREGROUND_IOU, _BACKGROUND_IOU = 0.7, 0.3
_PROPOSALS = {"training": 2000, "testing": 1000}
"""Proposals a level before duplicates are suppressed, and an image after (Lin et al. 2017, section 5)."""


class FasterRcnnHead(nn.Module):
    """A region proposal network over the pyramid, and a box head on regions pooled from it.

    Its output has P proposals an image, the best first and rows of zeros after the last: `anchors` (B, P, 4) xyxy px;
    `logits` (B, P, 1 + classes), the background first; `regression` (B, P, 4 * (1 + classes)). Which anchors and
    proposals are trained on is drawn at random.
    """

    class_layer = "roi.box_predictor"
    background: int | None = 0
    anchor_cells = _CELLS

    def __init__(self, config: Any, strides: Sequence[int]) -> None:
        super().__init__()
        channels, width = config.pyramid_channels, config.box_head_width
        self.rpn = RegionProposalNetwork(
            AnchorGenerator(),
            RPNHead(channels, len(_CELLS) * len(RATIOS)),
            _FOREGROUND_IOU,
            _BACKGROUND_IOU,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=_PROPOSALS,
            post_nms_top_n=_PROPOSALS,
            nms_thresh=0.7,
            score_thresh=torch.finfo(torch.float32).tiny,  # Above what anchors in the padding have.
        )
        self.roi = RoIHeads(
            _pooling(strides),
            TwoMLPHead(channels * _POOLED**2, width),
            FastRCNNPredictor(width, config.num_labels + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=config.regions_per_image,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
            detections_per_img=100,
        )

    def initialise(self, module: nn.Module) -> None:
        """Random weights for one of its layers."""
        predictor = self.roi.box_predictor
        if isinstance(module, nn.Conv2d) or module is predictor.cls_score:
            init.normal_(module.weight, std=0.01)
        elif module is predictor.bbox_pred:
            init.normal_(module.weight, std=0.001)
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=1)
        else:
            return
        init.zeros_(module.bias)

    def forward(self, levels: Levels, targets: list[dict[str, Tensor]] | None) -> DenseDetectorOutput:
        """Raw output unless training, and losses where there are `targets`: `boxes` (N, 4) xyxy px, `labels` (N,)."""
        shapes = [tuple(size) for size in levels.sizes.tolist()]
        proposals, losses = self._propose(levels, shapes, targets)
        output = DenseDetectorOutput(sizes=levels.sizes)
        if targets is not None:
            # Class 0 is the background here.
            shifted = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
            sampled, _, labels, regression = self.roi.select_training_samples(list(proposals), shifted)
            losses["loss_classifier"], losses["loss_box_reg"] = fastrcnn_loss(
                *self._judge(levels, sampled), labels, regression
            )
            output.loss_dict = losses
        if not self.training:
            judged = self._judge(levels, proposals)
            counts = [len(each) for each in proposals]
            logits, regression = (torch.split(rows, counts) for rows in judged)
            output.logits, output.regression, output.anchors = (
                pad_sequence(list(rows), batch_first=True) for rows in (logits, regression, proposals)
            )
            output.anchor_counts = torch.tensor(counts)
        return output

    def _propose(
        self, levels: Levels, shapes: list[tuple[int, int]], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals (P, 4) xyxy px of every image, best first, and the losses of proposing where there are targets."""
        logits, deltas = self.rpn.head(levels.features)
        by_level = levels.anchors(_CELLS)
        anchors, counts = torch.cat(by_level), [len(level) for level in by_level]
        flat_logits, flat_deltas = concat_box_prediction_layers(logits, deltas)
        real = levels.inside(len(_CELLS) * len(RATIOS))
        decoded = self.rpn.box_coder.decode(flat_deltas.detach(), [anchors] * len(shapes)).view(len(shapes), -1, 4)
        masked = flat_logits.detach().view(real.shape).masked_fill(~real, NEVER)
        proposals, _ = self.rpn.filter_proposals(decoded, masked, shapes, counts)
        if targets is None:
            return proposals, {}
        labels, matched = [], []
        for own, target in zip(real, targets, strict=True):
            own_labels, own_boxes = self.rpn.assign_targets_to_anchors([anchors[own]], [target])
            # -1 is neither object nor background: it is not trained on.
            labels.append(own_labels[0].new_full((len(anchors),), -1.0).masked_scatter(own, own_labels[0]))
            matched.append(anchors.masked_scatter(own[:, None], own_boxes[0]))
        encoded = self.rpn.box_coder.encode(matched, [anchors] * len(shapes))
        objectness, boxes = self.rpn.compute_loss(flat_logits, flat_deltas, labels, encoded)
        return proposals, {"loss_objectness": objectness, "loss_rpn_box_reg": boxes}

    def _judge(self, levels: Levels, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (R, 1 + classes) and box deltas (R, 4 * (1 + classes)) of all images' regions."""
        logits, regression = self.roi.box_predictor(self.roi.box_head(self.pool(levels, regions)))
        return logits, regression

    def pool(self, levels: Levels, regions: list[Tensor]) -> Tensor:
        """Features (R, C, 7, 7) of all images' regions (P, 4) xyxy px, each from the level that its size says."""
        moved = self._aligned(levels, regions)
        if all(mask is None for mask in levels.masks):
            return self._pool(levels.features, moved)
        # Pooling clamps to the edge of the grid, so every image has to come with a grid of its own.
        return torch.cat([self._pool(_own(levels, i), [own]) for i, own in enumerate(moved)])

    def _pool(self, features: list[Tensor], regions: list[Tensor]) -> Tensor:
        named = {str(level): each for level, each in enumerate(features)}
        pooled: Tensor = self.roi.box_roi_pool(named, regions, [])  # Sizes of images are for guessing strides.
        return pooled

    def _aligned(self, levels: Levels, regions: list[Tensor]) -> list[Tensor]:
        """Regions as torchvision's pooling wants them, for which cell i is centred on pixel i * stride."""
        if not levels.centre:
            return regions
        strides = torch.tensor(levels.strides, device=levels.sizes.device)
        offsets = strides[self.roi.box_roi_pool.map_levels(regions)] * levels.centre
        parts = torch.split(offsets, [len(own) for own in regions])
        return [own - offset[:, None] for own, offset in zip(regions, parts, strict=True)]

    def detect(self, output: DenseDetectorOutput) -> list[dict[str, Tensor]]:
        """`boxes` (M, 4) xyxy px, `scores`, `labels` of every image, best first, duplicates suppressed per class."""
        assert output.anchor_counts is not None and output.sizes is not None
        assert output.logits is not None and output.regression is not None and output.anchors is not None
        counts = output.anchor_counts.tolist()
        logits, regression, proposals = (
            [rows[:count].float() for rows, count in zip(padded, counts, strict=True)]
            for padded in (output.logits, output.regression, output.anchors)
        )
        found = self.roi.postprocess_detections(
            torch.cat(logits), torch.cat(regression), proposals, [tuple(size) for size in output.sizes.tolist()]
        )
        named = (dict(zip(("boxes", "scores", "labels"), image, strict=True)) for image in zip(*found, strict=True))
        return [{**image, "labels": image["labels"] - 1} for image in named]


def _pooling(strides: Sequence[int]) -> MultiScaleRoIAlign:
    """Pooling from levels of these strides, which torchvision would guess, wrongly from padded batches."""
    pool = MultiScaleRoIAlign([str(level) for level in range(len(strides))], _POOLED, sampling_ratio=2)
    pool.scales = [1.0 / stride for stride in strides]
    pool.map_levels = initLevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))
    return pool


def _own(levels: Levels, image: int) -> list[Tensor]:
    """The features (1, C, h, w) of one image, without those in its padding."""
    size = levels.sizes[image].tolist()
    grids = [[-(-side // stride) for side in size] for stride in levels.strides]
    return [
        features[image : image + 1, :, :height, :width]
        for features, (height, width) in zip(levels.features, grids, strict=True)
    ]
