import hashlib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dataflow.bridge.batches import Batch
from dataflow.bridge.drafts import ExampleError
from dataflow.bridge.loader import BatchLoader, default_threads
from dataflow.bridge.padding import PadToLargest, PadToSize
from dataflow.bridge.resize import ResizePolicy
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from tests.dataflow.detection_sets import (
    make_records,
    write_ours,
)

POLICY = ResizePolicy(40, 60)
LENGTHS = (7, 1, 0, 9, 6)
N = sum(LENGTHS)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_ours(tmp_path_factory.mktemp("ours") / "small" / "1.0.0", make_records(N), LENGTHS)


def loader(dataset: PreparedDataset, batch_size: int = 4, **options: Any) -> BatchLoader:
    options = {"training": False, "threads": 2} | options
    return BatchLoader(dataset, "train", options.pop("policy", POLICY), batch_size, **options)


def ids(batches: Iterable[Batch]) -> list[tuple[str, ...]]:
    return [batch.image_ids for batch in batches]


def digest(batch: Batch) -> str:
    parts = [batch.pixel_values, batch.pixel_mask, batch.sizes, batch.original_sizes]
    parts += [tensor for target in batch.targets for tensor in (target.boxes, target.category_ids)]
    content = repr(batch.image_ids).encode() + b"".join(part.contiguous().numpy().tobytes() for part in parts)
    return hashlib.sha256(content).hexdigest()


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shardbox")]


class TestEvaluation:
    def test_each_image_comes_once_in_shard_order(self, dataset: PreparedDataset) -> None:
        batches = list(loader(dataset))
        assert [name for batch in batches for name in batch.image_ids] == [r.image_id for r in dataset.records("train")]
        assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 3]
        assert len(loader(dataset)) == 6

    @pytest.mark.parametrize("world_size", [1, 2, 3, 5, N + 2])
    def test_ranks_together_see_each_image_once(self, dataset: PreparedDataset, world_size: int) -> None:
        loaders = [loader(dataset, rank=rank, world_size=world_size) for rank in range(world_size)]
        seen = [ids(batches) for batches in loaders]
        assert [len(batches) for batches in seen] == [len(batches) for batches in loaders]
        assert Counter(name for rank in seen for batch in rank for name in batch) == Counter(
            record.image_id for record in dataset.records("train")
        )

    def test_it_goes_on_at_a_step(self, dataset: PreparedDataset) -> None:
        whole = ids(loader(dataset))
        for step in (1, 5, 6, 9):
            assert ids(loader(dataset, start_step=step)) == whole[step:]
            assert len(loader(dataset, start_step=step)) == len(whole[step:])

    def test_a_limit_takes_the_first_images(self, dataset: PreparedDataset) -> None:
        every = [name for batch in ids(loader(dataset)) for name in batch]
        assert [name for batch in ids(loader(dataset, limit=10)) for name in batch] == every[:10]
        assert len(loader(dataset, limit=1000)) == 6

    def test_a_shard_by_itself(self, dataset: PreparedDataset) -> None:
        for shard in dataset.shards("train"):
            expected = [record.image_id for record in dataset.shard_records(shard)]
            assert [name for batch in ids(loader(dataset, shard=shard.index)) for name in batch] == expected
            ranks = [loader(dataset, shard=shard.index, rank=rank, world_size=2) for rank in range(2)]
            assert [name for one in ranks for batch in ids(one) for name in batch] == expected
        with pytest.raises(UsageError, match="shard 0 for training"):
            loader(dataset, shard=0, training=True)

    def test_nothing_is_mirrored(self, dataset: PreparedDataset) -> None:
        assert [digest(b) for b in loader(dataset, flip=1.0)] == [digest(b) for b in loader(dataset)]


