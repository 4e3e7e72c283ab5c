"""Training runs: what they leave on disk, how they go on after a stop, and what they refuse."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from dataflow.bridge.batches import Batch
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.padding import PadToLargest, PadToSize
from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, Resize, ResizePolicy
from dataflow.bridge.view import View
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, Objects
from tests.trainers.small_sets import TWO_CLASSES, square_picture, squares, write_dataset
from tests.trainers.tiny_recipes import TINY, TINY_DETR
from trainers.recipes.detr import detr_small
from trainers.recipes.watch import Watch
from trainers.training import stage_training
from trainers.training.detection_trainer import parameter_groups
from trainers.training.divergence import DivergedError
from trainers.training.runs import image_processor, last_checkpoint, load_run, save_model
from trainers.training.training import train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    ignored = Objects(np.array([[2, 2, 20, 20]]), np.array([0]), is_crowd=np.array([True]))
    bare = [square_picture("bare", (32, 40), objects) for objects in (ignored.only(np.array([False])), ignored)]
    splits = {"train": list(squares(10)), "validation": list(squares(4)), "nothing": [], "bare": bare}
    return write_dataset(tmp_path_factory.mktemp("data"), splits)


@pytest.fixture(scope="module")
def finished(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; do not write to it."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    train(dataset, TINY, out)
    return out


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Let the loader break off, as a kill would, when it has given so many batches."""

    class Stopping(BatchLoader):
        def __iter__(self) -> Iterator[Batch]:
            for number, batch in enumerate(super().__iter__()):
                if number == batches:
                    raise KeyboardInterrupt
                yield batch

    monkeypatch.setattr(stage_training, "BatchLoader", Stopping)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def test_a_run_holds_the_model_its_processor_its_logs_and_what_made_it(finished: Path, dataset: PreparedDataset):
    model = AutoModelForObjectDetection.from_pretrained(finished)
    assert model.config.id2label == {0: "red", 1: "green"}
    processor = AutoImageProcessor.from_pretrained(finished)
    assert (processor.size["shortest_edge"], processor.size["longest_edge"]) == (32, 64)
    assert tuple(processor.image_mean) == TINY.mean
    description = json.loads((finished / "run.json").read_text())
    assert description["dataset"] == {"name": "squares", "fingerprint": dataset.fingerprint}
    assert description["recipe"] == replace(TINY, view=View("image", None, "none")).settings()
    assert processor.shardbox_view == {"inputs": "image", "mode": None, "align": "none"}
    assert (description["split"], description["seed"], description["weights"]) == ("train", 0, None)
    assert [entry["source_id"] for entry in description["categories"]] == [4, 9]
    assert description["run_id"].startswith("tiny_dense-")
    assert {path.name for path in finished.iterdir()} == {
        "checkpoints", "config.json", "model.safetensors", "preprocessor_config.json", "run.json", "tensorboard",
    }  # fmt: skip
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["checkpoint-4", "checkpoint-6"]


