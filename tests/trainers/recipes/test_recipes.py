"""Recipes: found by name, complete, and their builders fit the dataset's classes."""

import json
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest
import torch

from dataflow.bridge.padding import PadToSize
from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, Resize, ResizePolicy
from dataflow.errors import UsageError
from dataflow.records import Categories
from tests.trainers.small_sets import squares, write_dataset
from trainers.detectors.detr import ARCHITECTURES
from trainers.prediction.prediction import predict
from trainers.prediction.predictions import read_predictions
from trainers.recipes.catalogue import RECIPES, find_recipe
from trainers.recipes.dense import (
    dense_cnn_small,
    dense_deit,
    dense_diffusion_dit,
    dense_document_dit,
    faster_rcnn_r50,
    faster_rcnn_small,
)
from trainers.recipes.detr import detr_r50_staged, detr_small, detr_small_staged
from trainers.recipes.recipe import Recipe
from trainers.training.training import train

CATEGORIES = Categories(("person", "car", "dog"))
EVERY = tuple(make() for make in RECIPES)


@pytest.mark.parametrize("make", RECIPES, ids=lambda make: make.__name__)
def test_a_recipe_is_found_by_its_name(make):
    recipe = make()
    assert recipe.name == make.__name__
    assert find_recipe(recipe.name).settings() == recipe.settings()


def test_an_unknown_name_lists_the_alternatives():
    with pytest.raises(
        UsageError, match=r"no recipe 'dert'; choose --recipe among dense_cnn_small, .*detr_r50, .*detr_small"
    ):
        find_recipe("dert")


def test_a_recipe_is_a_value():
    recipe = dense_cnn_small()
    longer = replace(recipe, steps=7)
    assert (recipe.steps, longer.steps) == (200, 7)
    assert longer.build is recipe.build
    with pytest.raises(FrozenInstanceError):
        recipe.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("field", ["steps", "batch_size", "checkpoint_steps"])
def test_no_steps_and_no_images_are_refused(field: str):
    with pytest.raises(UsageError, match=f"recipe detr_small: {field} is 0"):
        replace(detr_small(), **{field: 0})


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_settings_are_json_and_all_that_decides_a_run(recipe: Recipe):
    settings = recipe.settings()
    assert json.loads(json.dumps(settings)) == settings
    assert set(settings) == set(Recipe.__dataclass_fields__) - {"build"}
    assert settings["resize"] == asdict(recipe.resize)


def test_settings_tell_sizes_and_canvases_apart():
    policies: list[Resize] = [detr_small().resize, FixedSize(416, 416), LongestEdge(416), KeepSize()]
    settings = [replace(detr_small(), resize=policy, pad=PadToSize(416, 416)).settings() for policy in policies]
    assert [each["resize"] for each in settings] == [
        {"shortest_edge": 256, "longest_edge": 416},
        {"height": 416, "width": 416},
        {"longest_edge": 416},
        {},
    ]
    assert settings[0]["pad"] == {"height": 416, "width": 416}
    assert detr_small().settings()["pad"] == {"multiple_of": 1}
    assert json.loads(json.dumps(settings)) == settings


@pytest.mark.parametrize("recipe", [r for r in EVERY if r.weights is None], ids=lambda recipe: recipe.name)
def test_a_recipe_that_needs_no_weights_builds_a_model_that_trains_throughout(recipe: Recipe):
    model, report = recipe.build(CATEGORIES, recipe.weights)
    assert str(report) == "weights: random throughout"
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "person", 1: "car", 2: "dog"}
    # D-FINE keeps two constants of its box distributions among its parameters.
    assert {n for n, p in model.named_parameters() if not p.requires_grad} <= {
        "model.decoder.up",
        "model.decoder.reg_scale",
    }
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    assert sum(parameter.numel() for parameter in model.parameters()) < 4_000_000


OF_DETR = [r for r in EVERY if r.weights is not None and "dense" not in r.name and "rcnn" not in r.name]


