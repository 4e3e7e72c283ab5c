"""Evaluation while training: the figures of a split, image by image, and pictures of a few of its images."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import cv2
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dataflow.bridge.batches import Batch, normalise
from dataflow.bridge.loader import BatchLoader
from dataflow.images import RgbImage
from dataflow.prepared import PreparedDataset
from dataflow.records import Predictions
from trainers.detectors.detections import Detections, cxcywh_to_xyxy
from trainers.detectors.detectors import detect
from trainers.detectors.normalisers import divisor, loss_counts, loss_parts
from trainers.evaluation.evaluation import read_truths
from trainers.evaluation.matching import match
from trainers.recipes.recipe import Recipe
from trainers.recipes.watch import Watch
from trainers.training import processes
from trainers.training.averaging import Average
from trainers.training.divergence import output_of

_SHOWN_SCORE = 0.3
"""Detections below it are not drawn: most of the hundred that average precision wants are."""
_SHOWN_EDGE = 640
"""Pixels of a picture's longer edge, at least: a small image is magnified, or lines and scores would cover it."""
_TRUTH, _FOUND, _EDGE = (0, 230, 0), (255, 70, 70), (20, 20, 20)
_LINE = 12
"""Height of a line of text, px."""

Show = Callable[[str, Tensor, int], None]
"""Takes an image's id, a picture (3, H, W) uint8 and the step."""


class Validation:
    """A split that is evaluated again and again.

    Detections go to the evaluation batch by batch, as boxes in the original images; neither raw outputs nor pixels are
    kept. Processes share the images, each of which is seen once. There is an object to be found in the split.

    Raises:
        UsageError: there is no such split.
    """

    def __init__(self, dataset: PreparedDataset, recipe: Recipe, watch: Watch, rank: int, world_size: int) -> None:
        self._recipe = recipe
        self._watch = watch
        self._classes = len(dataset.categories)
        align = recipe.view.align or "none" if dataset.layout.kind == "pairs" else "none"
        self._truths, _ = read_truths(dataset, watch.split, align)
        self.loader = BatchLoader(
            dataset,
            watch.split,
            recipe.resize,
            max(1, recipe.batch_size // (recipe.accumulate * world_size)),
            training=False,
            pad=recipe.pad,
            rank=rank,
            world_size=world_size,
            view=recipe.view,
        )
        self.show: Show | None = None

    def run(self, model: PreTrainedModel, average: Average | None, step: int) -> dict[str, float]:
        """`AP`, `AP50` (COCO's) and `loss`, the one of the whole split as if it were a batch, at a step.

        The model, or what its averaged weights make of it, is put to evaluation for that, and to training again.
        """
        model.eval()
        try:
            with nullcontext() if average is None else average.lent_to(model), torch.inference_mode():
                found, loss = self._detections(model, step)
        finally:
            model.train()
        by_image = {item.image_id: item for item in processes.gathered(found)}
        figures = match(self._truths, by_image, self._classes).figures if processes.is_first() else {}
        return {"loss": loss, **_known(processes.told(figures))}

    def _detections(self, model: PreTrainedModel, step: int) -> tuple[list[Predictions], float]:
        """This process's detections, and the loss of all."""
        device = next(model.parameters()).device
        sums = Losses(model)
        found: list[Predictions] = []
        shown = 0
        for batch in self.loader:
            own = batch.to(device)
            inputs = own.inputs()
            pixels = normalise(own.pixel_values, own.pixel_mask, self._recipe.mean, self._recipe.std)
            output = output_of(model, step, batch.image_ids, **(inputs | {"pixel_values": pixels}))
            sums.add(inputs, output)
            detections = detect(model, output)
            found += batch.predictions(
                [image.boxes for image in detections],
                [image.scores for image in detections],
                [image.labels for image in detections],
                run_id="",
            )
            for i in range(min(len(batch), self._watch.pictures - shown) if self.show is not None else 0):
                assert self.show is not None
                self.show(batch.image_ids[i], draw(batch, i, detections[i]), step)
            shown += len(batch)
        return found, sums.total(device)


class Losses:
    """The loss of a whole split from those of its batches, each divided by a number of its own."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    def add(self, inputs: Mapping[str, Any], output: Any) -> None:
        """Take in a batch."""
        counts = loss_counts(self._model, inputs)
        for name, term in loss_parts(self._model, output).items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(term)) + term * divisor(name, counts[name])
            self._counts[name] = self._counts.get(name, 0.0) + counts[name]

    def total(self, device: torch.device) -> float:
        """The loss, over all processes."""
        counts = processes.summed(self._counts, device)
        sums = processes.summed({name: float(value) for name, value in self._sums.items()}, device)
        return sum(value / divisor(name, counts[name]) for name, value in sums.items())


def _known(figures: Mapping[str, float | None]) -> dict[str, float]:
    """The figures that steer a training; there are objects, so both exist."""
    return {name: float(figures[name] or 0.0) for name in ("AP", "AP50")}


def draw(batch: Batch, index: int, detections: Detections) -> Tensor:
    """What a detector is shown of an image, (3, h, w) uint8, with the objects in it in green and its detections in red.

    Two images that it is shown stand beside each other, each with all boxes. Small ones are magnified.
    """
    size = batch.sizes[index]
    height, width = size.tolist()
    factor = -(-_SHOWN_EDGE // max(height, width))
    pixels = batch.pixel_values[index, :, :height, :width]
    pixels = pixels.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    sure = (detections.scores >= _SHOWN_SCORE).nonzero().flatten().flip(0).cpu()  # The surest is drawn last.
    truth = cxcywh_to_xyxy(batch.targets[index].boxes, size * factor)
    found = cxcywh_to_xyxy(detections.boxes.float().cpu()[sure], size * factor)
    scores = detections.scores.cpu()[sure].tolist()
    drawn = []
    for image in torch.split(pixels, 3):
        canvas = image.permute(1, 2, 0).numpy().copy()
        for x0, y0, x1, y1 in _whole(truth):
            cv2.rectangle(canvas, (x0, y0), (x1, y1), _TRUTH, 3)
        for (x0, y0, x1, y1), score in zip(_whole(found), scores, strict=True):
            cv2.rectangle(canvas, (x0, y0), (x1, y1), _FOUND, 1)
            _write(canvas, f"{score:.2f}", (x0, max(y0 - 4, _LINE)))
        drawn.append(torch.from_numpy(canvas).permute(2, 0, 1))
    return torch.cat(drawn, dim=2)


def _whole(boxes: Tensor) -> list[list[int]]:
    """Boxes (N, 4) in whole pixels, which are numbers whatever they were."""
    whole: list[list[int]] = boxes.nan_to_num().clamp(-_SHOWN_EDGE, 100 * _SHOWN_EDGE).round().int().tolist()
    return whole


def _write(canvas: RgbImage, text: str, place: tuple[int, int]) -> None:
    """A line of text that begins at `place` (x, y), on a dark edge, so that it shows on any picture."""
    for colour, thickness in ((_EDGE, 3), (_FOUND, 1)):
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thickness, cv2.LINE_AA)
