"""Predictions of a run for a split of a prepared dataset."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dataflow.batches import Batch, detections_to_predictions, normalise
from dataflow.bridge import BatchLoader
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.progress import Progress
from dataflow.records import Predictions
from trainers.detectors import detect
from trainers.predictions import write_predictions
from trainers.runs import Run, load_run


@dataclass(frozen=True)
class PredictionRunSummary:
    """What was predicted, and how fast."""

    path: Path
    run_id: str
    images: int
    detections: int
    seconds: float
    """Of reading, detecting and writing; loading the model not counted."""


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


def predict(
    dataset: PreparedDataset, run: str | Path, out: Path, *, split: str = "validation", batch_size: int | None = None
) -> PredictionRunSummary:
    """Detect objects in every image of a split with a finished run, and write them (see `write_predictions`).

    Args:
        dataset: prepared dataset with the classes that the run was trained on.
        run: directory of the run.
        out: directory to write; it appears whole or not at all.
        split: which images.
        batch_size: images at once; the recipe's by default. It changes the speed, not the detections, but for what
            padding changes (see the detectors).

    Raises:
        UsageError: `run` is no finished run or has other classes, there is no such split, `out` exists.
    """
    dataset.check_split(split)
    loaded = load_run(run)
    loaded.check(dataset)
    size = batch_size if batch_size is not None else loaded.batch_size
    if size < 1:
        raise UsageError(f"a batch size of {size}", "give a positive number")
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    loader = BatchLoader(dataset, split, loaded.resize, size, training=False, pad=loaded.pad, view=loaded.view)
    start = time.monotonic()

    def stream() -> Iterator[Predictions]:
        progress, done = Progress("predict", dataset.splits[split], "images"), 0
        for batch in loader:
            yield from predict_batch(loaded, batch)
            done += len(batch)
            progress.update(done)
        progress.close(done)

    # The differences of a dataset have been aligned, if at all, and their boxes carried along.
    align = loaded.view.align or "none" if dataset.layout.kind == "pairs" else "none"
    written = write_predictions(out, stream(), run_id=loaded.run_id, dataset=dataset, split=split, align=align)
    return PredictionRunSummary(out, loaded.run_id, written.images, written.detections, time.monotonic() - start)