class TestTraining:
    def test_every_epoch_shows_each_image_once_in_full_batches(self, dataset: PreparedDataset) -> None:
        names = [name for batch in ids(islice(loader(dataset, training=True), N)) for name in batch]
        assert len(names) == 4 * N
        epochs = [names[i : i + N] for i in range(0, 4 * N, N)]
        assert all(sorted(epoch) == sorted(epochs[0]) == sorted(set(epoch)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 4
        assert epochs[0] != sorted(epochs[0])

    def test_the_order_depends_on_the_seed_alone(self, dataset: PreparedDataset) -> None:
        first = [digest(b) for b in islice(loader(dataset, training=True, seed=0, flip=0.5), 8)]
        assert first == [digest(b) for b in islice(loader(dataset, training=True, seed=0, flip=0.5, threads=5), 8)]
        assert first != [digest(b) for b in islice(loader(dataset, training=True, seed=1, flip=0.5), 8)]

    @pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (2, 3)])
    def test_starting_at_a_step_gives_the_very_batches_from_there(
        self, dataset: PreparedDataset, rank: int, world_size: int
    ) -> None:
        options = {"training": True, "seed": 4, "rank": rank, "world_size": world_size, "flip": 0.5}
        whole = [digest(b) for b in islice(loader(dataset, **options), 16)]
        for step in (1, 5, 6, 13):
            rest = [digest(b) for b in islice(loader(dataset, start_step=step, **options), 16 - step)]
            assert rest == whole[step:]

    def test_ranks_share_an_epoch(self, dataset: PreparedDataset) -> None:
        shares = []
        for rank in range(3):
            batches = loader(dataset, batch_size=1, training=True, rank=rank, world_size=3)
            shares.append([name for (name,) in ids(islice(batches, batches.examples_per_epoch))])
        assert Counter(name for share in shares for name in share) == Counter(
            record.image_id for record in dataset.records("train")
        )

    def test_mirrored_images_carry_mirrored_boxes(self, dataset: PreparedDataset) -> None:
        plain = next(iter(loader(dataset, training=True, batch_size=N)))
        mirrored = next(iter(loader(dataset, training=True, batch_size=N, flip=1.0)))
        assert plain.image_ids == mirrored.image_ids
        for i, (height, width) in enumerate(plain.sizes.tolist()):
            a, b = plain.pixel_values[i, :, :height, :width], mirrored.pixel_values[i, :, :height, :width]
            assert torch.equal(a.flip(-1), b)
            assert torch.allclose(1 - plain.targets[i].boxes[:, 0], mirrored.targets[i].boxes[:, 0])

    def test_it_has_no_length(self, dataset: PreparedDataset) -> None:
        with pytest.raises(TypeError, match="endless"):
            len(loader(dataset, training=True))

    def test_it_ends_after_some_steps(self, dataset: PreparedDataset) -> None:
        whole = ids(islice(loader(dataset, training=True), 11))
        assert ids(loader(dataset, training=True, steps=11)) == whole
        assert ids(loader(dataset, training=True, steps=11, start_step=8)) == whole[8:]
        lengths = [len(loader(dataset, training=True, steps=11, start_step=step)) for step in (0, 8, 12)]
        assert lengths == [11, 3, 0]
        resumed = loader(dataset, training=True, steps=11)
        resumed.load_state_dict(loader(dataset, training=True, start_step=9).state_dict())
        assert ids(resumed) == whole[9:] and len(resumed) == 11
        assert len(ids(loader(dataset, steps=2))) == 6, "evaluation goes to its own end"

    def test_a_limit_trains_on_the_first_images_again_and_again(self, dataset: PreparedDataset) -> None:
        names = {name for batch in ids(islice(loader(dataset, training=True, limit=5), 10)) for name in batch}
        assert names == {record.image_id for record in islice(dataset.records("train"), 5)}

    def test_kept_batches_are_not_overwritten(self, dataset: PreparedDataset) -> None:
        kept = list(islice(loader(dataset, training=True), 12))
        again = loader(dataset, training=True)
        for batch, fresh in zip(kept, again, strict=False):
            assert digest(batch) == digest(fresh)


class TestPadding:
    @pytest.mark.parametrize("pad", [PadToSize(64, 61), PadToLargest(multiple_of=16)], ids=str)
    def test_the_mask_is_exact_and_the_padding_zero(
        self, dataset: PreparedDataset, pad: PadToLargest | PadToSize
    ) -> None:
        # A training stream keeps its memory, so that what was in the padding before has to be wiped out.
        plain = islice(loader(dataset, training=True, flip=0.5), 12)
        for batch, expected in zip(loader(dataset, training=True, flip=0.5, pad=pad), plain, strict=False):
            canvas = tuple(batch.pixel_mask.shape[1:])
            assert canvas == pad.canvas_size([(h, w) for h, w in expected.sizes.tolist()])
            assert torch.equal(batch.sizes, expected.sizes)
            for i, (height, width) in enumerate(batch.sizes.tolist()):
                mask, pixels = batch.pixel_mask[i], batch.pixel_values[i]
                assert mask[:height, :width].all()
                assert mask.sum() == height * width
                assert not pixels[:, ~mask].any()
                assert torch.equal(pixels[:, :height, :width], expected.pixel_values[i, :, :height, :width])

    @pytest.mark.parametrize("training", [True, False])
    def test_an_image_that_does_not_fit_is_named(self, dataset: PreparedDataset, training: bool) -> None:
        sizes = {record.image_id: POLICY.target_size(record.size) for record in dataset.records("train")}
        with pytest.raises(UsageError, match=r"example \d+\) has .* its batch is padded to \(60, 50\)") as caught:
            list(loader(dataset, training=training, pad=PadToSize(60, 50)))
        named = next(name for name in sizes if repr(name) in str(caught.value))
        assert sizes[named][1] > 50
        assert f"(height, width) = {sizes[named]} px" in str(caught.value)
        del caught
        assert not decoding_threads()


