"""Preflight: what it finds on sound data, and every fault that it must not pass over."""

import json
import mmap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dataflow.bridge.resize import FixedSize
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, Objects
from tests.trainers.small_sets import TWO_CLASSES, square_picture, squares, write_dataset
from tests.trainers.tiny_recipes import TINY
from trainers.cli import main
from trainers.detectors.detectors import ClassHead, Reach, class_head, reach
from trainers.preflight import preflight as module
from trainers.preflight.checks import Check, Truth, check_boxes, check_classes, read_truth
from trainers.preflight.preflight import NotReadyError, preflight
from trainers.recipes.catalogue import RECIPES
from trainers.recipes.recipe import Recipe
from trainers.recipes.stages import Stage
from trainers.training import training
from trainers.training.detection_trainer import parameter_groups
from trainers.training.memory import free_bytes, held_bytes, peak_bytes, reset_peak
from trainers.training.training import TrainingSummary, train

CPU = torch.device("cpu")
SHORT = replace(TINY, steps=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    splits = {"train": list(squares(10)), "validation": list(squares(1)), "nothing": []}
    return write_dataset(tmp_path_factory.mktemp("data"), splits)


def by_name(found: module.Preflight) -> dict[str, Check]:
    return {check.name: check for check in found.checks}


def test_sound_data_and_a_sound_recipe_are_ready(dataset: PreparedDataset) -> None:
    found = preflight(dataset, SHORT.asked(dataset))
    found.require()
    checks = by_name(found)
    assert list(checks) == ["classes", "boxes", "parameters", "overfit", "memory", "speed"]
    model, _ = SHORT.build(TWO_CLASSES, None)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert checks["parameters"].figures["parameters"] == checks["parameters"].figures["trainable"] == count
    assert sum(row["parameters"] for row in checks["parameters"].figures["stages"][0]["parts"]) == count
    memory = checks["memory"].figures
    assert (memory["parameters"], memory["gradients"], memory["optimiser"]) == (4 * count, 4 * count, 8 * count)
    assert checks["overfit"].figures["loss_after"] < checks["overfit"].figures["loss_before"]
    assert len(checks["overfit"].figures["losses"]) == 15
    speed = checks["speed"].figures
    assert speed["bottleneck"] == (
        "loader" if speed["loader_images_per_second"] < speed["step_images_per_second"] else "step"
    )
    slowest = min(speed["loader_images_per_second"], speed["step_images_per_second"])
    assert speed["estimated_seconds"] >= SHORT.steps * SHORT.batch_size / slowest
    assert json.loads(json.dumps(found.to_json()))["checks"][0]["figures"]["classes"] == ["red", "green"]
    assert list(found.lines())[-1].startswith("ready to train")


def test_boxes_are_measured_in_the_resized_image(dataset: PreparedDataset) -> None:
    """Squares of 12 px in images of 32x48 and 40x32 px, stretched to 64x64."""
    truth = read_truth(dataset, "train", replace(SHORT, resize=FixedSize(64, 64)))
    wide, tall = 12 * (64 / 32 * 64 / 48) ** 0.5, 12 * (64 / 40 * 64 / 32) ** 0.5
    shapes = [wide if int(truth.image_ids[owner].removeprefix("image")) % 2 else tall for owner in truth.owners]
    np.testing.assert_allclose(truth.sides, shapes)
    assert truth.counts.tolist() == [int(name.removeprefix("image")) % 3 for name in truth.image_ids]


FROM_NOTHING = [recipe for recipe in (make() for make in RECIPES) if recipe.weights is None]


@pytest.mark.parametrize("recipe", FROM_NOTHING, ids=lambda recipe: recipe.name)
def test_heads_and_limits_of_every_recipe_from_random_weights(recipe: Recipe) -> None:
    """Against the papers and the libraries' documentation, written out."""
    model, _ = recipe.build(Categories(("a", "b", "c", "d")), None)
    model.eval()
    with torch.no_grad():
        output = model(pixel_values=torch.zeros(1, 3, 128, 192), pixel_mask=torch.ones(1, 128, 192, dtype=torch.bool))
    heads = {"faster_rcnn_small": (5, 0), "detr_small": (5, 4), "detr_small_staged": (5, 4), "yolos_small": (5, 4)}
    assert class_head(model, output) == ClassHead(*heads.get(recipe.name, (4, None)))
    expected = {
        "dense_diffusion_dit_small": Reach(4),
        "faster_rcnn_small": Reach(8, anchor=32),
        "retinanet_small": Reach(8, anchor=32),
        "detr_small": Reach(32, queries=100),
        "detr_small_staged": Reach(32, queries=100),
        "conditional_detr_small": Reach(32, queries=100),
        "deformable_detr_small": Reach(8, queries=50),
        "rt_detr_v2_small": Reach(8, queries=300),
        "d_fine_small": Reach(8, queries=300),
        "yolos_small": Reach(16, queries=50),
    }
    assert reach(model) == expected.get(recipe.name, Reach(8))


def truth_of(*sides: float, counts: tuple[int, ...] | None = None, ids: tuple[int, ...] | None = None) -> Truth:
    counts = counts or (len(sides),)
    return Truth(
        np.array(sides),
        np.array(ids or (0,) * len(sides), np.int64),
        np.array(counts),
        tuple(f"i{n}" for n in range(len(counts))),
        np.repeat(np.arange(len(counts)), counts),
        len(counts),
    )


@pytest.mark.parametrize(
    ("truth", "limits", "level", "said"),
    [
        (truth_of(20, 30), Reach(8, anchor=32, queries=2), "note", "50.0% overlap no anchor by half"),
        (truth_of(23, 30), Reach(8, anchor=32, queries=2), "good", "23 to 30 px"),
        (truth_of(7, 30, counts=(1, 1)), Reach(8), "note", "the smallest, 7.0 px, is in i0"),
        (truth_of(9, 30), Reach(8, queries=1), "note", "1 images have more objects than there are queries"),
        (truth_of(counts=(0, 0)), Reach(8), "bad", "no object in the 2 images"),
    ],
)
def test_boxes_beyond_the_reach_of_the_detector(truth: Truth, limits: Reach, level: str, said: str) -> None:
    check = check_boxes(truth, limits)
    assert check.level == level
    assert said in " ".join((check.says, *check.details))


def test_a_head_for_other_classes_is_refused() -> None:
    model, _ = SHORT.build(Categories(("red", "green", "blue")), None)
    check = check_classes(TWO_CLASSES, truth_of(9, 9, ids=(0, 1)), model, ClassHead(3, None))
    assert check.level == "bad"
    assert "3 outputs for red, green, blue; 2 classes (red, green) want 2" in check.says
    named = SimpleNamespace(config=SimpleNamespace(num_labels=2, id2label={0: "red", 1: "green"}))
    assert check_classes(TWO_CLASSES, truth_of(9, 9, ids=(0, 1)), named, ClassHead(2, 1)).level == "bad"  # type: ignore[arg-type]
    assert check_classes(TWO_CLASSES, truth_of(9, 9, ids=(0, 1)), named, ClassHead(3, 2)).level == "good"  # type: ignore[arg-type]


def test_classes_without_objects_are_named(dataset: PreparedDataset) -> None:
    model, _ = SHORT.build(TWO_CLASSES, None)
    check = check_classes(TWO_CLASSES, truth_of(9), model, ClassHead(2, None))
    assert (check.level, check.figures["objects"]) == ("note", {"red": 1, "green": 0})
    assert "no object of green" in check.says


def test_a_loss_that_does_not_fall_is_refused_with_its_images(dataset: PreparedDataset) -> None:
    found = preflight(dataset, replace(SHORT, learning_rate=0.0, weight_decay=0.0).asked(dataset), steps=4)
    with pytest.raises(
        NotReadyError, match=r"overfit: the loss of one batch .* does not fall \(images image\d"
    ) as told:
        found.require()
    assert told.value.exit_status == 1
    assert not any("ready" in line for line in found.lines())


@pytest.mark.parametrize("rate", [1e20, 1e30])
def test_a_loss_that_is_no_number_is_refused_with_its_images(dataset: PreparedDataset, rate: float) -> None:
    found = preflight(dataset, replace(SHORT, learning_rate=rate, clip_norm=1e30).asked(dataset))
    overfit = by_name(found)["overfit"]
    assert overfit.level == "bad"
    assert "the loss is" in overfit.says and "image" in overfit.says
    assert "--learning-rate" in overfit.remedy


def test_a_model_of_which_nothing_trains_is_refused(dataset: PreparedDataset) -> None:
    def frozen(categories, weights, *, view):
        model, report = SHORT.build(categories, weights, view=view)
        return model.requires_grad_(False), report

    found = preflight(dataset, replace(SHORT, build=frozen).asked(dataset))
    assert [check.name for check in found.bad] == ["parameters"]
    assert found.bad[0].says == "none of them train"


def test_frozen_parts_and_slow_ones_are_told_apart(dataset: PreparedDataset) -> None:
    def part_frozen(categories, weights, *, view):
        model, report = SHORT.build(categories, weights, view=view)
        model.pyramid.requires_grad_(False)
        return model, report

    recipe = replace(SHORT, build=part_frozen, backbone_learning_rate=1e-5).asked(dataset)
    parts = {
        row["part"]: row for row in by_name(preflight(dataset, recipe))["parameters"].figures["stages"][0]["parts"]
    }
    assert parts["backbone"]["learning_rates"] == [1e-5]
    assert parts["head"]["learning_rates"] == [2e-3]
    assert parts["pyramid"]["trainable"] == 0 and parts["pyramid"]["learning_rates"] == []
    model, _ = part_frozen(TWO_CLASSES, None, view=recipe.view)
    stage = recipe.planned_stages()[0].stage
    trained = sum(p.numel() for group in parameter_groups(model, stage, 0.1) for p in group["params"])
    assert sum(row["trainable"] for row in parts.values()) == trained


def test_stages_are_told_apart_and_the_heaviest_is_tried(dataset: PreparedDataset) -> None:
    """Only the head, then everything with a slower backbone: memory is that of the second, in halves of the batch."""
    stages = (
        Stage(3e-3, trains=("head",), share=3),
        Stage(1e-3, rates=(("backbone", 1e-4),), share=1),
    )
    recipe = replace(SHORT, batch_size=4, accumulate=2, ema=0.99, bf16=True, steps=8, stages=stages).asked(dataset)
    checks = by_name(preflight(dataset, recipe))
    model, _ = recipe.build(TWO_CLASSES, None, view=recipe.view)
    count = sum(parameter.numel() for parameter in model.parameters())
    head, whole = checks["parameters"].figures["stages"]
    assert (head["steps"], whole["steps"], whole["trainable"]) == (6, 2, count)
    rates = {row["part"]: row["learning_rates"] for row in whole["parts"]}
    assert rates == {"backbone": [1e-4], "pyramid": [1e-3], "head": [1e-3]}
    frozen = {row["part"]: row["trainable"] for row in head["parts"]}
    assert frozen["backbone"] == 0 < frozen["head"] == head["trainable"]
    memory = checks["memory"].figures
    assert (memory["gradients"], memory["optimiser"], memory["average"]) == (4 * count, 8 * count, 4 * count)
    assert checks["overfit"].level == "good"
    told = checks["parameters"].details
    assert told[0] == f"stage 1, 6 steps: {head['trainable'] / 1e6:.2f} M train"
    assert told[1].startswith("  backbone: ") and told[1].endswith(", frozen")


def test_a_model_that_cannot_fit_is_not_tried(dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda device: 1000)
    found = preflight(dataset, SHORT.asked(dataset))
    assert [check.name for check in found.bad] == ["memory"]
    assert "need" in found.bad[0].says and "--batch-size" in found.bad[0].remedy


def test_splits_without_images_and_without_objects(dataset: PreparedDataset) -> None:
    with pytest.raises(UsageError, match=r"split 'nothing' .* is empty"):
        preflight(dataset, SHORT.asked(dataset), split="nothing")
    found = preflight(dataset, replace(SHORT, batch_size=1).asked(dataset), split="validation", steps=2)
    assert "boxes" in [check.name for check in found.bad]
    with pytest.raises(UsageError, match="at least 2"):
        preflight(dataset, SHORT.asked(dataset), steps=1)


def test_training_is_the_same_after_preflight(dataset: PreparedDataset, tmp_path: Path) -> None:
    train(dataset, SHORT, tmp_path / "without")
    preflight(dataset, SHORT.asked(dataset), steps=2)
    train(dataset, SHORT, tmp_path / "after")
    runs = [load_file(tmp_path / name / "model.safetensors") for name in ("without", "after")]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts a peak that can be reset")
def test_memory_is_what_is_allocated() -> None:
    size = 200_000_000
    before = held_bytes(CPU)
    reset_peak(CPU)
    # Not an array: malloc may keep what an array gives back.
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, mmap.PAGESIZE):
        area[at] = 1
    assert before is not None and 0.99 * size < peak_bytes(CPU) - before < 1.2 * size  # type: ignore[operator]
    area.close()
    reset_peak(CPU)
    assert peak_bytes(CPU) - before < 0.2 * size  # type: ignore[operator]
    assert free_bytes(CPU) > 0  # type: ignore[operator]


