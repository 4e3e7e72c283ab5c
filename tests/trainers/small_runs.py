"""A small run, as training leaves it, for tests of what comes after training."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dataflow.bridge.resize import ResizePolicy
from dataflow.bridge.view import View
from dataflow.prepared import PreparedDataset
from tests.trainers.tiny_recipes import TINY, tiny_dense_config
from trainers.detectors.dense import build_dense
from trainers.training.runs import describe_run, image_processor, save_model, write_description

RECIPE = replace(
    TINY,
    name="tiny",
    build=partial(build_dense, config=lambda: tiny_dense_config(score_threshold=0.0)),
    resize=ResizePolicy(48, 80),
    batch_size=2,
    view=View("image", None, "none"),
)


def write_run(out: Path, dataset: PreparedDataset, seed: int = 0) -> Path:
    """A finished run with random weights of this seed, whose detections are spread over the image."""
    torch.manual_seed(seed)
    model, report = RECIPE.build(dataset.categories, None)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(10)
    description = describe_run(
        dataset, RECIPE, split="train", seed=seed, weights=None, weights_identity=report.identity
    )
    out.mkdir(exist_ok=True)
    write_description(out, description)
    save_model(out, model, image_processor(RECIPE))
    return out
