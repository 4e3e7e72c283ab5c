"""Runs trained on pairs as they are, and on the differences that were made of them: the same run."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from dataflow.bridge.resize import ResizePolicy
from dataflow.bridge.view import View
from dataflow.errors import UsageError
from dataflow.images import RgbImage, encode_png
from dataflow.pairs.camera_motion import Movement, shake
from dataflow.pairs.motion_models import carry_boxes
from dataflow.pairs.registration import Method
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, FramePair, ImageRecord, Objects, Predictions, no_objects
from tests.factories import prepare
from tests.trainers.small_sets import write_dataset
from tests.trainers.tiny_recipes import TINY
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.pairs import open_pairs
from tfds_builders.formats.pairs_writer import PairsWriter
from trainers.detectors.detr import build_detr
from trainers.detectors.detr_configs import small_detr_config
from trainers.evaluation.evaluation import evaluate
from trainers.prediction.prediction import predict
from trainers.prediction.predictions import read_predictions, write_predictions
from trainers.recipes.recipe import AUGMENTATION, PHOTOGRAPH_AUGMENTATION
from trainers.training.runs import load_run, read_description
from trainers.training.training import train

SIZE = (96, 128)
MOVEMENT = Movement(shift_x=3, shift_y=-2, rotation=1)
RECIPE = replace(TINY, resize=ResizePolicy(48, 64), batch_size=2, steps=3)


def scene(seed: int) -> RgbImage:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (SIZE[0] // 4, SIZE[1] // 4, 3))
    return np.clip(np.kron(coarse, np.ones((4, 4, 1))) + rng.normal(0, 2, (*SIZE, 3)), 0, 255).astype(np.uint8)


def with_thing(frame: RgbImage, x: int, y: int) -> RgbImage:
    shown = frame.copy()
    shown[y : y + 20, x : x + 12] = (250, 20, 20)
    return shown


def moved_pair(index: int) -> FramePair:
    """Something that moved, while the camera moved too."""
    still, old, new = scene(index), (10 + index, 30), (70, 40 + index)
    moved = shake(with_thing(still, *new), MOVEMENT)
    boxes = [[x, y, x + 12, y + 20] for x, y in (old, new)]
    boxes[1] = carry_boxes([boxes[1]], moved.homography)[0].tolist()
    shown = {f"before{index}": with_thing(still, *old), f"after{index}": moved.pixels}
    frames = [
        ImageRecord(name, encode_png(pixels), *SIZE, no_objects(), f"scene{index}", "test", f"{name}.png")
        for name, pixels in shown.items()
    ]
    return FramePair(f"pair{index}", *frames, Objects(boxes, [0, 0], in_before=[True, False]))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "list").mkdir()
    writer = PairsWriter(folder / "list", Categories(("thing",)), ("train", "validation"))
    for index in range(6):
        writer.add(moved_pair(index), "train" if index < 4 else "validation")
    writer.close()
    return prepare(open_pairs(folder / "list"), folder / "out", "pairs")


@pytest.fixture(scope="module")
def stored(pairs: PreparedDataset) -> PreparedDataset:
    return made(pairs, "made", "features")


def made(pairs: PreparedDataset, name: str, align: Method) -> PreparedDataset:
    out = pairs.path.parents[1]
    return DifferencesBuilder(pairs, name=name, out=out, mode="signed", align=align, image_format="png").prepare()


@pytest.mark.parametrize("inputs", ["image", "stack", "frames"])
def test_a_run_is_the_same_on_pairs_and_on_their_differences(
    pairs: PreparedDataset, stored: PreparedDataset, tmp_path: Path, inputs: str
) -> None:
    mode = None if inputs == "frames" else "signed"
    on_the_way = train(pairs, RECIPE, tmp_path / "pairs", view=View(inputs, mode, "features"))  # type: ignore[arg-type]
    materialised = train(stored, replace(RECIPE, view=View(inputs)), tmp_path / "stored")  # type: ignore[arg-type]
    np.testing.assert_allclose(on_the_way.losses, materialised.losses, rtol=1e-5)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("pairs", "stored"))
    assert {name: tensor.shape for name, tensor in one.items()} == {name: t.shape for name, t in other.items()}
    assert load_run(tmp_path / "pairs").view == load_run(tmp_path / "stored").view == View(inputs, mode, "features")  # type: ignore[arg-type]
    found = []
    for name, dataset in (("p", pairs), ("s", stored)):
        predict(dataset, tmp_path / "stored", tmp_path / name)
        found.append(read_predictions(tmp_path / name))
    assert [items.align for items in found] == ["features", "none"]
    for image_id, items in found[0].by_image.items():
        np.testing.assert_allclose(items.boxes, found[1].by_image[image_id].boxes, atol=1e-3)
    assert sum(map(len, found[0].by_image.values())) > 0


def test_what_a_run_was_not_trained_on_is_refused(
    pairs: PreparedDataset, stored: PreparedDataset, tmp_path: Path
) -> None:
    train(stored, RECIPE, tmp_path / "run")
    unaligned = made(pairs, "unaligned", "none")
    with pytest.raises(UsageError, match="holds differences of align 'none', not 'features'"):
        predict(unaligned, tmp_path / "run", tmp_path / "p")


@pytest.mark.parametrize("inputs", ["stack", "frames"])
def test_detectors_of_the_detr_family_are_shown_two_images_too(
    pairs: PreparedDataset, tmp_path: Path, inputs: str
) -> None:
    """From random weights, and from those of a detector of one image; a stopped run goes on with the wider stem."""
    recipe = replace(RECIPE, build=partial(build_detr, config=small_detr_config))
    one = train(pairs, recipe, tmp_path / "one", view=View("image", "signed"))
    assert one.load_report == "weights: random throughout"
    view = View(inputs, None if inputs == "frames" else "signed")  # type: ignore[arg-type]
    wide = train(pairs, recipe, tmp_path / "wide", view=view, weights=str(tmp_path / "one"))
    assert "1 widened to more channels" in wide.load_report
    for path in (tmp_path / "wide").glob("*.*"):  # As if it had been stopped after its first checkpoint.
        if path.name != "run.json":
            path.unlink()
    checkpoints = sorted((tmp_path / "wide" / "checkpoints").iterdir())
    (checkpoints[-1] / "trainer_state.json").unlink()
    before = load_file(checkpoints[-1] / "model.safetensors")
    assert train(pairs, recipe, tmp_path / "wide", resume=True).first_step == 2
    after = load_file(tmp_path / "wide" / "model.safetensors")
    assert all(bool((before[name] == after[name]).all()) for name in after)
    predict(pairs, tmp_path / "wide", tmp_path / "predictions")
    assert sum(map(len, read_predictions(tmp_path / "predictions").by_image.values())) > 0
    with pytest.raises(UsageError, match=r"takes 6 channels, differences .* have 3; choose weights and --input"):
        train(pairs, recipe, tmp_path / "narrow", view=View("image", "signed"), weights=str(tmp_path / "wide"))


def test_a_run_goes_on_with_its_view_and_its_augmentation(pairs: PreparedDataset, tmp_path: Path) -> None:
    view = View("frames", None, "features")
    train(pairs, RECIPE, tmp_path / "whole", view=view, augment=True)
    train(pairs, RECIPE, tmp_path / "part", view=view, augment=True)
    for path in (tmp_path / "part").glob("*.*"):  # As if it had been stopped after its first checkpoint.
        if path.name != "run.json":
            path.unlink()
    checkpoints = sorted((tmp_path / "part" / "checkpoints").iterdir())
    (checkpoints[-1] / "trainer_state.json").unlink()
    resumed = train(pairs, RECIPE, tmp_path / "part", resume=True)
    assert resumed.first_step == 2
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert all(bool((one[name] == other[name]).all()) for name in one)
    kept = read_description(tmp_path / "part")["recipe"]
    assert kept["view"] == view.to_json()
    assert kept["augmentation"]["shake_px"] == AUGMENTATION.shake_px
    with pytest.raises(UsageError, match=r"view\.align was features, now none"):
        train(pairs, RECIPE, tmp_path / "part", resume=True, view=View("frames", None, "none"))


def test_old_places_are_compared_where_the_after_frame_has_them(pairs: PreparedDataset, tmp_path: Path) -> None:
    """Detections at the true places score 1; those at the places in the before frame's own pixels do not."""
    homography = MOVEMENT.homography(SIZE)

    def score(name: str, carry: bool) -> float:
        found = []
        for pair in pairs.pairs("validation"):
            boxes = pair.objects.boxes.copy()
            if carry:
                boxes[pair.objects.in_before] = carry_boxes(boxes[pair.objects.in_before], homography)
            found.append(Predictions(pair.pair_id, boxes, np.full(2, 0.9), [0, 0], "oracle"))
        options = {"run_id": "oracle", "dataset": pairs, "split": "validation", "align": "features"}
        write_predictions(tmp_path / name, found, **options)  # type: ignore[arg-type]
        figures = evaluate(pairs, read_predictions(tmp_path / name), "validation").figures
        return float(figures["AP75"] or 0)

    assert score("carried", carry=True) == pytest.approx(1.0)
    assert score("left", carry=False) < 0.6