class TestCommandLine:
    @pytest.fixture
    def large(self, tmp_path: Path) -> PreparedDataset:
        """Images that a recipe of 480 px need not magnify much."""
        objects = Objects([[20, 20, 60, 70], [100, 50, 140, 90]], [0, 1])
        records = [square_picture(f"image{n}", (120, 160), objects) for n in range(3)]
        return write_dataset(tmp_path, {"train": records})

    def test_it_prints_what_it_found(self, large: PreparedDataset, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["preflight", str(large.path), "--recipe", "dense_cnn_small", "--batch-size", "1"]
        assert main([*words, "--trial-steps", "5"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].startswith("dense_cnn_small on squares, train, ")
        assert "good: classes: the head has 2 outputs for 2 classes (red, green)" in printed[1]
        assert printed[-1].startswith("ready to train")
        assert main([*words, "--trial-steps", "5", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["recipe"] == "dense_cnn_small"

    @pytest.mark.parametrize(
        ("words", "looks"),
        [
            (["--steps", "499"], False),
            (["--steps", "500"], True),
            (["--steps", "500", "--no-preflight"], False),
            (["--steps", "1", "--preflight"], True),
            (["--steps", "500", "--resume"], False),
        ],
    )
    def test_training_looks_first_where_it_is_long(
        self, words: list[str], looks: bool, dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = []
        summary = TrainingSummary(tmp_path, "r", "dense_cnn_small", 1, 0, 8, 1.0, 8.0, ((1, 1.0),), (), 1, 1, 1, "")
        found = SimpleNamespace(lines=list, require=lambda: None)
        monkeypatch.setattr(module, "preflight", lambda *_, **__: done.append("preflight") or found)
        monkeypatch.setattr(training, "train", lambda *_, **__: done.append("train") or summary)
        recipe = ["--recipe", "dense_cnn_small", "--out", str(tmp_path / "run")]
        assert main(["train", str(dataset.path), *recipe, *words]) == 0
        assert done == (["preflight"] if looks else []) + ["train"]

    def test_what_is_not_ready_is_not_trained(
        self, dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["train", str(dataset.path), "--split", "validation", "--recipe", "dense_cnn_small", "--preflight"]
        assert main([*words, "--batch-size", "1", "--out", str(tmp_path / "run")]) == 1
        told = capsys.readouterr().err
        assert "not ready to train: boxes: there is no object in the 1 images" in told
        assert not (tmp_path / "run").exists()
