"""The proof of the loader's promises: it holds where they are kept, and every check of it finds what breaks them."""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflow.bridge.resize import ResizePolicy
from dataflow.errors import UsageError
from dataflow.images import encode_png
from dataflow.prepared import PreparedDataset
from dataflow.records import FramePair
from dataflow.schema import Kind
from dataflow.tfrecord import read_records, write_record
from tests.dataflow.detection_sets import (
    NamelessLayout,
    VocLayout,
    make_record,
    make_records,
    prepare_with_tfds,
    write_ours,
)
from tests.factories import damaged_in_the_middle, photograph, pixels
from tests.trainers.broken_loaders import (
    LENGTHS,
    DependsOnTheRun,
    DependsOnThreads,
    DropsAVisit,
    ForgetsItsStep,
    LeavesAThread,
    LeavesThePlan,
    LosesAnImage,
    MovesBoxes,
    N,
    OwnLoader,
    PlansOtherwiseLater,
    RenamesClasses,
    RepeatsAVisit,
    ResumesItsFlips,
    SharesUnevenly,
    ShowsTheWrongTail,
    SwapsSizes,
)
from trainers.cli import main
from trainers.loader_proof.checks import CheckName, ProofOptions, Subject
from trainers.loader_proof.proof import NotProvedError, Proof, SplitProof, prove_split
from trainers.loader_proof.streams import check_threads

ALL = ["images", "boxes", "evaluation", "epochs", "order", "resuming", "threads"]
SMALL = ResizePolicy(40, 60)
QUICK = ProofOptions(batch_size=4, world_sizes=(1, 3), resize=SMALL)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_ours(tmp_path_factory.mktemp("ours") / "small" / "1.0.0", make_records(N), LENGTHS)


def failures(proof: SplitProof) -> dict[CheckName, tuple[str, ...]]:
    return {check.name: check.failures for check in proof.failed}


def assert_proved(proof: SplitProof) -> dict[str, dict[str, float]]:
    """All checks were made, and held; their counts."""
    assert [check.name for check in proof.checks] == ALL
    assert not failures(proof)
    return {check.name: dict(check.counts) for check in proof.checks}


class TestHolds:
    def test_ours_in_uneven_shares(self, dataset: PreparedDataset) -> None:
        counts = assert_proved(prove_split(dataset, "train", ProofOptions(batch_size=4, seed=3, resize=SMALL)))
        truth = sum(int((~record.objects.is_crowd).sum()) for record in dataset.records("train"))
        assert counts["images"] == {"images": N, "damaged": 0, "refused": 0}
        assert counts["boxes"]["boxes"] == truth
        assert 0 < counts["boxes"]["largest_error_px"] < 1e-3, "float32 rounds"
        assert counts["evaluation"] == {"world_sizes": 4, "visits": 4 * N}
        assert counts["epochs"] == {"world_sizes": 4, "visits": 8 * N}
        assert counts["resuming"]["steps"] == 4 and counts["threads"]["threads"] >= 1

    def test_a_stream_too_long_to_read_whole(self, tmp_path: Path) -> None:
        dataset = write_ours(tmp_path / "small" / "1.0.0", make_records(41), (20, 21))
        proof = prove_split(dataset, "train", ProofOptions(batch_size=1, world_sizes=(1,), resize=SMALL))
        counts = assert_proved(proof)
        order, resuming = (check.says for check in proof.checks[4:6])
        assert counts["order"]["batches"] == 16, "the beginning, and the end of the first epoch"
        assert "0 to 7 of rank 0 of 1, 37 to 44 of rank 0 of 1" in order
        assert resuming.count("second epoch") == 1 and counts["resuming"]["steps"] == 4

    def test_more_ranks_than_images(self, dataset: PreparedDataset) -> None:
        proof = prove_split(dataset, "train", ProofOptions(batch_size=2, world_sizes=(5, 2), limit=3, resize=SMALL))
        counts = assert_proved(proof)
        assert (proof.images, proof.total) == (3, N)
        assert counts["evaluation"]["world_sizes"] == 2 and counts["epochs"]["world_sizes"] == 1
        assert "for 5 ranks there are too few images" in proof.checks[3].says

    @pytest.mark.parametrize("layout", [VocLayout, NamelessLayout])
    def test_datasets_that_tfds_made(self, tmp_path: Path, layout: Any) -> None:
        counts = assert_proved(prove_split(prepare_with_tfds(layout, tmp_path, make_records(11)), "train", QUICK))
        assert counts["images"]["images"] == 11

    @pytest.mark.parametrize("kind", ["pairs", "differences"])
    def test_pairs_and_differences(self, tmp_path: Path, kind: Kind) -> None:
        afters = [make_record(f"pair{i}", 40, 60, n=i % 3, seed=i) for i in range(7)]
        befores = [replace(a, image_id=f"{a.image_id} before", image=_png(90 + i)) for i, a in enumerate(afters)]
        pairs = [FramePair(a.image_id, b, a, a.objects) for a, b in zip(afters, befores, strict=True)]
        difference = _png(5) if kind == "differences" else None
        dataset = write_ours(tmp_path / "walk" / "1.0.0", pairs, (3, 4), kind, difference)
        proof = prove_split(dataset, "train", QUICK)
        assert assert_proved(proof)["images"]["images"] == 7
        assert ("augmented" in proof.checks[4].says) == (kind == "pairs")

    def test_images_that_were_turned(self, tmp_path: Path) -> None:
        records = [make_record(f"turned{i}", 40, 60, seed=i, orientation=6) for i in range(5)]
        assert_proved(prove_split(write_ours(tmp_path / "small" / "1.0.0", records, (5,)), "train", QUICK))