def test_single_images_have_no_other_view(stored: PreparedDataset, tmp_path: Path) -> None:
    picture = ImageRecord("a", encode_png(scene(0)), *SIZE, Objects([[4, 8, 32, 30]], [1]), "scene", "test")
    images = write_dataset(tmp_path, {"train": [picture]})
    with pytest.raises(UsageError, match="holds single images: there is no difference to see"):
        train(images, RECIPE, tmp_path / "run", view=View("frames"))
    train(images, RECIPE, tmp_path / "augmented", augment=True, steps=1)
    kept = read_description(tmp_path / "augmented")["recipe"]["augmentation"]
    assert kept["crop"] == PHOTOGRAPH_AUGMENTATION.crop < 1 and kept["exposure"] > 0
    train(stored, RECIPE, tmp_path / "differences", augment=True, steps=1)
    kept = read_description(tmp_path / "differences")["recipe"]["augmentation"]
    assert kept["crop"] < 1 and kept["exposure"] == 0, "levels of a difference mean something"
    with pytest.raises(UsageError, match="cannot be augmented before its frames are compared"):
        train(images, replace(RECIPE, augmentation=AUGMENTATION), tmp_path / "shaken")
    train(images, replace(RECIPE, view=View("stack", "signed")), tmp_path / "plain", steps=1)
    run = load_run(tmp_path / "plain")
    assert run.view == View("image", None, "none")
    with pytest.raises(
        UsageError, match=r"was trained on images \(align none\): .* holds differences of align 'features'"
    ):
        run.check(stored)
