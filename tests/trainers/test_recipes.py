"""Recipes: found by name, complete, and their builders fit the dataset's classes."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from dataflow.errors import UsageError
from dataflow.padding import PadToSize
from dataflow.records import Categories
from dataflow.resize import FixedSize, KeepSize, LongestEdge, Resize
from trainers.recipes import (
    Recipe,
    dense_cnn_small,
    dense_deit,
    dense_deit_small,
    dense_diffusion_dit,
    dense_diffusion_dit_small,
    dense_document_dit,
    dense_document_dit_small,
    detr_r50,
    detr_small,
    faster_rcnn_r50,
    faster_rcnn_small,
    find_recipe,
    retinanet_small,
)

CATEGORIES = Categories(("person", "car", "dog"))
FRESH = [
    detr_small,
    dense_cnn_small,
    dense_deit_small,
    dense_document_dit_small,
    dense_diffusion_dit_small,
    faster_rcnn_small,
    retinanet_small,
]
PUBLISHED = [detr_r50, dense_deit, dense_document_dit, dense_diffusion_dit, faster_rcnn_r50]


@pytest.mark.parametrize("make", FRESH + PUBLISHED)
def test_a_recipe_is_found_by_its_name(make):
    recipe = make()
    assert recipe.name == make.__name__
    assert find_recipe(recipe.name).settings() == recipe.settings()


def test_an_unknown_name_lists_the_alternatives():
    with pytest.raises(
        UsageError, match=r"no recipe 'dert'; choose --recipe among detr_r50, detr_small, dense_cnn_small"
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


@pytest.mark.parametrize("recipe", [make() for make in FRESH + PUBLISHED], ids=lambda recipe: recipe.name)
def test_settings_are_json_and_all_that_decides_a_run(recipe: Recipe):
    settings = recipe.settings()
    assert json.loads(json.dumps(settings)) == settings
    assert set(settings) == set(Recipe.__dataclass_fields__) - {"build"}
    assert settings["resize"] == {
        "shortest_edge": recipe.resize.shortest_edge,
        "longest_edge": recipe.resize.longest_edge,
    }


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


@pytest.mark.parametrize("recipe", [make() for make in FRESH], ids=lambda recipe: recipe.name)
def test_a_recipe_that_needs_no_weights_builds_a_model_that_trains_throughout(recipe: Recipe):
    model, report = recipe.build(CATEGORIES, recipe.weights)
    assert str(report) == "weights: random throughout"
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "person", 1: "car", 2: "dog"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    assert sum(parameter.numel() for parameter in model.parameters()) < 4_000_000


def test_detr_r50_starts_from_the_published_weights():
    recipe = detr_r50()
    assert recipe.weights == "facebook/detr-resnet-50"
    with pytest.raises(UsageError, match="wants weights to start from"):
        recipe.build(CATEGORIES, None)


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
