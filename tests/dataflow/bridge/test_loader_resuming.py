"""A loader that is killed goes on with the very batches that would have come, and keeps its memory."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from dataflow.bridge.batches import Batch
from dataflow.bridge.image_augmentation import ImageAugmentation
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.resize import ResizePolicy
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from tests.dataflow.detection_sets import make_record, make_records, write_ours

POLICY = ResizePolicy(40, 60)
LENGTHS = (7, 1, 0, 9, 6)
N = sum(LENGTHS)
STEPS = 60
AUGMENTATION = ImageAugmentation(scale=1.5, crop=0.7, exposure=0.2, noise=2)
FORMATS = ["array_record", pytest.param("tfrecord", marks=pytest.mark.slow)]  # TensorFlow is loaded by each process.
PHOTOGRAPHS = Path(__file__).parents[3].parent / "shared" / "data" / "coco128" / "images" / "train2017"


@pytest.fixture(scope="module", params=FORMATS)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    path = tmp_path_factory.mktemp("ours") / "small" / "1.0.0"
    return write_ours(path, make_records(N), LENGTHS, file_format=request.param)


def loader(dataset: PreparedDataset, batch_size: int = 4, **options: Any) -> BatchLoader:
    options = {"training": True, "seed": 5, "flip": 0.5, "augmentation": AUGMENTATION, "threads": 2} | options
    return BatchLoader(dataset, "train", POLICY, batch_size, **options)


def digest(batch: Batch) -> str:
    parts = [batch.pixel_values, batch.pixel_mask, batch.sizes, batch.shown]
    parts += [tensor for target in batch.targets for tensor in (target.boxes, target.category_ids)]
    content = repr(batch.image_ids).encode() + b"".join(part.contiguous().numpy().tobytes() for part in parts)
    return hashlib.sha256(content).hexdigest()


def write_digests(path: str, log: str, threads: int) -> None:
    """What a training process does: go on from what its log says, a line for each step, until it is killed."""
    lines = Path(log).read_text().splitlines() if Path(log).exists() else []
    batches = loader(PreparedDataset(path), threads=threads)
    if lines:
        batches.load_state_dict(json.loads(lines[-1])["state"])
    with Path(log).open("a") as file:
        for batch in islice(batches, STEPS - len(lines)):
            file.write(json.dumps({"digest": digest(batch), "state": batches.state_dict()}) + "\n")
            file.flush()
            time.sleep(0.02)


def test_killed_ten_times(dataset: PreparedDataset, tmp_path: Path) -> None:
    expected = [digest(batch) for batch in islice(loader(dataset), STEPS)]
    log, rng = tmp_path / "log", random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dataflow.bridge.loader", "tests.dataflow.detection_sets", "psutil"])
    kills, survived = 0, 0
    while survived < STEPS:
        process = context.Process(target=write_digests, args=(str(dataset.path), str(log), rng.randint(1, 4)))
        process.start()
        wanted = min(STEPS, survived + rng.randint(1, 8)) if kills < 10 else STEPS
        while process.is_alive() and (len(log.read_bytes().splitlines()) if log.exists() else 0) < wanted:
            time.sleep(0.005)
        if kills < 10:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        text = log.read_text()
        log.write_text(text[: text.rfind("\n") + 1])  # The last line may have been cut off.
        survived = len(log.read_text().splitlines())
    assert kills == 10
    assert [json.loads(line)["digest"] for line in log.read_text().splitlines()] == expected


class TestState:
    def test_it_is_of_one_size(self, dataset: PreparedDataset) -> None:
        batches = loader(dataset)
        sizes = {len(batches.state_dict())}
        for _ in islice(batches, 30):
            sizes.add(len(batches.state_dict()))
        assert sizes == {3}
        assert batches.state_dict() == {"examples": 120, "seed": 5, "split_examples": N}

    def test_it_counts_what_was_handed_on_and_not_what_was_drawn_ahead(self, dataset: PreparedDataset) -> None:
        batches = loader(dataset, start_step=3)
        assert batches.state_dict()["examples"] == 12
        iterator = iter(batches)
        next(iterator)
        assert batches.state_dict()["examples"] == 16
        again = loader(dataset)
        again.load_state_dict(batches.state_dict())
        assert digest(next(iter(again))) == digest(next(iterator))

    def test_a_changed_number_of_ranks_goes_on_after_as_many_examples(self, dataset: PreparedDataset) -> None:
        """The running epoch may show images twice or not at all, every later one shows each once."""
        state = {"examples": 4 * 3 * 5, "seed": 5, "split_examples": N}  # 3 ranks, 5 steps of 4
        names: list[str] = []
        for rank in range(2):
            ours = loader(dataset, batch_size=1, rank=rank, world_size=2)
            ours.load_state_dict(state)
            assert ours.start_step == 30
            share = ours.examples_per_epoch
            shown = [batch.image_ids[0] for batch in islice(ours, 6 * share)]
            first = -(-30 // share) * share - 30  # of a later epoch
            names += shown[first : first + share]
        assert Counter(names) == Counter(record.image_id for record in dataset.records("train"))

    @pytest.mark.parametrize("change", [{"seed": 6}, {"split_examples": 22}])
    def test_that_of_other_data_is_refused(self, dataset: PreparedDataset, change: dict[str, int]) -> None:
        with pytest.raises(UsageError, match=f"the loader's state has {next(iter(change))}"):
            loader(dataset).load_state_dict(loader(dataset).state_dict() | change)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_groups_change_nothing_about_which_images_come(dataset: PreparedDataset, world_size: int) -> None:
    """By any number of ranks, one epoch after the other, in batches that do not divide them."""
    everything = Counter(record.image_id for record in dataset.records("train"))
    epochs: list[Counter[str]] = [Counter(), Counter(), Counter()]
    for rank in range(world_size):
        ours = loader(dataset, batch_size=3, rank=rank, world_size=world_size)
        share = ours.examples_per_epoch
        names = [name for batch in islice(ours, share) for name in batch.image_ids]
        for number, epoch in enumerate(epochs):
            epoch.update(names[number * share : (number + 1) * share])
    assert epochs == [everything] * 3
    evaluated: Counter[str] = Counter()
    for rank in range(world_size):
        ours = loader(dataset, batch_size=3, rank=rank, world_size=world_size, training=False, group=4)
        evaluated.update(name for batch in ours for name in batch.image_ids)
    assert evaluated == everything


def test_evaluation_in_groups_resumes(dataset: PreparedDataset) -> None:
    whole = [digest(batch) for batch in loader(dataset, batch_size=3, training=False, group=4)]
    assert len(whole) == 8
    for step in range(9):
        rest = [digest(b) for b in loader(dataset, batch_size=3, training=False, group=4, start_step=step)]
        assert rest == whole[step:]


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"needs the COCO photographs in {PHOTOGRAPHS}")
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_ten_epochs_take_the_memory_of_two(tmp_path: Path, file_format: Any) -> None:
    context = multiprocessing.get_context("spawn")
    sender, receiver = context.Pipe()
    process = context.Process(target=memory_by_epoch, args=(str(tmp_path), file_format, sender))
    process.start()
    megabytes = receiver.recv()
    process.join()
    assert len(megabytes) == 10
    assert megabytes[-1] <= 1.03 * megabytes[1], megabytes


def memory_by_epoch(folder: str, file_format: Any, sender: Any) -> None:
    """Most memory in use in each of ten epochs over the photographs, MB."""
    records = []
    for seed, path in enumerate(sorted(PHOTOGRAPHS.glob("*.jpg"))):
        from dataflow.images import read_header

        data = path.read_bytes()
        records.append(make_record(path.stem, *read_header(data).size, seed=seed, image=data))
    half = len(records) // 2
    lengths = [half, len(records) - half]
    dataset = write_ours(Path(folder) / "small" / "1.0.0", records, lengths, file_format=file_format)
    del records
    batches: Iterator[Batch] = iter(BatchLoader(dataset, "train", ResizePolicy(480, 640), 8, training=True, flip=0.5))
    process, most = psutil.Process(), []
    for _ in range(10):
        used = []
        for batch in islice(batches, 16):
            assert batch.pixel_values.numel()
            used.append(process.memory_info().rss / 2**20)
        most.append(float(np.max(used)))
    sender.send(most)
    os._exit(0)