@pytest.mark.parametrize("recipe", OF_DETR, ids=lambda recipe: recipe.name)
def test_a_recipe_for_fine_tuning_wants_weights(recipe: Recipe):
    assert recipe.weights.count("/") == 1
    assert recipe.clip_norm == 0.1
    with pytest.raises(UsageError, match="wants weights to start from"):
        recipe.build(CATEGORIES, None)


@pytest.mark.parametrize(
    "recipe", [r for r in EVERY if isinstance(r.resize, FixedSize)], ids=lambda recipe: recipe.name
)
def test_images_of_one_size_are_whole_strides(recipe: Recipe):
    """So the canvas is all image."""
    kind = ARCHITECTURES[recipe.build.keywords["architecture"]]
    assert not kind.heeds_mask
    assert recipe.resize.height % kind.multiple_of == recipe.resize.width % kind.multiple_of == 0


def test_what_takes_padding_for_picture_is_shown_images_of_one_size():
    fixed = {recipe.name for recipe in EVERY if isinstance(recipe.resize, FixedSize)}
    assert fixed == {"rt_detr_v2_small", "d_fine_small", "yolos_small", "rt_detr_v2_r18", "d_fine_n", "yolos_tiny"}


@pytest.mark.parametrize("recipe", [r for r in EVERY if r.weights is None], ids=lambda recipe: recipe.name)
def test_a_small_recipe_trains_and_predicts(recipe: Recipe, tmp_path: Path):
    """On images of two shapes, one step, and then fine-tunes what it made for other classes."""
    dataset = write_dataset(tmp_path / "data", {"train": list(squares(6)), "validation": list(squares(3))})
    fixed = isinstance(recipe.resize, FixedSize)
    recipe = replace(recipe, resize=FixedSize(128, 192) if fixed else ResizePolicy(64, 96))
    first = train(dataset, recipe, tmp_path / "run", steps=max(1, len(recipe.stages)), batch_size=2)
    assert first.load_report == "weights: random throughout"
    predict(dataset, tmp_path / "run", tmp_path / "predictions")
    found = read_predictions(tmp_path / "predictions").by_image
    assert len(found) == 3
    others = replace(dataset.categories, names=("blue", "black"))
    tuned, report = recipe.build(others, str(tmp_path / "run"))
    assert tuned.config.id2label == {0: "blue", 1: "black"}
    assert report.loaded and report.reinitialised and not report.left_over


@pytest.mark.parametrize(
    ("make", "weights"),
    [
        (dense_deit, "facebook/deit-base-distilled-patch16-224"),
        (dense_document_dit, "microsoft/dit-base"),
        (dense_diffusion_dit, "facebook/DiT-XL-2-256"),
        (faster_rcnn_r50, "microsoft/resnet-50"),
    ],
)
def test_fine_tuning_starts_from_published_backbones_and_trains_them_slowly(make, weights: str):
    recipe = make()
    assert recipe.weights == weights
    assert recipe.backbone_learning_rate is not None
    assert recipe.backbone_learning_rate < recipe.learning_rate <= 1e-4


def test_faster_rcnn_is_fine_tuned_after_a_long_warm_up():
    assert faster_rcnn_r50().warm_up_steps == 500
    assert faster_rcnn_r50().steps >= 1000  # A warm-up takes at most half of the steps.
    assert faster_rcnn_small().weights is None


def test_detr_is_fine_tuned_in_three_stages():
    for make in (detr_r50_staged, detr_small_staged):
        stages = make().planned_stages()
        assert sum(planned.steps for planned in stages) == make().steps
        assert [planned.stage.trains for planned in stages] == [("head",), ("all",), ("all",)]
        assert all(planned.stage.cycles > 1 for planned in stages)
        assert make().learning_rate == max(planned.stage.learning_rate for planned in stages)
    assert [stage.learning_rate for stage in detr_r50_staged().stages[1:]] == [5e-5, 1e-5]
