"""The Hugging Face `Trainer`, fed with ready batches."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback

from dataflow.batches import Batch, normalise
from dataflow.errors import DataRefusedError, MissingExtraError
from dataflow.progress import Progress
from dataflow.tensorflow_runtime import load_tensorflow
from trainers.recipe import Recipe

_NAMED_IMAGES = 8


class DivergedError(DataRefusedError):
    """The loss is no longer a number."""

    def __init__(self, step: int, loss: float, image_ids: Iterable[str]) -> None:
        ids = list(image_ids)
        named = ", ".join(ids[:_NAMED_IMAGES]) + (", ..." if len(ids) > _NAMED_IMAGES else "")
        super().__init__(
            f"the loss is {loss} at step {step} (images {named})",
            "look at these images and their boxes; if they are sound, lower the recipe's learning_rate",
        )


class _Inputs(IterableDataset[dict[str, Any]]):
    """Batches as the dictionaries that `Trainer` moves to its device; pixels are still bytes."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._batches:
            yield batch.inputs() | {"image_ids": batch.image_ids}


def _unchanged(inputs: Any) -> Any:
    return inputs


def parameter_groups(model: PreTrainedModel, recipe: Recipe) -> list[dict[str, Any]]:
    """The parameters that train, by learning rate and weight decay (none for biases and normalisation)."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_backbone = recipe.backbone_learning_rate is not None and ".backbone." in f".{name}"
        rate = recipe.backbone_learning_rate if in_backbone else recipe.learning_rate
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate or 0.0, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


class DetectionTrainer(Trainer):
    """Trains a detector on batches that come padded, shuffled and sharded as they should be."""

    optimizer: torch.optim.Optimizer | None

    def __init__(
        self, model: PreTrainedModel, args: TrainingArguments, recipe: Recipe, batches: Iterable[Batch]
    ) -> None:
        if args.n_gpu > 1:
            args._n_gpu = 1  # DataParallel cannot split lists of labels: several GPUs take several processes.
        super().__init__(model=model, args=args)
        for callback in (ProgressCallback, PrinterCallback):  # They write to standard output.
            self.remove_callback(callback)
        self._recipe = recipe
        self._batches = batches
        self._parts: dict[str, Tensor] = {}
        self._counted = 0

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches as they are. The loader's own generator keeps it from drawing from the one that training uses."""
        return DataLoader(
            _Inputs(self._batches),
            batch_size=None,
            collate_fn=_unchanged,
            generator=torch.Generator(),
            pin_memory=self.args.device.type == "cuda",
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the recipe's parameter groups."""
        if self.optimizer is None:
            groups = parameter_groups(self.model if model is None else model, self._recipe)
            self.optimizer = torch.optim.AdamW(groups, lr=self._recipe.learning_rate)
        return self.optimizer

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch; pixels are normalised here, on the device.

        Raises:
            DivergedError: the loss is not finite.
        """
        mask = inputs["pixel_mask"]
        pixels = normalise(inputs["pixel_values"], mask, self._recipe.mean, self._recipe.std)
        step = self.state.global_step + 1
        try:
            outputs = model(pixel_values=pixels, pixel_mask=mask, labels=inputs["labels"])
        except ValueError as error:
            # DETR's matching takes boxes that are not numbers for boxes with corners in the wrong order.
            if all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
                raise
            raise DivergedError(step, math.nan, inputs["image_ids"]) from error
        if not bool(torch.isfinite(outputs.loss)):
            raise DivergedError(step, outputs.loss.item(), inputs["image_ids"])
        for name, value in outputs.loss_dict.items():
            self._parts[name] = self._parts.get(name, torch.zeros_like(value)) + value.detach()
        self._counted += 1
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the parts of the loss, averaged over the steps since they were last logged, beside the loss itself."""
        if "loss" in logs and self._counted:
            logs |= {name: (total / self._counted).item() for name, total in self._parts.items()}
            self._parts, self._counted = {}, 0
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save weights without `training_args.bin`: a pickle that nobody reads."""
        super()._save(output_dir, state_dict)
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)


class ProgressLines(TrainerCallback):
    """Says how far training is, on standard error."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._progress: Progress | None = None
        self._first = 0
        self._loss = math.nan

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the clock."""
        self._first = state.global_step
        if state.is_world_process_zero:
            self._progress = Progress("train", (state.max_steps - self._first) * self._batch_size, "images")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        """Remember the loss."""
        self._loss = (logs or {}).get("loss", self._loss)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Renew the line."""
        if self._progress is not None:
            note = f"step {state.global_step} of {state.max_steps}"
            if not math.isnan(self._loss):  # Not logged yet.
                note += f", loss {self._loss:.3g}"
            self._progress.update((state.global_step - self._first) * self._batch_size, note)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leave the line."""
        if self._progress is not None:
            self._progress.close((state.global_step - self._first) * self._batch_size)


def tensorboard_callback(directory: Path, first_step: int) -> TensorBoardCallback:
    """Writes scalars into `directory`; what an interrupted run wrote after `first_step` is left out of the curves."""
    with contextlib.suppress(MissingExtraError):
        load_tensorflow()  # TensorBoard imports TensorFlow where it is installed, and not as carefully.
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(str(directory), purge_step=first_step or None))
