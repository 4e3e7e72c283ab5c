"""A step in parts has the gradient of the whole batch, whatever the parts hold."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection.fcos import FCOSHead
from transformers import TrainingArguments

from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.resize import FixedSize
from dataflow.prepared import PreparedDataset
from dataflow.records import Objects
from tests.trainers.small_sets import TWO_CLASSES, square_picture, write_dataset
from trainers.detectors import detr_configs
from trainers.detectors.dense import DenseDetectorConfig, build_dense
from trainers.detectors.dense_shapes import small_deit
from trainers.detectors.detr import build_detr
from trainers.detectors.normalisers import loss_counts
from trainers.recipes.recipe import Recipe
from trainers.training.detection_trainer import DetectionTrainer

SIZE = (64, 96)
OBJECTS = (0, 1, 6, 2)
"""Objects in the four images of the one batch."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rng = np.random.default_rng(0)
    records = []
    for n in OBJECTS:
        corner = np.stack([rng.integers(0, SIZE[1] - 30, n), rng.integers(0, SIZE[0] - 30, n)], axis=1)
        boxes = np.concatenate([corner, corner + rng.integers(10, 30, (n, 2))], axis=1)
        records.append(square_picture(f"image{n}", SIZE, Objects(boxes, rng.integers(0, 2, n))))
    return write_dataset(tmp_path_factory.mktemp("data"), {"train": records})


def dense(head: str = "fcos", **changes: Any) -> Callable[[], DenseDetectorConfig]:
    return lambda: DenseDetectorConfig(head=head, blocks=1, pyramid_channels=32, head_convolutions=1, **changes)


def without_chance(make: Callable[[], Any], **changes: Any) -> Callable[[], Any]:
    """A configuration without random denoising queries, and with few others."""

    def made() -> Any:
        config = make()
        for name, value in ({"num_denoising": 0, "num_queries": 30} | changes).items():
            setattr(config, name, value)
        return config

    return made


def with_frozen_norms(build: Any) -> Any:
    """Batch normalisation that trains sees its part of the batch alone."""

    def built(*args: Any, **kwargs: Any) -> Any:
        model, report = build(*args, **kwargs)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        return model, report

    return built


def of_detr(architecture: str, config: Callable[[], Any]) -> Any:
    return with_frozen_norms(partial(build_detr, config=config, train_early_layers=True, architecture=architecture))


BUILDERS: dict[str, Any] = {
    "fcos": partial(build_dense, config=dense()),
    "fcos_on_deit": partial(build_dense, config=small_deit),
    "retinanet": partial(build_dense, config=dense("retinanet")),
    "detr": of_detr("detr", detr_configs.small_detr_config),
    "yolos": of_detr("yolos", detr_configs.small_yolos_config),
    "conditional_detr": of_detr("conditional_detr", detr_configs.small_conditional_detr_config),
    "deformable_detr": of_detr("deformable_detr", detr_configs.small_deformable_detr_config),
    "rt_detr_v2": of_detr("rt_detr_v2", without_chance(detr_configs.small_rt_detr_v2_config)),
    "d_fine": of_detr("d_fine", without_chance(detr_configs.small_d_fine_config, weight_loss_ddf=0.0)),
}


