"""The Hugging Face `Trainer`, fed with ready batches."""

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

from dataflow.bridge.batches import Batch, normalise
from dataflow.errors import UsageError
from trainers.detectors.detectors import part_patterns
from trainers.detectors.normalisers import divisor, loss_counts, loss_parts
from trainers.recipes.recipe import Recipe
from trainers.recipes.stages import Stage, frozen_norms, learning_rates
from trainers.recipes.watch import Watch
from trainers.training import processes
from trainers.training.averaging import Average
from trainers.training.divergence import DivergedError, output_of
from trainers.training.memory import ran_out
from trainers.training.validation import Validation


class _Inputs(IterableDataset[dict[str, Any]]):
    """Batches, or `parts` of each in turn, as the dictionaries that `Trainer` moves to its device; pixels are still
    bytes. The parts of a batch keep its canvas."""

    def __init__(self, batches: Iterable[Batch], parts: int) -> None:
        self._batches = batches
        self._parts = parts

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._batches:
            inputs = batch.inputs() | {"image_ids": batch.image_ids}
            size = len(batch) // self._parts
            for start in range(0, len(batch), size):
                yield {name: values[start : start + size] for name, values in inputs.items()}


def _unchanged(inputs: Any) -> Any:
    return inputs


def parameter_groups(model: PreTrainedModel, stage: Stage, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters that train, by learning rate and weight decay (none for biases and normalisation)."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter, rate in learning_rates(model, stage, part_patterns(model)):
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


class DetectionTrainer(Trainer):
    """Trains a detector through one stage, on batches that come padded, shuffled and sharded as they should be.

    Args:
        model: the detector, in which what does not train is frozen.
        args: the arguments of the stage, whose `gradient_accumulation_steps` are the parts of a batch.
        recipe: of the run.
        stage: the stage.
        batches: this process's, from the step on that training starts with.
        first_step: steps of the run before the stage.
        validation: what to evaluate where `args` asks for it.
        average: moving average of the weights.
    """

    optimizer: torch.optim.Optimizer | None
    control: TrainerControl

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        recipe: Recipe,
        stage: Stage,
        batches: Iterable[Batch],
        *,
        first_step: int = 0,
        validation: Validation | None = None,
        average: Average | None = None,
    ) -> None:
        if args.n_gpu > 1:
            args._n_gpu = 1  # DataParallel cannot split lists of labels: several GPUs take several processes.
        super().__init__(model=model, args=args, eval_dataset=validation and validation.loader)
        self.model_accepts_loss_kwargs = False  # It could count no boxes; `compute_loss` does.
        for callback in (ProgressCallback, PrinterCallback):  # They write to standard output.
            self.remove_callback(callback)
        self._recipe = recipe
        self._stage = stage
        self._batches = batches
        self._first_step = first_step
        self._validation = validation
        self._average = average
        if average is not None:
            self.add_callback(_Averaging(average))
        self._frozen_norms = frozen_norms(model)
        self._whole: dict[str, float] = {}
        self._parts: dict[str, Tensor] = {}
        self._counted = 0.0

    @property
    def _in_parts(self) -> bool:
        """Whether a step's images are spread over time or processes."""
        return self.args.gradient_accumulation_steps > 1 or processes.many()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches as they are. The loader's own generator keeps it from drawing from the one that training uses."""
        return DataLoader(
            _Inputs(self._batches, self.args.gradient_accumulation_steps),
            batch_size=None,
            collate_fn=_unchanged,
            generator=torch.Generator(),
            pin_memory=self.args.device.type == "cuda",
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the stage's parameter groups."""
        if self.optimizer is None:
            groups = parameter_groups(self.model, self._stage, self._recipe.weight_decay)
            self.optimizer = torch.optim.AdamW(groups, lr=self._stage.learning_rate)
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """The parts of a step, whose losses are to be divided by what all of them have together."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._whole = {}
        if self._in_parts and samples:
            for inputs in samples:
                for name, count in loss_counts(self.model, inputs).items():
                    self._whole[name] = self._whole.get(name, 0.0) + count
            self._whole = processes.summed(self._whole, device)
        return samples, None

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """The loss of a batch or of a part of one, whose gradients are added up.

        Raises:
            UsageError: it does not fit into memory.
            DivergedError: the loss is not finite.
        """
        try:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            count, _, height, width = inputs["pixel_values"].shape
            raise UsageError(
                f"{count} images on {height}x{width} px do not fit into memory",
                "lower --batch-size or --resize, or take a step's images in parts with --accumulate",
            ) from error
        return loss

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
        for norm in self._frozen_norms:
            norm.eval()  # `Trainer` has just put it to training.
        mask, labels = inputs["pixel_mask"], inputs["labels"]
        pixels = normalise(inputs["pixel_values"], mask, self._recipe.mean, self._recipe.std)
        step = self._first_step + self.state.global_step + 1
        outputs = output_of(model, step, inputs["image_ids"], pixel_values=pixels, pixel_mask=mask, labels=labels)
        if not bool(torch.isfinite(outputs.loss)):
            raise DivergedError(step, outputs.loss.item(), inputs["image_ids"])
        for name, value in outputs.loss_dict.items():
            self._parts[name] = self._parts.get(name, torch.zeros_like(value)) + value.detach()
        self._counted += 1
        loss = self._share_of_whole(outputs, inputs) if self._in_parts else outputs.loss
        return (loss, outputs) if return_outputs else loss

    def _share_of_whole(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """A part's loss such that what `Trainer` makes of all parts, their mean, is the loss of the whole."""
        own = loss_counts(self.model, inputs)
        mean_of = self.args.gradient_accumulation_steps * self.args.world_size
        terms = [
            term * (mean_of * divisor(name, own[name]) / divisor(name, self._whole[name]))
            for name, term in loss_parts(self.model, outputs).items()
        ]
        return torch.stack(terms).sum()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the parts of the loss, averaged over the steps since they were last logged, beside the loss itself."""
        if "loss" in logs and self._counted:
            logs |= {name: (total / self._counted).item() for name, total in self._parts.items()}
            self._parts, self._counted = {}, 0
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The figures of the validation split, of the averaged weights where there are any."""
        assert self._validation is not None
        metrics = {
            f"{metric_key_prefix}_{name}": value
            for name, value in self._validation.run(self.model, self._average, self.state.global_step).items()
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save weights and their average, without `training_args.bin`: a pickle that nobody reads."""
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        directory = Path(output_dir or self.args.output_dir)
        (directory / "training_args.bin").unlink(missing_ok=True)
        if self._average is not None:
            self._average.save(directory)


class _Averaging(TrainerCallback):
    """Takes the weights of every step into the average."""

    def __init__(self, average: Average) -> None:
        self._average = average

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """After the optimiser's step."""
        self._average.update(model)


class Patience(TrainerCallback):
    """Keeps a checkpoint of each best evaluation, and ends a stage that has had none for long.

    All it knows is in the trainer's own log, so a resumed run goes on as it would have.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The end of a stage is evaluated too."""
        control.should_evaluate = control.should_evaluate or state.global_step >= state.max_steps

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Look back over the evaluations of the stage."""
        name = f"eval_{self._watch.best}"
        best, since = None, 0
        for value in (entry[name] for entry in state.log_history if name in entry):
            since = since + 1
            if self._watch.better(value, best):
                best, since = value, 0
        control.should_save = control.should_save or since == 0
        if self._watch.patience is not None and since >= self._watch.patience:
            control.should_training_stop = control.should_save = True
