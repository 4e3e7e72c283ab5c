"""The loader in other people's training loops, each giving the batches that a plain loop gets."""

import signal
import subprocess
import sys
import threading
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from dataflow.bridge.batches import Batch
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.resize import ResizePolicy
from dataflow.prepared import PreparedDataset
from tests.dataflow.detection_sets import make_records, write_ours

N, STEPS = 23, 9


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    path = tmp_path_factory.mktemp("ours") / "small" / "1.0.0"
    return write_ours(path, make_records(N), (14, 9), file_format="array_record")


def loader(dataset: PreparedDataset, **options: Any) -> BatchLoader:
    options = {"training": True, "threads": 2, "flip": 0.5} | options
    return BatchLoader(dataset, "train", ResizePolicy(40, 60), 4, **options)


class Recorder(torch.nn.Module):
    """A model that notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[tuple[tuple[str, ...], int]] = []

    def forward(self, pixel_values: torch.Tensor, image_ids: tuple[str, ...]) -> torch.Tensor:
        self.seen.append((image_ids, int(pixel_values.long().sum())))
        return self.weight * pixel_values.float().mean()


def plain(dataset: PreparedDataset, **options: Any) -> list[tuple[tuple[str, ...], int]]:
    model = Recorder()
    for batch in islice(loader(dataset, **options), STEPS):
        model(batch.pixel_values, batch.image_ids)
    return model.seen


def test_hugging_face_trainer(dataset: PreparedDataset, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    class Ready(Trainer):
        def get_train_dataloader(self) -> Any:
            return DataLoader(loader(dataset), batch_size=None, collate_fn=Batch.inputs)

        def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
            assert inputs.keys() == {"pixel_values", "pixel_mask", "labels"}
            return model(inputs["pixel_values"], ())

    model = Recorder()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=STEPS, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True
    )
    Ready(model=model, args=arguments).train()
    assert [pixels for _, pixels in model.seen] == [pixels for _, pixels in plain(dataset)]


def test_accelerate(dataset: PreparedDataset) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = Recorder()
    optimiser = torch.optim.SGD(model.parameters(), 0.0)
    prepared, optimiser = accelerator.prepare(model, optimiser)
    batches = loader(dataset, rank=accelerator.process_index, world_size=accelerator.num_processes)
    for batch in islice(batches, STEPS):
        here = batch.to(accelerator.device)
        accelerator.backward(prepared(here.pixel_values, here.image_ids))
        optimiser.step()
    assert model.seen == plain(dataset)


def test_lightning_and_its_checkpoints(dataset: PreparedDataset, tmp_path: Path) -> None:
    """A run that is stopped after four steps goes on, from its checkpoint, with the fifth batch."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Recorder()

        def training_step(self, batch: Batch, _: int) -> torch.Tensor:
            return self.model(batch.pixel_values, batch.image_ids)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.0)

    def fit(steps: int, checkpoint: Path | None) -> tuple[Module, Any]:
        module = Module()
        trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(
            module, loader(dataset, steps=STEPS), ckpt_path=checkpoint, weights_only=False if checkpoint else None
        )
        return module, trainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, trainer = fit(4, None)
        trainer.save_checkpoint(tmp_path / "four.ckpt")
        second, _ = fit(STEPS, tmp_path / "four.ckpt")
    assert first.model.seen + second.model.seen == plain(dataset)


def test_torch_data_loader_pins_what_it_hands_on(dataset: PreparedDataset) -> None:
    """Through `Batch.pin_memory`, which needs CUDA; where there is none it hands on what there is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = DataLoader(loader(dataset), batch_size=None, pin_memory=True)
        seen = [(batch.image_ids, int(batch.pixel_values.long().sum())) for batch in islice(batches, STEPS)]
    assert seen == plain(dataset)
    assert batch_is_pinned(next(iter(batches))) == torch.cuda.is_available()


def batch_is_pinned(batch: Batch) -> bool:
    return batch.pixel_values.is_pinned() and batch.pixel_mask.is_pinned()


def test_no_thread_is_left(dataset: PreparedDataset) -> None:
    list(islice(DataLoader(loader(dataset), batch_size=None), 2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shardbox")]


@pytest.mark.parametrize("file_format", ["array_record", pytest.param("tfrecord", marks=pytest.mark.slow)])
def test_control_c_ends_at_once_and_quietly(tmp_path: Path, file_format: Any) -> None:
    dataset = write_ours(tmp_path / "small" / "1.0.0", make_records(N), (14, 9), file_format=file_format)
    code = f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # A test may run where it is ignored.
from dataflow.bridge.loader import BatchLoader
from dataflow.prepared import PreparedDataset
from dataflow.bridge.resize import ResizePolicy
for batch in BatchLoader(PreparedDataset({str(dataset.path)!r}), "train", ResizePolicy(40, 60), 4, training=True):
    print("step", flush=True)
    time.sleep(0.05)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1 and "Exception ignored" not in errors
