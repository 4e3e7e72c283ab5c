"""How images are made is kept with a run: in Hugging Face's words, for its processor and for our prediction alike."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor

from dataflow.bridge.batches import normalise
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.padding import TO_LARGEST, Padding, PadToLargest, PadToSize
from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, Resize, ResizePolicy
from dataflow.errors import UsageError
from dataflow.images import decode_rgb
from dataflow.prepared import PreparedDataset
from dataflow.records import Objects
from tests.trainers import small_runs
from tests.trainers.small_sets import square_picture, write_dataset
from trainers.prediction.prediction import predict, predict_batch
from trainers.prediction.predictions import read_predictions
from trainers.recipes.recipe import Recipe
from trainers.training.runs import describe_run, image_processor, load_run, save_model, write_description

SIZES = ((64, 96), (90, 40), (33, 57))
RECIPE = replace(small_runs.RECIPE, batch_size=3)
CHOICES: list[tuple[Resize, Padding]] = [
    (ResizePolicy(48, 80), TO_LARGEST),
    (FixedSize(64, 48), TO_LARGEST),
    (LongestEdge(77), PadToSize(80, 96)),
    (KeepSize(), PadToLargest(multiple_of=32)),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    objects = Objects([[4, 8, 32, 30]], [1])
    records = [square_picture(f"image {i}", size, objects) for i, size in enumerate(SIZES)]
    return write_dataset(tmp_path_factory.mktemp("data"), {"validation": records})


def write_run(dataset: PreparedDataset, out: Path, recipe: Recipe) -> Path:
    """A run as training leaves it, with random weights."""
    out.mkdir()
    torch.manual_seed(0)
    model, report = recipe.build(dataset.categories, None)
    description = describe_run(dataset, recipe, split="train", seed=0, weights=None, weights_identity=report.identity)
    write_description(out, description)
    save_model(out, model, image_processor(recipe))
    return out


@pytest.mark.parametrize(("resize", "pad"), CHOICES, ids=str)
def test_a_loaded_run_and_hugging_face_make_the_images_it_was_trained_on(
    dataset, tmp_path: Path, resize: Resize, pad: Padding
):
    path = write_run(dataset, tmp_path / "run", replace(RECIPE, resize=resize, pad=pad))
    run = load_run(path)
    assert (run.resize, run.pad) == (resize, pad)
    (batch,) = BatchLoader(dataset, "validation", resize, 3, training=False, pad=pad)
    values = normalise(batch.pixel_values, batch.pixel_mask, run.mean, run.std)
    images = {record.image_id: decode_rgb(record.image) for record in dataset.records("validation")}
    theirs = AutoImageProcessor.from_pretrained(path)([images[i] for i in batch.image_ids], return_tensors="pt")
    height, width = theirs["pixel_mask"].shape[1:]  # Of a multiple it knows nothing: there, ours has more padding.
    assert ((height, width) == values.shape[-2:]) == (pad != PadToLargest(multiple_of=32))
    assert torch.equal(values[..., :height, :width], theirs["pixel_values"])
    assert torch.equal(batch.pixel_mask[:, :height, :width], theirs["pixel_mask"].bool())


@pytest.mark.parametrize(("resize", "pad"), CHOICES, ids=str)
def test_prediction_is_at_the_size_and_on_the_canvas_of_the_run(dataset, tmp_path: Path, resize: Resize, pad: Padding):
    path = write_run(dataset, tmp_path / "run", replace(RECIPE, resize=resize, pad=pad))
    predict(dataset, path, tmp_path / "out")
    (batch,) = BatchLoader(dataset, "validation", resize, 3, training=False, pad=pad)
    run = load_run(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run.model.to(device)
    written = read_predictions(tmp_path / "out").by_image
    for expected in predict_batch(run, batch):
        found = written[expected.image_id]
        assert len(found) > 0
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_prediction_names_an_image_that_the_canvas_of_the_run_does_not_hold(dataset, tmp_path: Path):
    path = write_run(dataset, tmp_path / "run", replace(RECIPE, resize=KeepSize(), pad=PadToSize(90, 57)))
    with pytest.raises(UsageError, match=r"image 'image 0' .*= \(64, 96\) px after resizing, .* to \(90, 57\)"):
        predict(dataset, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [{"max_height": 40, "max_width": 60}, {"shortest_edge": 40}], ids=str)
def test_a_size_that_no_policy_has_is_refused(dataset, tmp_path: Path, size: dict[str, int]):
    path = write_run(dataset, tmp_path / "run", RECIPE)
    file = path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": size}))
    with pytest.raises(UsageError, match=r"preprocessor_config\.json has the size \{.*\}; train again"):
        load_run(path)
