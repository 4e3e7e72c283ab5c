"""Predictions of a run for a split of a prepared dataset, shard by shard, in this process or by Beam."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dataflow.beam.shard_tasks import IN_THIS_PROCESS, TaskRunner, parts_there, run_tasks
from dataflow.bridge.batches import Batch, detections_to_predictions, normalise
from dataflow.bridge.loader import BatchLoader
from dataflow.errors import DataRefusedError, UsageError
from dataflow.pairs.registration import Method
from dataflow.prepared import PreparedDataset, Shard
from dataflow.records import Predictions
from dataflow.stores.paths import location
from trainers.detectors.detectors import detect
from trainers.outputs import resumable_directory
from trainers.prediction.parts import TABLE, Part, checked, part_path, part_writer, read_part
from trainers.prediction.predictions import DESCRIPTION, finish_predictions
from trainers.training.runs import Run, load_run

_KEY_LENGTH = 16


@dataclass(frozen=True)
class PredictionRunSummary:
    """What was predicted, and how fast."""

    path: Path
    run_id: str
    images: int
    detections: int
    seconds: float
    """Of reading, detecting and writing; loading the model in this process not counted."""
    images_kept: int = 0
    """Of the images, those that were predicted before, by a call that was killed."""
    images_damaged: int = 0
    pairs_unaligned: int = 0


def predict_batch(run: Run, batch: Batch) -> list[Predictions]:
    """The detections in every image of a batch, in pixels of the original images. The run's model must be in `eval`."""
    device = next(run.model.parameters()).device
    batch = batch.to(device)
    with torch.inference_mode():
        pixels = normalise(batch.pixel_values, batch.pixel_mask, run.mean, run.std)
        found = detect(run.model, run.model(pixel_values=pixels, pixel_mask=batch.pixel_mask))
    return detections_to_predictions(
        batch.image_ids,
        batch.original_sizes,
        boxes=[image.boxes for image in found],
        scores=[image.scores for image in found],
        category_ids=[image.labels for image in found],
        run_id=run.run_id,
    )


@dataclass(frozen=True)
class Origin:
    """All that decides predictions. Parts are kept of the same origin only."""

    run_id: str
    model: str
    """Hash of the files of the model."""
    fingerprint: str
    """Of the dataset."""
    split: str
    shards: int
    batch_size: int
    align: Method
    shardbox: str
    torch: str

    def of(self, shard: int) -> dict[str, Any]:
        """What the part of a shard says that it is of."""
        return asdict(self) | {"shard": shard}

    @property
    def key(self) -> str:
        """A short hash of all."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:_KEY_LENGTH]


@dataclass(frozen=True, eq=False)
class _Loaded:
    """What a process needs to predict shards."""

    dataset: PreparedDataset
    run: Run


@dataclass(frozen=True)
class PredictionTask:
    """Predicts a shard: its images in batches that begin with the shard, wherever it is done."""

    dataset: Path
    run: Path
    origin: Origin
    directory: Path

    @property
    def paths(self) -> Mapping[str, str]:
        """See `dataflow.beam.shard_tasks.ShardTask`."""
        return {"the dataset": str(self.dataset), "--run": str(self.run), "--out": str(self.directory)}

    def load(self) -> _Loaded:
        """Dataset and model, on the GPU if there is one.

        Raises:
            UsageError: the run or the dataset cannot be read here.
            DataRefusedError: they are not those that the launcher saw.
        """
        dataset, run = PreparedDataset(self.dataset), load_run(self.run)
        seen = (run.run_id, run.model_hash, dataset.fingerprint)
        if seen != (self.origin.run_id, self.origin.model, self.origin.fingerprint):
            raise DataRefusedError(
                f"a worker reads another run or dataset in {self.run} and {self.dataset} than the launcher",
                "give paths that are the same directories everywhere, and change neither while it runs",
            )
        return prepared_to_predict(dataset, run)

    def part(self, shard: int) -> Path:
        """The file of a shard's part."""
        return part_path(self.directory / TABLE, shard, self.origin.shards)

    def kept(self, shard: int) -> Part | None:
        """The part of a shard, if it is there, whole, and of this origin."""
        part = read_part(self.part(shard))
        return part if part is not None and part.of == self.origin.of(shard) else None

    def write(self, shard: int, loaded: _Loaded) -> Iterator[int]:
        """See `dataflow.beam.shard_tasks.ShardTask`.

        Raises:
            ExampleError: an image cannot be shown; the message names it, its shard and its place there.
            DataRefusedError: an image is in the shard twice.
        """
        dataset, run, origin = loaded.dataset, loaded.run, self.origin
        names = list(dataset.shard_ids(dataset.shards(origin.split)[shard]))
        loader = BatchLoader(
            dataset,
            origin.split,
            run.resize,
            origin.batch_size,
            training=False,
            pad=run.pad,
            shard=shard,
            view=run.view,
        )
        found = (item for batch in loader for item in predict_batch(run, batch))
        with part_writer(self.part(shard), dict(names)) as writer:
            for item in checked(found, run.run_id, [name for name, _ in names], len(run.categories)):
                writer.add(item)
                yield 1
            writer.finish(origin.of(shard), loader.damaged, loader.refused)