class TestThreads:
    def test_stopping_early_leaves_no_threads(self, dataset: PreparedDataset) -> None:
        before = set(threading.enumerate())
        batches = iter(loader(dataset, training=True, threads=3))
        next(batches)
        assert len(decoding_threads()) == 3
        batches.close()  # type: ignore[attr-defined]
        assert set(threading.enumerate()) <= before
        for _ in loader(dataset, training=True):
            break
        assert set(threading.enumerate()) <= before
        list(loader(dataset))
        assert set(threading.enumerate()) <= before

    def test_an_exception_in_the_training_loop_leaves_no_threads(self, dataset: PreparedDataset) -> None:
        def train() -> None:
            for _ in loader(dataset, training=True):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train()
        assert not decoding_threads()

    def test_a_program_that_ends_within_an_epoch_ends_quietly(self, dataset: PreparedDataset) -> None:
        code = f"""
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.padding import PadToLargest, PadToSize
from dataflow.prepared import PreparedDataset
from dataflow.bridge.resize import ResizePolicy
batches = iter(BatchLoader(PreparedDataset({str(dataset.path)!r}), "train", ResizePolicy(40, 60), 4, training=True))
print(len(next(batches)))
"""
        finished = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
        assert (finished.returncode, finished.stdout) == (0, "4\n")
        assert "Exception" not in finished.stderr
        assert "Traceback" not in finished.stderr

    def test_torch_keeps_its_own_number_of_threads(self, dataset: PreparedDataset) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        seen: list[int] = []
        try:
            batches = iter(loader(dataset, training=True))
            next(batches)
            thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert [torch.get_num_threads(), *seen] == [3, 3]
            batches.close()  # type: ignore[attr-defined]
        finally:
            torch.set_num_threads(before)

    def test_decoding_threads_compute_alone(self, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: set[int] = set()

        def resize(image: Any, size: tuple[int, int], extent: Any, room: Any) -> Any:
            seen.add(torch.get_num_threads())
            return np.zeros((*size, 3), np.uint8)

        monkeypatch.setattr("dataflow.bridge.drafts.resize", resize)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            list(loader(dataset))
        finally:
            torch.set_num_threads(before)
        assert seen == {1}


class TestErrors:
    @pytest.fixture
    def broken(self, tmp_path: Path) -> PreparedDataset:
        records = make_records(8)
        records[5] = replace(records[5], image=records[5].image[:200])
        return write_ours(tmp_path / "small" / "1.0.0", records, [3, 5])

    @pytest.mark.parametrize("training", [True, False])
    def test_a_corrupt_image_is_named_and_leaves_no_threads(self, broken: PreparedDataset, training: bool) -> None:
        with pytest.raises(ExampleError, match=r"image 'image005' \(.*train.*00001-of-00002, example 2\)") as caught:
            list(islice(loader(broken, batch_size=2, training=training), 4))
        del caught
        assert not decoding_threads()

    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 0},
            {"rank": 1},
            {"rank": -1},
            {"world_size": 0},
            {"start_step": -1},
            {"steps": 0},
            {"group": 0},
            {"threads": 0},
            {"flip": 1.5},
            {"limit": 0},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_numbers_out_of_range_are_refused(self, dataset: PreparedDataset, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="in range"):
            loader(dataset, training=True, **options)

    def test_an_unknown_split_is_refused(self, dataset: PreparedDataset) -> None:
        with pytest.raises(UsageError, match="no split 'test'"):
            BatchLoader(dataset, "test", POLICY, 2, training=False)

    def test_a_rank_without_examples_cannot_train(self, dataset: PreparedDataset) -> None:
        with pytest.raises(UsageError, match=f"{N} examples for {N + 1} ranks"):
            loader(dataset, training=True, world_size=N + 1)


class TestDataLoader:
    def test_it_goes_through_a_data_loader_unchanged(self, dataset: PreparedDataset) -> None:
        batches = list(DataLoader(loader(dataset), batch_size=None))
        assert [digest(batch) for batch in batches] == [digest(batch) for batch in loader(dataset)]
        assert len(DataLoader(loader(dataset), batch_size=None)) == 6
        assert ids(islice(DataLoader(loader(dataset, training=True), batch_size=None), 3))

    def test_worker_processes_are_refused(self, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dataflow.bridge.loader.get_worker_info", object)
        with pytest.raises(UsageError, match="num_workers=0"):
            iter(loader(dataset))

    def test_by_default_there_is_a_thread_for_each_processor(self, dataset: PreparedDataset) -> None:
        assert 1 <= default_threads() <= 8
        assert BatchLoader(dataset, "train", POLICY, 2, training=False).threads == default_threads()