def gradients(dataset: PreparedDataset, build: Any, out: Path, parts: int) -> dict[str, torch.Tensor]:
    """What the optimiser would be given for one batch of all images."""
    recipe = Recipe("tiny", build, FixedSize(*SIZE), batch_size=4, steps=1, learning_rate=1e-3, warm_up_steps=0)
    torch.manual_seed(0)
    model, _ = build(TWO_CLASSES, None)
    arguments = TrainingArguments(str(out), gradient_accumulation_steps=parts, max_steps=1, use_cpu=True)
    batches = BatchLoader(dataset, "train", recipe.resize, 4, training=True)
    trainer = DetectionTrainer(model, arguments, recipe, recipe.planned_stages()[0].stage, batches)
    samples, _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), parts, arguments.device)
    assert [len(inputs["image_ids"]) for inputs in samples] == [4 // parts] * parts
    trainer.current_gradient_accumulation_steps = parts
    for inputs in samples:
        trainer.training_step(model, inputs)
    named = ((name, parameter.grad) for name, parameter in model.named_parameters())
    return {name: grad for name, grad in named if grad is not None}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Norm of the difference, relative to the norm."""
    assert one.keys() == other.keys()
    joined = [torch.cat([grads[name].flatten() for name in sorted(one)]) for grads in (one, other)]
    return float((joined[0] - joined[1]).norm() / joined[0].norm())


@pytest.fixture(scope="module")
def whole(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The gradient of the whole batch, by the name of the detector; computed once."""
    out = tmp_path_factory.mktemp("whole")
    return cache(lambda name: gradients(dataset, BUILDERS[name], out, 1))


QUICK = ("fcos", "retinanet", "detr", "rt_detr_v2")
"""One of each way to divide a loss; the others are slow together."""


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        *(pytest.param(name, 2, marks=() if name in QUICK else pytest.mark.slow) for name in BUILDERS),
        *(pytest.param(name, 4, marks=pytest.mark.slow) for name in ("fcos", "detr")),
    ],
)
def test_parts_have_the_gradient_of_the_whole(name: str, parts: int, whole, dataset, tmp_path: Path) -> None:
    assert distance(whole(name), gradients(dataset, BUILDERS[name], tmp_path, parts)) < 1e-4


@pytest.mark.parametrize(
    "name",
    ["fcos", pytest.param("detr", marks=pytest.mark.slow), pytest.param("conditional_detr", marks=pytest.mark.slow)],
)
def test_the_mean_of_the_parts_is_another(name: str, whole, dataset, tmp_path: Path, monkeypatch) -> None:
    """What the numbers are for: with each part divided by its own, the gradient is far off."""
    monkeypatch.setattr(DetectionTrainer, "_share_of_whole", lambda self, outputs, inputs: outputs.loss)
    assert distance(whole(name), gradients(dataset, BUILDERS[name], tmp_path, 2)) > 0.02


@given(
    boxes=st.lists(st.tuples(*[st.floats(0, 1)] * 2, *[st.floats(0.01, 0.9)] * 2), max_size=6),
    size=st.tuples(st.integers(17, 90), st.integers(17, 90)),
)
@settings(max_examples=25, deadline=None)
def test_the_cells_that_fcos_trains_are_counted_as_torchvision_does(boxes, size) -> None:
    """Its loss says so: it is the sum over these cells, divided by their number."""
    torch.manual_seed(0)
    model, _ = build_dense(TWO_CLASSES, None, config=dense())
    labels = [{"class_labels": torch.zeros(len(boxes), dtype=torch.int64), "boxes": torch.tensor(boxes).view(-1, 4)}]
    pixels = torch.zeros(1, 3, *size)
    counted = []
    plain = FCOSHead.compute_loss

    def spied(self: Any, targets: Any, raw: Any, anchors: Any, matched: Any) -> Any:
        counted.append(sum(int((cells >= 0).sum()) for cells in matched))
        return plain(self, targets, raw, anchors, matched)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FCOSHead, "compute_loss", spied)
        model(pixel_values=pixels, labels=labels)
    assert loss_counts(model, {"pixel_values": pixels, "pixel_mask": None, "labels": labels}) == {"cells": counted[0]}


def test_queries_are_weighted_as_the_loss_weights_them() -> None:
    """DETR's class loss is a weighted mean: with logits of zero it is the log of the classes, whatever the weights."""
    config = detr_configs.small_detr_config()
    config.num_queries = 5
    model, _ = build_detr(TWO_CLASSES, None, lambda: config, True)
    labels = [
        {"class_labels": torch.zeros(n, dtype=torch.int64), "boxes": torch.rand(n, 4) / 2 + 0.2} for n in (0, 7, 2)
    ]
    counts = loss_counts(model, {"labels": labels})
    assert counts == {"boxes": 9, "queries": pytest.approx(7 + 0.1 * 8)}