def prepared_to_predict(dataset: PreparedDataset, run: Run) -> _Loaded:
    """A dataset and a run, its model on the GPU if there is one."""
    run.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return _Loaded(dataset, run)


def predict(
    dataset: PreparedDataset,
    run: str | Path,
    out: Path,
    *,
    split: str = "validation",
    batch_size: int | None = None,
    running: TaskRunner = IN_THIS_PROCESS,
) -> PredictionRunSummary:
    """Detect objects in every image of a split with a finished run, and write them (see
    `trainers.prediction.predictions`).

    Shards are predicted one by one, the same detections bit for bit in this process and by any Beam runner on machines
    of one kind. What a call that was killed has predicted is kept for the next with the same arguments.

    Args:
        dataset: prepared dataset with the classes that the run was trained on.
        run: directory of the run.
        out: directory to write; it appears whole or not at all. Run, dataset and it may be in an object store.
        split: which images.
        batch_size: images at once; the recipe's by default. It changes the speed, not the detections, but for what
            padding changes (see the detectors).
        running: where it is done; in this process by default.

    Raises:
        UsageError: `run` is no finished run or has other classes, there is no such split, `out` exists.
        DataRefusedError: two images have one id.
        ExampleError: an image cannot be shown (by Beam a `UsageError`, after the other shards are done).
    """
    run, out = location(run), location(out)
    shards = dataset.shards(split)
    if not shards:
        raise UsageError(f"the split {split!r} of {dataset.path} has no images", "predict another --split")
    loaded = load_run(run)
    loaded.check(dataset)
    size = batch_size if batch_size is not None else loaded.batch_size
    if size < 1:
        raise UsageError(f"a batch size of {size}", "give a positive number")
    origin = _origin(dataset, split, loaded, size)
    start = time.monotonic()
    with resumable_directory(out, DESCRIPTION, origin.key) as work:
        (work / TABLE).mkdir(exist_ok=True)
        task = PredictionTask(dataset.path.resolve(), run.resolve(), origin, work.resolve())
        kept = _parts(task, shards)
        _predict_left(task, shards, kept, running, None if running.by_beam else prepared_to_predict(dataset, loaded))
        parts = _parts(task, shards)
        finish_predictions(work, parts, dataset)
    return PredictionRunSummary(
        out,
        loaded.run_id,
        images=sum(part.images for part in parts),
        detections=sum(part.detections for part in parts),
        seconds=time.monotonic() - start,
        images_kept=sum(part.images for part in kept),
        images_damaged=sum(len(part.damaged) for part in parts),
        pairs_unaligned=sum(len(part.refused) for part in parts),
    )


def _origin(dataset: PreparedDataset, split: str, run: Run, batch_size: int) -> Origin:
    return Origin(
        run_id=run.run_id,
        model=run.model_hash,
        fingerprint=dataset.fingerprint,
        split=split,
        shards=len(dataset.shards(split)),
        batch_size=batch_size,
        # The differences of a dataset have been aligned, if at all, and their boxes carried along.
        align=run.view.align or "none" if dataset.layout.kind == "pairs" else "none",
        shardbox=version("shardbox"),
        torch=torch.__version__,
    )


def _parts(task: PredictionTask, shards: Sequence[Shard]) -> list[Part]:
    """The parts that are there, whole and of the same origin."""
    return [part for shard in shards if (part := task.kept(shard.index))]


def _predict_left(
    task: PredictionTask, shards: Sequence[Shard], kept: Sequence[Part], running: TaskRunner, loaded: _Loaded | None
) -> None:
    """Predict the shards of which no part was kept; in this process with what is loaded already."""
    there = {part.of["shard"] for part in kept}
    left = [shard for shard in shards if shard.index not in there]
    for shard in left:
        task.part(shard.index).unlink(missing_ok=True)
    run_tasks(
        task,
        [shard.index for shard in left],
        what="predict",
        images=sum(shard.count for shard in left),
        parts=lambda: parts_there([task.part(shard.index) for shard in left]),
        running=running,
        loaded=loaded,
    )
