"""Loaders of which each breaks one promise, on a dataset of `N` images in shards of `LENGTHS`."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from dataflow.bridge.batches import Batch, Target
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.order import ReadPlan

LENGTHS = (7, 1, 0, 9, 6)
N = sum(LENGTHS)


class OwnLoader(BatchLoader):
    """A loader that knows how it was made, and breaks nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rank, self.world_size = options["rank"], options["world_size"]

    def plans(self) -> Iterator[tuple[int, ReadPlan]]:
        for epoch, plan in super().plans():
            yield epoch, self.changed(epoch, plan)

    def changed(self, epoch: int, plan: ReadPlan) -> ReadPlan:
        return plan

    def __iter__(self) -> Iterator[Batch]:
        for step, batch in enumerate(super().__iter__(), self.start_step):
            yield self.shown(step, batch)

    def shown(self, step: int, batch: Batch) -> Batch:
        return batch


class DropsAVisit(OwnLoader):
    def changed(self, epoch: int, plan: ReadPlan) -> ReadPlan:
        last = (self.rank, self.world_size) == (2, 3)
        return replace(plan, visits=plan.visits[:-1]) if last else plan


class RepeatsAVisit(OwnLoader):
    """To make the shares of ranks equal, as PyTorch's DistributedSampler does."""

    def changed(self, epoch: int, plan: ReadPlan) -> ReadPlan:
        more = 0 if self.start_step else -(-N // self.world_size) - len(plan.visits)
        return replace(plan, visits=np.concatenate([plan.visits, plan.visits[:more]])) if more > 0 else plan


class SharesUnevenly(OwnLoader):
    """All images once, but most of them by rank 0."""

    def changed(self, epoch: int, plan: ReadPlan) -> ReadPlan:
        if not self.training or self.world_size != 3:
            return plan
        return replace(plan, visits=np.arange(N - 2) if self.rank == 0 else np.array([N - self.rank]))


class LosesAnImage(OwnLoader):
    def __iter__(self) -> Iterator[Batch]:
        batches = list(super().__iter__()) if not self.training else super().__iter__()
        yield from batches[:2] + batches[3:] if isinstance(batches, list) else batches


class ShowsTheWrongTail(OwnLoader):
    """A last rank that starts at the beginning of the split."""

    def shown(self, step: int, batch: Batch) -> Batch:
        return replace(batch, image_ids=("image000",) * len(batch)) if self.world_size == 3 else batch


class MovesBoxes(OwnLoader):
    """By a fiftieth of the image."""

    def shown(self, step: int, batch: Batch) -> Batch:
        nearer = [Target(t.boxes * t.boxes.new_tensor([1, 1, 0.98, 1]), t.category_ids) for t in batch.targets]
        return replace(batch, targets=tuple(nearer))


class RenamesClasses(OwnLoader):
    def shown(self, step: int, batch: Batch) -> Batch:
        return replace(batch, targets=tuple(Target(t.boxes, t.category_ids + 1) for t in batch.targets))


class SwapsSizes(OwnLoader):
    def shown(self, step: int, batch: Batch) -> Batch:
        return batch if self.training else replace(batch, original_sizes=batch.original_sizes.flip(1))


class DependsOnThreads(OwnLoader):
    def shown(self, step: int, batch: Batch) -> Batch:
        batch.pixel_values[0, 0, 0, 0] = self.threads
        return batch


class DependsOnTheRun(OwnLoader):
    runs = 0

    def __iter__(self) -> Iterator[Batch]:
        DependsOnTheRun.runs += 1
        yield from super().__iter__()

    def shown(self, step: int, batch: Batch) -> Batch:
        if self.training and step == 3:
            batch.pixel_values[-1, 0, 0, 0] = DependsOnTheRun.runs
        return batch


class LeavesThePlan(OwnLoader):
    def shown(self, step: int, batch: Batch) -> Batch:
        return replace(batch, image_ids=batch.image_ids[::-1]) if self.training else batch


class ForgetsItsStep(OwnLoader):
    """Training that begins anew instead of being resumed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if options["training"]:
            options["start_step"] = 0
        super().__init__(*arguments, **options)


class ResumesItsFlips(OwnLoader):
    """The right images, but what is random about them counts from the step at which the process started."""

    def shown(self, step: int, batch: Batch) -> Batch:
        if self.training:
            batch.pixel_values[0, 0, 0, 0] = step - self.start_step
        return batch


class PlansOtherwiseLater(OwnLoader):
    """Resumed, it shows the last two images of the next epoch the other way round."""

    def changed(self, epoch: int, plan: ReadPlan) -> ReadPlan:
        if self.training and self.start_step and epoch == 1:
            return replace(plan, visits=np.concatenate([plan.visits[:-2], plan.visits[:-3:-1]]))
        return plan


class LeavesAThread(OwnLoader):
    stop = threading.Event()

    def shown(self, step: int, batch: Batch) -> Batch:
        if not any(thread.name == "left behind" for thread in threading.enumerate()):
            threading.Thread(target=self.stop.wait, name="left behind", daemon=True).start()
        return batch
