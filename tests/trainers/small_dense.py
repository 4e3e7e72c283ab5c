"""Small dense detectors, labels for them, and what tests of them have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dataflow.records import Categories
from trainers.detectors.dense import DenseDetector, DenseDetectorConfig, Head
from trainers.detectors.detections import Detections

CATEGORIES = Categories(("person", "car", "dog"))
INPUTS = [{"num_channels": 3}, {"num_channels": 6}, {"num_channels": 6, "compares_frames": True}]
HEADS: tuple[Head, ...] = ("fcos", "retinanet", "faster_rcnn")
each_input = pytest.mark.parametrize("inputs", INPUTS, ids=["image", "stack", "pair"])


def small(**changes: Any) -> DenseDetectorConfig:
    shape = {"widths": (8, 8, 16, 16), "blocks": 1, "pyramid_channels": 32, "groups": 4, "head_convolutions": 1}
    return DenseDetectorConfig(num_labels=3, **(shape | {"box_head_width": 32} | changes))


def make_model(head: Head = "fcos", seed: int = 0, **changes: Any) -> DenseDetector:
    torch.manual_seed(seed)
    model = DenseDetector(small(head=head, **changes)).eval()
    with torch.no_grad():  # Large enough for differences to show.
        for module in model.head.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(20 if head == "fcos" else 5)
    return model


def random_labels(*counts: int) -> list[dict[str, Tensor]]:
    labels = []
    for count in counts:
        extent = 0.1 + 0.3 * torch.rand(count, 2)
        centre = extent / 2 + (1 - extent) * torch.rand(count, 2)
        labels.append({"class_labels": torch.randint(3, (count,)), "boxes": torch.cat([centre, extent], dim=1)})
    return labels


def padded(images: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    pixels = torch.zeros(len(images), len(images[0]), height, width)
    mask = torch.zeros(len(images), height, width, dtype=torch.bool)
    for i, image in enumerate(images):
        pixels[i, :, : image.shape[1], : image.shape[2]] = image
        mask[i, : image.shape[1], : image.shape[2]] = True
    return pixels, mask


def overfit(model: DenseDetector, pixels: Tensor, labels: Sequence[Mapping[str, Tensor]]) -> None:
    """Train on one batch until its loss has fallen."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        output = model(pixels, labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.4 * losses[0]


def check_same(found: Sequence[Detections], again: Sequence[Detections]) -> None:
    """Each image has detections, and the very same ones."""
    for one, other in zip(found, again, strict=True):
        assert len(one.boxes) > 0
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.labels, other.labels)
