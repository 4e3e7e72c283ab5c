"""Real sources, beside the checkout: what they hold and what is wrong with them, counted independently."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataflow.images import decode_rgb
from dataflow.prepared import PreparedDataset
from dataflow.records import Change
from dataflow.splits import FrameRanges, parse_splits
from tests.factories import prepare
from tests.tfds_builders.broken_sources import load_json
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.sources.moved import Targets
from tfds_builders.sources.pairing import PairOptions

DATA = Path(__file__).parents[3].parent / "shared" / "data"
COCO128, PETS = DATA / "coco128", DATA / "pets09_s2l1"
needs_coco128 = pytest.mark.skipif(not COCO128.is_dir(), reason=f"{COCO128} is not there: real data is not shipped")
needs_pets = pytest.mark.skipif(not PETS.is_dir(), reason=f"{PETS} is not there: real data is not shipped")


@pytest.fixture(scope="module")
def coco128(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreparedDataset]:
    out = tmp_path_factory.mktemp("coco128")
    return {"yolo": prepare(open_yolo(COCO128), out, "yolo"), "coco": prepare(open_coco(COCO128), out, "coco")}


@needs_coco128
class TestCoco128:
    def test_counts_add_up(self, coco128: dict[str, PreparedDataset]) -> None:
        images = {path.stem for path in (COCO128 / "images/train2017").iterdir()}
        labels = {path.stem for path in (COCO128 / "labels/train2017").iterdir()}
        assert len(images) == len(labels) == 128 and len(images - labels) == len(labels - images) == 2
        audit = load_json(coco128["yolo"].path / "audit.json")
        assert (audit["images_in"], audit["images_prepared"], audit["images_quarantined"]) == (128, 126, 2)
        assert audit["quarantined"] == sorted(images - labels)
        errors = {(f["code"], f["file"]) for f in audit["findings"] if f["severity"] == "error"}
        assert errors == {("label-missing", f"labels/train2017/{name}.txt") for name in images - labels} | {
            ("label-without-image", f"labels/train2017/{name}.txt") for name in labels - images
        }
        listed = json.loads((COCO128 / "annotations/instances_train2017.json").read_text())["images"]
        audit = load_json(coco128["coco"].path / "audit.json")
        assert audit["images_in"] == len(listed) == audit["images_prepared"] + audit["images_quarantined"]

    def test_yolo_and_coco_give_equal_records(self, coco128: dict[str, PreparedDataset]) -> None:
        records = {
            kind: {record.image_id: record for split in dataset.splits for record in dataset.records(split)}
            for kind, dataset in coco128.items()
        }
        common = records["yolo"].keys() & records["coco"].keys()
        assert len(common) == 126
        names = {kind: dataset.categories.names for kind, dataset in coco128.items()}
        assert names["yolo"] == names["coco"] and len(names["yolo"]) == 80
        assert coco128["coco"].categories.source_ids[-1] == 90, "the official numbers have gaps"
        for image_id in common:
            a, b = records["yolo"][image_id], records["coco"][image_id]
            assert (a.size, a.image) == (b.size, b.image)
            order = [np.lexsort((*r.objects.boxes.T.round(1), r.objects.category_ids)) for r in (a, b)]
            np.testing.assert_allclose(
                a.objects.boxes[order[0]], b.objects.boxes[order[1]], rtol=0, atol=1e-2, err_msg=image_id
            )
            assert a.objects.category_ids[order[0]].tolist() == b.objects.category_ids[order[1]].tolist()

    def test_every_box_is_there(self, coco128: dict[str, PreparedDataset]) -> None:
        lines = Counter(
            int(line.split()[0])
            for path in (COCO128 / "labels/train2017").iterdir()
            if (COCO128 / "images/train2017" / f"{path.stem}.jpg").is_file()
            for line in path.read_text().splitlines()
        )
        dataset = coco128["yolo"]
        found: Counter[int] = Counter()
        for split in dataset.splits:
            for record in dataset.records(split):
                found.update(record.objects.category_ids.tolist())
        assert found == lines

    def test_the_grey_photograph_is_kept(self, coco128: dict[str, PreparedDataset]) -> None:
        paths = sorted((COCO128 / "images/train2017").iterdir())
        (grey,) = [path for path in paths if Image.open(path).mode == "L"]
        records = [
            record
            for split in coco128["yolo"].splits
            for record in coco128["yolo"].records(split)
            if record.image_id == grey.stem
        ]
        assert len(records) == 1 and records[0].image == grey.read_bytes()
        pixels = decode_rgb(records[0].image)
        assert pixels.shape == (*records[0].size, 3) and (pixels == pixels[:, :, :1]).all()


@pytest.fixture(scope="module")
def rows() -> dict[int, dict[int, tuple[tuple[float, float, float, float], bool]]]:
    """gt.txt of PETS by frame and track: box x0 y0 x1 y1 px cut at 768 x 576, and whether it is to be ignored."""
    found: dict[int, dict[int, tuple[tuple[float, float, float, float], bool]]] = {}
    with (PETS / "gt/gt.txt").open() as file:
        for frame, track, left, top, width, height, flag, *_ in csv.reader(file):
            x0, y0 = float(left) - 1, float(top) - 1
            x1, y1 = x0 + float(width), y0 + float(height)
            box = (max(x0, 0), max(y0, 0), min(x1, 768), min(y1, 576))
            found.setdefault(int(frame), {})[int(track)] = (box, float(flag) == 0)
    return found


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


GAP = 10


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreparedDataset]:
    out = tmp_path_factory.mktemp("pets")
    splits = parse_splits("train=1-150,validation=151-200")
    assert isinstance(splits, FrameRanges)
    made = {}
    targets: Targets
    for targets in ("both", "after"):
        source = open_mot(PETS, PairOptions(GAP, 0.5, targets), splits)
        made[targets] = prepare(source, out, targets, splits=splits)
    return made


@needs_pets
class TestPets:
    def test_numbers_of_pairs(self, pets: dict[str, PreparedDataset]) -> None:
        assert len(list((PETS / "img1").iterdir())) == 200
        for dataset in pets.values():
            assert dataset.splits == {"train": 150 - GAP, "validation": 50 - GAP}
            audit = load_json(dataset.path / "audit.json")
            assert (audit["images_in"], audit["images_quarantined"]) == (180, 0)
            assert not [finding for finding in audit["findings"] if finding["severity"] == "error"]

    def test_frames_of_pairs(self, pets: dict[str, PreparedDataset]) -> None:
        ranges = {"train": range(1, 151), "validation": range(151, 201)}
        for split, frames in ranges.items():
            for pair in pets["both"].pairs(split):
                numbers = [int(Path(record.filename).stem) for record in (pair.before, pair.after)]
                assert numbers[1] - numbers[0] == GAP and numbers[0] in frames and numbers[1] in frames
                assert pair.after.image == (PETS / pair.after.filename).read_bytes()
                assert pair.before.image == (PETS / pair.before.filename).read_bytes()

    @pytest.mark.parametrize("targets", ["both", "after"])
    def test_targets_by_hand(
        self,
        targets: str,
        pets: dict[str, PreparedDataset],
        rows: dict[int, dict[int, tuple[tuple[float, float, float, float], bool]]],
    ) -> None:
        kinds: Counter[str] = Counter()
        for split in pets[targets].splits:
            for pair in pets[targets].pairs(split):
                number = int(Path(pair.before.filename).stem)
                then, now = rows[number], rows[number + GAP]
                expected = []
                for track in {*then, *now}:
                    old, new = then.get(track), now.get(track)
                    ignored = any(place is not None and place[1] for place in (old, new))
                    moved = old is None or new is None or overlap(old[0], new[0]) < 0.5
                    if not moved and not ignored:
                        continue
                    kinds["ignored" if ignored else "came" if not old else "went" if not new else "moved"] += 1
                    places = [old, new] if targets == "both" or ignored else [new]
                    expected += [(track, ignored, *place[0]) for place in places if place is not None]
                found = pair.objects
                assert found.track_ids is not None and found.changes is not None
                columns = zip(found.track_ids.tolist(), found.is_crowd.tolist(), found.boxes.tolist(), strict=True)
                ours = sorted((track, crowd, *box) for track, crowd, box in columns)
                np.testing.assert_allclose(ours, sorted(expected), rtol=0, atol=2e-3, err_msg=pair.pair_id)
                assert set(found.changes.tolist()) <= set(Change)
        assert kinds["moved"] > 700 and kinds["came"] and kinds["went"], "the comparison is not of nothing"

    def test_differences(self, pets: dict[str, PreparedDataset], tmp_path: Path) -> None:
        """Decoded with Pillow and subtracted with numpy, three pairs agree to what JPEG 95 does to a difference."""
        made = DifferencesBuilder(pets["both"], name="d", out=tmp_path).prepare()
        assert made.splits == pets["both"].splits
        for (_, example), _ in zip(made.examples("validation"), range(3), strict=False):
            frames = [
                np.asarray(Image.open(PETS / example[f"{name}/filename"].decode()).convert("RGB"), np.int64)
                for name in ("before", "image")
            ]
            change = np.abs(frames[1] - frames[0])
            assert np.abs(decode_rgb(example["image"]) - change).mean() < 1.5