def _png(seed: int) -> bytes:
    return encode_png(pixels(40, 60, seed=seed))


class TestDamage:
    def test_damaged_images_are_all_named(self, tmp_path: Path) -> None:
        records = make_records(12)
        for i in (2, 5, 11):
            records[i] = replace(records[i], image=records[i].image[: len(records[i].image) // 2])
        proof = prove_split(write_ours(tmp_path / "small" / "1.0.0", records, (3, 9)), "train", QUICK)
        found = failures(proof)
        assert [check.name for check in proof.checks] == ["images"], "nothing else can be looked at"
        assert len(found["images"]) == 3
        places = ("00000-of-00002, example 2", "00001-of-00002, example 2", "00001-of-00002, example 8")
        for failure, name, place in zip(found["images"], ("002", "005", "011"), places, strict=True):
            assert f"'image{name}'" in failure and place in failure
        assert "whole first" in list(proof.lines())[-1]

    def test_images_that_are_shown_in_part_are_noted(self, tmp_path: Path) -> None:
        records = [make_record(f"image{i}", 200, 300, seed=i) for i in range(4)]
        records[1] = replace(records[1], image=damaged_in_the_middle(photograph(200, 300, quality=90)))
        proof = prove_split(write_ours(tmp_path / "small" / "1.0.0", records, (2, 2)), "train", QUICK)
        assert assert_proved(proof)["images"] == {"images": 4, "damaged": 1, "refused": 0}
        [note] = proof.checks[0].notes
        assert note.startswith("1 damaged, shown as far as decodable: 'image1' (")
        assert "00000-of-00002, example 1" in note and f"    {note}" in list(proof.lines())

    def test_no_more_than_twenty_are_collected(self, tmp_path: Path) -> None:
        records = [replace(record, image=record.image[:200]) for record in make_records(25)]
        proof = prove_split(write_ours(tmp_path / "small" / "1.0.0", records, (25,)), "train", QUICK)
        assert len(failures(proof)["images"]) == 20

    def test_damage_beyond_the_limit_is_not_looked_at(self, tmp_path: Path) -> None:
        records = make_records(8)
        records[7] = replace(records[7], image=records[7].image[:200])
        dataset = write_ours(tmp_path / "small" / "1.0.0", records, (3, 5))
        assert_proved(prove_split(dataset, "train", replace(QUICK, limit=7)))
        assert failures(prove_split(dataset, "train", replace(QUICK, limit=8)))["images"]

    def test_an_image_of_another_size_than_its_example_says(self, tmp_path: Path) -> None:
        records = make_records(6)
        records[4] = replace(records[4], image=make_record("other", 20, 20).image)
        [found] = failures(prove_split(write_ours(tmp_path / "s" / "1.0.0", records, (6,)), "train", QUICK))["images"]
        assert "'image004'" in found and "example 4" in found and "(20, 20)" in found

    @pytest.mark.parametrize("ours", [True, False])
    def test_a_box_outside_of_its_image(self, tmp_path: Path, ours: bool) -> None:
        record = replace(make_record("only", 40, 80, n=0), objects=make_record("only", 40, 80, n=1).objects)
        edge = float(record.objects.boxes[0, 2] / np.float32(80))
        if ours:
            dataset = write_ours(tmp_path / "s" / "1.0.0", [*make_records(3), record], (3, 1))
        else:
            dataset = prepare_with_tfds(NamelessLayout, tmp_path, [record], num_shards=1)
        shard = dataset.shards("train")[-1]
        _rewrite(shard.path, lambda payloads: [_with_float(payload, edge, 1.25) for payload in payloads])
        [found] = failures(prove_split(dataset, "train", QUICK))["images"]
        assert f"({shard.path}, example 0)" in found and "leave the image of 80x40 px" in found

    def test_a_shard_that_lacks_an_example(self, tmp_path: Path) -> None:
        dataset = write_ours(tmp_path / "small" / "1.0.0", make_records(9), (4, 5))
        shard = dataset.shards("train")[1]
        _rewrite(shard.path, lambda payloads: payloads[:-1])
        [found] = failures(prove_split(dataset, "train", QUICK))["images"]
        assert str(shard.path) in found and "4 of 5 examples" in found

    def test_a_shard_with_a_flipped_bit(self, tmp_path: Path) -> None:
        dataset = write_ours(tmp_path / "small" / "1.0.0", make_records(9), (4, 5))
        shard = dataset.shards("train")[0]
        content = bytearray(shard.path.read_bytes())
        content[len(content) // 2] ^= 4
        shard.path.write_bytes(content)
        [found] = failures(prove_split(dataset, "train", QUICK))["images"]
        assert f"{shard.path}: damaged record" in found


def _rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    with path.open("rb") as file:
        payloads = list(read_records(file))
    with path.open("wb") as file:
        for payload in change(payloads):
            write_record(file, payload)


def _with_float(payload: bytes, old: float, new: float) -> bytes:
    """A serialised example in which the one float32 `old`, or one a rounding away, is another."""
    bits = struct.unpack("<I", struct.pack("<f", old))[0]
    near = [struct.pack("<I", bits + step) for step in (0, 1, -1)]
    [there] = [value for value in near if payload.count(value) == 1][:1]
    return payload.replace(there, struct.pack("<f", new))


class TestBrokenLoaders:
    @pytest.mark.parametrize(
        ("loader", "check", "words"),
        [
            (LosesAnImage, "images", ("gives image 'image012', the shards hold image 'image008'", "00003-of-")),
            (SwapsSizes, "images", ("'image000'", "its example says")),
            (MovesBoxes, "boxes", ("'image001'", "00000-of-00005, example 1", "px off")),
            (RenamesClasses, "boxes", ("other classes",)),
            (DropsAVisit, "evaluation", ("evaluation by 3 ranks", "'image022'", "00004-of-00005", "comes 0 times")),
            (DropsAVisit, "epochs", ("epoch 0 of 3 ranks", "comes 0 times")),
            (RepeatsAVisit, "evaluation", ("comes 2 times",)),
            (RepeatsAVisit, "epochs", ("comes 2 times",)),
            (SharesUnevenly, "epochs", ("the shares are of 1 and 21 images, which is not even",)),
            (ShowsTheWrongTail, "evaluation", ("the last batch of 3 ranks shows 'image000'", "not 'image019'")),
            (DependsOnThreads, "order", ("with 1 thread instead of", "other pixels or boxes")),
            (DependsOnTheRun, "order", ("read again, the batch of step 3", "other pixels")),
            (LeavesThePlan, "order", ("beside the plan, the batch of step 0 shows",)),
            (ForgetsItsStep, "resuming", ("resumed at step", "shows")),
            (ResumesItsFlips, "resuming", ("resumed at step", "other pixels")),
            (PlansOtherwiseLater, "resuming", ("other images are planned than without the interruption",)),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_what_they_break_is_found(
        self,
        dataset: PreparedDataset,
        monkeypatch: pytest.MonkeyPatch,
        loader: type[OwnLoader],
        check: CheckName,
        words: Sequence[str],
    ) -> None:
        monkeypatch.setattr("trainers.loader_proof.checks.BatchLoader", loader)
        proof = prove_split(dataset, "train", QUICK)
        found = failures(proof).get(check, ())
        assert any(all(word in failure for word in words) for failure in found), "\n".join(proof.lines())

    def test_a_loader_that_breaks_nothing(self, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is what the others change that is found, not how they do it."""
        monkeypatch.setattr("trainers.loader_proof.checks.BatchLoader", OwnLoader)
        assert_proved(prove_split(dataset, "train", QUICK))

    def test_a_thread_that_is_left_is_found(self, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trainers.loader_proof.checks.BatchLoader", LeavesAThread)
        try:
            # Alone, because the thread is left already by the first of the other checks.
            found = check_threads(Subject(dataset, "train", QUICK))
        finally:
            LeavesAThread.stop.set()
        assert found.failures == ("after a break in training the thread 'left behind' is left",)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"limit": 0}, "--limit 0"),
            ({"world_sizes": ()}, "--world-sizes"),
            ({"world_sizes": (2, 0)}, "--world-sizes 2, 0"),
        ],
    )
    def test_numbers_that_make_no_sense(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            ProofOptions(**options)

    def test_an_empty_split(self, tmp_path: Path) -> None:
        dataset = write_ours(tmp_path / "small" / "1.0.0", [], (0,))
        with pytest.raises(UsageError, match="no images"):
            prove_split(dataset, "train", QUICK)


class TestCommand:
    WORDS = ("--batch-size", "4", "--world-sizes", "1,3")

    def test_what_it_prints(self, dataset: PreparedDataset, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify-loader", str(dataset.path), *self.WORDS, "--limit", "10", "--seed", "2"]) == 0
        out, err = capsys.readouterr()
        lines = out.splitlines()
        assert not err
        assert lines[0] == f"train: the first 10 of {N} images are looked at"
        assert [line.split(": ")[:2] for line in lines[1:-1]] == [["  holds", name] for name in ALL]
        assert lines[-1].startswith("proved: the loader of shardbox ")
        assert f"on small (train 10 of {N} images; fingerprint {dataset.fingerprint}; seed 2)" in lines[-1]

    def test_json(self, dataset: PreparedDataset, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify-loader", str(dataset.path), *self.WORDS, "--split", "train", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["dataset"], answer["fingerprint"]) == ("small", dataset.fingerprint)
        [split] = answer["splits"]
        assert (split["split"], split["images"], split["total"]) == ("train", N, N)
        assert [check["name"] for check in split["checks"]] == ALL

    def test_what_it_refuses(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        records = make_records(6)
        for i in (1, 4):
            records[i] = replace(records[i], image=records[i].image[:200])
        dataset = write_ours(tmp_path / "small" / "1.0.0", records, (6,))
        assert main(["verify-loader", str(dataset.path), *self.WORDS, "--json"]) == 1
        out, err = capsys.readouterr()
        answer = json.loads(out)
        assert answer["error"] == "refused" and "prepare the dataset again" in answer["remedy"]
        assert "'image001'" in answer["message"] and "(and 1 more)" in answer["message"]
        assert len(answer["notes"]) == 2 and "'image004'" in answer["notes"][1]
        assert "FAILS: images: " in err and "'image004'" in err and "proved" not in err

    @pytest.mark.parametrize(
        "words", [("--world-sizes", "1,x"), ("--world-sizes", "0"), ("--split", "test"), ("--limit", "0")]
    )
    def test_wrong_usage(
        self, dataset: PreparedDataset, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
    ) -> None:
        assert main(["verify-loader", str(dataset.path), *words]) == 2
        assert words[1] in capsys.readouterr().err

    def test_a_mistake_of_the_loader_is_not_the_dataset_s(
        self, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trainers.loader_proof.checks.BatchLoader", DropsAVisit)
        proof = Proof(dataset.name, dataset.fingerprint, 0, (prove_split(dataset, "train", QUICK),))
        with pytest.raises(NotProvedError, match="evaluation by 3 ranks") as caught:
            proof.require()
        assert caught.value.exit_status == 1 and "report it" in caught.value.remedy