def test_tensorboard_has_the_loss_its_parts_and_the_learning_rate(finished: Path):
    events = EventAccumulator(str(finished / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    parts = {"train/classification", "train/bbox_regression", "train/bbox_ctrness"}
    assert {"train/loss", "train/learning_rate", "train/grad_norm"} | parts <= set(tags)
    losses = [event.value for event in events.Scalars("train/loss")]
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    summed = [sum(events.Scalars(tag)[i].value for tag in parts) for i in range(6)]
    assert losses == pytest.approx(summed, rel=1e-4)
    rates = [event.value for event in events.Scalars("train/learning_rate")]
    assert rates[2] == pytest.approx(2e-3)
    assert rates[-1] < rates[3] < rates[2]


def test_no_pickle_but_what_the_trainer_reads_as_plain_tensors(finished: Path):
    """optimizer.pt, scheduler.pt and rng_state.pth are read with weights_only=True, which runs no code."""
    kinds = {path.name for path in finished.rglob("*") if path.suffix in {".pt", ".pth", ".bin", ".pkl"}}
    assert kinds == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    for path in finished.rglob("*.pt"):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("recipe", [TINY, TINY_DETR], ids=lambda recipe: recipe.name)
def test_a_stopped_run_goes_on_to_the_very_weights(recipe, dataset, tmp_path: Path, monkeypatch):
    whole = train(dataset, recipe, tmp_path / "whole", seed=3)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, recipe, tmp_path / "stopped", seed=3)
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    with pytest.raises(UsageError, match=r"not finished; finish it with `shardbox train \.\.\. --resume`"):
        load_run(tmp_path / "stopped")
    torch.rand(17)  # A resumed process has another random state.
    resumed = train(dataset, recipe, tmp_path / "stopped", seed=3, resume=True)
    assert (resumed.first_step, resumed.steps) == (4, 6)
    assert resumed.run_id == whole.run_id
    assert resumed.losses == whole.losses
    expected, got = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    other = train(dataset, recipe, tmp_path / "other", seed=4)
    assert other.run_id != whole.run_id
    assert other.losses != whole.losses


@pytest.mark.parametrize("cut", ["trainer_state.json", "model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_a_checkpoint_with_a_file_cut_short_is_passed_over(cut: str, finished: Path, dataset, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    expected = weights(run)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (run / name).unlink()
    damaged = run / "checkpoints" / "checkpoint-6" / cut
    damaged.write_bytes(damaged.read_bytes()[:-100])
    found = last_checkpoint(run / "checkpoints")
    assert found is not None and (found.path.name, found.step, found.stopped) == ("checkpoint-4", 4, False)
    assert train(dataset, TINY, run, resume=True).first_step == 4
    assert all(torch.equal(value, weights(run)[name]) for name, value in expected.items())


def test_a_run_stopped_before_its_model_was_saved_needs_no_further_step(finished: Path, dataset, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    expected = weights(run)
    (run / "config.json").unlink()
    (run / "model.safetensors").unlink()
    summary = train(dataset, TINY, run, resume=True)
    assert (summary.first_step, len(summary.losses)) == (6, 6)
    assert all(torch.equal(value, weights(run)[name]) for name, value in expected.items())


def test_a_run_stopped_before_its_first_checkpoint_starts_again(dataset, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, TINY, tmp_path / "run", steps=3, batch_size=2)
    summary = train(dataset, TINY, tmp_path / "run", resume=True)
    assert (summary.first_step, summary.steps, summary.batch_size) == (0, 3, 2)


def test_resuming_a_finished_run_changes_nothing(finished: Path, dataset):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    summary = train(dataset, TINY, finished, resume=True)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert summary.seconds == 0
    assert len(summary.losses) == 6


def test_what_cannot_be_resumed_is_refused(finished: Path, dataset, tmp_path: Path):
    with pytest.raises(UsageError, match=r"there is no run .* to resume"):
        train(dataset, TINY, tmp_path / "nothing", resume=True)
    with pytest.raises(UsageError, match=r"is no run: it has no run\.json"):
        train(dataset, TINY, tmp_path, resume=True)
    with pytest.raises(UsageError, match="started differently: seed was 0, now 5"):
        train(dataset, TINY, finished, seed=5, resume=True)
    with pytest.raises(UsageError, match=r"recipe\.learning_rate was 0\.002, now 0\.1; .*recipe\.steps was 6, now 9"):
        train(dataset, replace(TINY, learning_rate=0.1), finished, steps=9, resume=True)
    with pytest.raises(UsageError, match="split was train, now validation; --resume goes on with what was chosen then"):
        train(dataset, TINY, finished, split="validation", resume=True)
    other = write_dataset(tmp_path, {"train": list(squares(9))})
    with pytest.raises(UsageError, match=r"dataset\.fingerprint was [0-9a-f]{12}, now [0-9a-f]{12};"):
        train(other, TINY, finished, resume=True)


@pytest.mark.parametrize(
    ("resize", "said"),
    [
        (ResizePolicy(32, 80), r"recipe\.resize\.longest_edge was 64, now 80;"),
        (
            FixedSize(32, 64),
            r"recipe\.resize was \{'shortest_edge': 32, 'longest_edge': 64\}, now \{'height': 32, 'width': 64\};",
        ),
        (
            LongestEdge(64),
            r"recipe\.resize was \{'shortest_edge': 32, 'longest_edge': 64\}, now \{'longest_edge': 64\};",
        ),
        (KeepSize(), r"recipe\.resize was \{'shortest_edge': 32, 'longest_edge': 64\}, now \{\};"),
    ],
    ids=["another edge", "fixed", "longest edge", "as they are"],
)
def test_a_run_is_not_resumed_with_another_resize_policy(finished: Path, dataset, resize: Resize, said: str):
    with pytest.raises(UsageError, match=f"started differently: {said}"):
        train(dataset, replace(TINY, resize=resize), finished, resume=True)


def test_a_run_is_not_resumed_with_other_padding(finished: Path, dataset):
    for pad, said in (
        (PadToLargest(multiple_of=32), r"recipe\.pad\.multiple_of was 1, now 32;"),
        (PadToSize(64, 64), r"recipe\.pad was \{'multiple_of': 1\}, now \{'height': 64, 'width': 64\};"),
    ):
        with pytest.raises(UsageError, match=f"started differently: {said}"):
            train(dataset, replace(TINY, pad=pad), finished, resume=True)


def test_a_run_from_before_padding_was_chosen_padded_to_the_largest(finished: Path, dataset, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name, parts in (("run.json", ("recipe", "pad")), ("preprocessor_config.json", ("shardbox_pad",))):
        content = json.loads((run / name).read_text())
        inner = content[parts[0]] if len(parts) == 2 else content
        del inner[parts[-1]]
        (run / name).write_text(json.dumps(content))
    assert load_run(run).pad == PadToLargest()
    assert train(dataset, TINY, run, resume=True).steps == 6
    with pytest.raises(UsageError, match=r"recipe\.pad was \{'multiple_of': 1\}, now \{'height': 64, 'width': 64\};"):
        train(dataset, replace(TINY, pad=PadToSize(64, 64)), run, resume=True)


def test_a_run_trains_at_the_size_and_on_the_canvas_of_its_recipe(dataset, tmp_path: Path):
    recipe = replace(TINY, resize=FixedSize(48, 40), pad=PadToSize(64, 64), steps=1)
    train(dataset, recipe, tmp_path / "run")
    assert train(dataset, recipe, tmp_path / "run", resume=True).seconds == 0
    run = load_run(tmp_path / "run")
    assert (run.resize, run.pad) == (recipe.resize, recipe.pad)
    with pytest.raises(UsageError, match=r"\(48, 40\) px after resizing, its batch is padded to \(48, 32\)"):
        train(dataset, replace(recipe, pad=PadToSize(48, 32)), tmp_path / "other")


def test_what_cannot_be_trained_is_refused_before_anything_is_written(finished: Path, dataset, tmp_path: Path):
    with pytest.raises(UsageError, match=r"exists and is not empty; give another directory, or --resume"):
        train(dataset, TINY, finished)
    for split, message in (
        ("test", "has no split 'test'"),
        ("nothing", "split 'nothing' of .* is empty"),
        ("bare", "split 'bare' of .* has no objects to be found"),
    ):
        with pytest.raises(UsageError, match=f"{message}; choose --split among .*train"):
            train(dataset, TINY, tmp_path / "run", split=split)
        with pytest.raises(UsageError, match=f"{message}; choose --evaluate-split among .*train"):
            train(dataset, TINY, tmp_path / "run", watch=Watch(1, split=split))
    for changes, message in (
        ({"steps": -1}, "steps is -1"),
        ({"epochs": math.inf}, "inf epochs"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"seed": -1}, "the seed is -1; give a whole number from 0 to 2147483647"),
        ({"seed": 2**31}, "the seed is 2147483648"),
    ):
        with pytest.raises(UsageError, match=message):
            train(dataset, TINY, tmp_path / "run", **changes)
    with pytest.raises(UsageError, match="is no checkpoint"):
        train(dataset, TINY, tmp_path / "run", weights=str(tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_the_weights_of_another(finished: Path, dataset, tmp_path: Path):
    summary = train(dataset, TINY, tmp_path / "run", weights=str(finished), steps=1)
    assert summary.load_report == f"weights: {len(weights(finished))} tensors loaded from {finished}"
    description = json.loads((tmp_path / "run" / "run.json").read_text())
    assert description["weights_identity"].startswith("sha256:")
    before, after = weights(finished), weights(tmp_path / "run")
    assert max(float((after[name] - before[name]).abs().max()) for name in before) < 0.01


@pytest.mark.parametrize("build", [TINY.build, TINY_DETR.build], ids=["dense", "detr"])
def test_a_loss_that_is_no_number_stops_training_and_names_the_images(build, dataset, tmp_path: Path):
    def with_nan(categories: Categories, source: str | None, *, view: View = View()):
        model, report = build(categories, source, view=view)
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if name.endswith("bias")).fill_(math.nan)
        return model, report

    with pytest.raises(
        DivergedError, match=r"the loss is nan at step 1 \(images image\d, image\d, image\d\); look"
    ) as e:
        train(dataset, replace(TINY, build=with_nan), tmp_path / "run")
    assert e.value.exit_status == 1


@pytest.mark.parametrize("scale", [2**60, None], ids=["as Linux says it", "as a GPU says it"])
def test_a_batch_that_does_not_fit_into_memory_says_what_to_lower(scale: int | None, dataset, tmp_path: Path):
    def build(categories: Categories, source: str | None, *, view: View = View()):
        model, report = TINY.build(categories, source, view=view)

        def overfill(*_: object) -> None:
            if scale is None:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            torch.empty(scale)

        model.backbone.register_forward_pre_hook(overfill)
        return model, report

    with pytest.raises(UsageError, match=r"^3 images on \d+x\d+ px do not fit into memory; lower --batch-size"):
        train(dataset, replace(TINY, build=build), tmp_path / "run")


def test_parameter_groups_split_rates_and_decay():
    model, _ = TINY_DETR.build(TWO_CLASSES, None)
    model.model.query_position_embeddings.weight.requires_grad_(False)
    (planned,) = replace(detr_small(), learning_rate=1e-4, backbone_learning_rate=1e-5).planned_stages()
    groups = {
        (group["lr"], group["weight_decay"]): group["params"] for group in parameter_groups(model, planned.stage, 0.5)
    }
    assert set(groups) == {(1e-5, 0.5), (1e-4, 0.5), (1e-4, 0.0)}
    backbone = {id(p) for p in model.model.backbone.parameters()}
    assert {id(p) for p in groups[1e-5, 0.5]} == backbone
    assert all(p.ndim == 1 for p in groups[1e-4, 0.0])
    trained = [id(p) for group in groups.values() for p in group]
    assert sorted(trained) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_a_loaded_run_has_everything_to_predict(finished: Path, tmp_path: Path):
    run = load_run(finished)
    assert run.categories == TWO_CLASSES
    assert run.resize == TINY.resize
    assert (run.mean, run.std) == (TINY.mean, TINY.std)
    assert not run.model.training
    assert run.batch_size == 3


def test_what_is_no_run_is_said_in_one_line(finished: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="is no directory; give a directory that `shardbox train` wrote"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"is no run: it has no run\.json"):
        load_run(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"the model in .* cannot be read") as error:
        load_run(run)
    assert "\n" not in str(error.value)
    (run / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="is damaged"):
        load_run(run)


def test_a_saved_model_is_whole_or_not_there(dataset, tmp_path: Path, monkeypatch):
    model, _ = TINY.build(TWO_CLASSES, None)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    processor = image_processor(TINY)
    monkeypatch.setattr(type(processor), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(tmp_path, model, processor)
    assert not (tmp_path / "config.json").exists()
