"""A small run, as training leaves it, for tests of what comes after training."""

from functools import partial
from pathlib import Path

import torch

from dataflow.prepared import PreparedDataset
from dataflow.resize import ResizePolicy
from dataflow.view import View
from trainers.dense import DenseDetectorConfig, build_dense
from trainers.recipe import Recipe
from trainers.runs import describe_run, image_processor, save_model, write_description

RECIPE = Recipe(
    name="tiny",
    build=partial(
        build_dense,
        config=lambda: DenseDetectorConfig(
            widths=(8, 8, 8, 8), blocks=1, pyramid_channels=32, groups=4, head_convolutions=1, score_threshold=0.0
        ),
    ),
    resize=ResizePolicy(48, 80),
    batch_size=2,
    steps=1,
    learning_rate=1e-3,
    warm_up_steps=0,
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
