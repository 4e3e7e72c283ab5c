"""Detectron2: its dicts and its COCO files against what its documentation asks for, by readers of others.

Detectron2 itself has to be built, and is not at hand: what it registers and trains with is pretended here, as its
documentation describes it.
"""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as masks
from pycocotools.coco import COCO

from dataflow.boxes import xyxy_to_coco
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, ImageRecord, Objects
from tests.trainers.conftest import NAMES, Samples
from tfds_builders.export import export_dataset
from trainers import detectron2_bridge as bridge
from trainers.cli import main

TRIANGLE = [[10.0, 10.0, 30.0, 10.0, 20.0, 30.0]]
RUNS = {"size": [64, 96], "counts": [1000, 200, 64 * 96 - 1200]}
TWO_POINTS = [[1.0, 1.0, 2.0, 2.0]]


def oriented(image: bytes, orientation: int) -> bytes:
    """The same pixels with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.open(io.BytesIO(image)).save(out, "JPEG", quality=95, exif=exif.tobytes())
    return out.getvalue()


@pytest.fixture
def dataset(samples: Samples) -> PreparedDataset:
    """Images with every kind of mask, one without objects, one that EXIF turns, and one whose EXIF is ignored."""
    boxes = [[10, 10, 30, 30], [40, 5, 60, 25], [2, 2, 80, 60], [1, 1, 2, 2]]
    shaped = Objects(
        boxes,
        [0, 1, 2, 0],
        is_crowd=[False, False, True, False],
        segmentations=(json.dumps(TRIANGLE), "", json.dumps(RUNS), json.dumps(TWO_POINTS)),
    )
    nothing = Objects(np.zeros((0, 4)), [])
    pixels = oriented(samples.image(64, 96), 6)
    records = [
        samples.record("a/1", shaped, source_id="17"),
        samples.record("empty", nothing),
        ImageRecord("turned", pixels, 96, 64, Objects([[5, 6, 20, 90]], [1]), "s", "tests"),
        ImageRecord("kept", pixels, 64, 96, Objects([[5, 6, 90, 60]], [2]), "s", "tests", orientation=1),
    ]
    return samples.dataset({"train": records, "validation": [samples.record("b", shaped)]})


def test_dicts_are_what_the_documentation_says(dataset: PreparedDataset, tmp_path: Path) -> None:
    found = bridge.dicts(dataset, "train", tmp_path / "media")
    assert found == bridge.dicts(dataset, "train", tmp_path / "media")
    assert [len(image["annotations"]) for image in found] == [4, 0, 1, 1]
    assert len({image["image_id"] for image in found}) == 4
    assert found[0]["image_id"] == 17
    for image, record in zip(found, dataset.records("train"), strict=True):
        assert Path(image["file_name"]).is_absolute()
        with Image.open(image["file_name"]) as opened:
            upright = ImageOps.exif_transpose(opened)  # As its `read_image` does.
            assert (image["height"], image["width"]) == (upright.height, upright.width) == record.size
        for annotation in image["annotations"]:
            assert set(annotation) - {"segmentation"} == {"bbox", "bbox_mode", "category_id", "iscrowd"}
            x0, y0, x1, y1 = annotation["bbox"]
            assert 0 <= x0 < x1 <= image["width"] and 0 <= y0 < y1 <= image["height"]
            assert annotation["bbox_mode"] == 0  # BoxMode.XYXY_ABS
            assert annotation["category_id"] in range(len(NAMES)) and annotation["iscrowd"] in (0, 1)
            assert all(type(value) in (int, float) for value in (*annotation["bbox"], annotation["category_id"]))


def test_images_are_the_bytes_of_the_source(dataset: PreparedDataset, tmp_path: Path) -> None:
    found = bridge.dicts(dataset, "train", tmp_path)
    for image, record in list(zip(found, dataset.records("train"), strict=True))[:3]:
        assert Path(image["file_name"]).read_bytes() == record.image


def test_masks_are_polygons_or_compressed_runs(dataset: PreparedDataset, tmp_path: Path) -> None:
    annotations = bridge.dicts(dataset, "train", tmp_path)[0]["annotations"]
    assert annotations[0]["segmentation"] == TRIANGLE
    assert "segmentation" not in annotations[1] and "segmentation" not in annotations[3]
    decoded = masks.decode(annotations[2]["segmentation"])
    assert decoded.shape == (64, 96)
    assert decoded.ravel(order="F").nonzero()[0].tolist() == list(range(1000, 1200))


def test_pairs_are_refused_and_differences_are_images(samples: Samples, tmp_path: Path) -> None:
    objects = Objects([[4, 4, 20, 30]], [1])
    pairs = samples.dataset({"train": [samples.pair("p", objects)]}, name="pairs", kind="pairs")
    with pytest.raises(UsageError, match="holds pairs, of which Detectron2 has no notion; make `shardbox diff`"):
        bridge.dicts(pairs, "train", tmp_path)
    differences = samples.dataset({"train": [samples.pair("p", objects)]}, name="diffs", kind="differences")
    found = bridge.dicts(differences, "train", tmp_path)
    assert Path(found[0]["file_name"]).read_bytes() == next(iter(differences.records("train"))).image
    assert found[0]["annotations"][0]["bbox"] == [4, 4, 20, 30]


class TestExport:
    def test_pycocotools_reads_what_the_dicts_say(self, dataset: PreparedDataset, tmp_path: Path) -> None:
        result = export_dataset(dataset, "detectron2", tmp_path / "out", ["train", "validation"])
        api = COCO(str(tmp_path / "out" / "annotations" / "instances_train.json"))
        assert sorted(api.getCatIds()) == [1, 2, 3]  # So its own ids, by their rank, are ours.
        assert [cat["name"] for cat in api.loadCats([1, 2, 3])] == list(NAMES)
        for image in bridge.dicts(dataset, "train", tmp_path / "media"):
            described = api.imgs[image["image_id"]]
            assert (described["height"], described["width"]) == (image["height"], image["width"])
            file = tmp_path / "out" / "images" / "train" / described["file_name"]
            if image["shardbox_id"] != "kept":
                assert file.read_bytes() == Path(image["file_name"]).read_bytes()
            rows = api.imgToAnns[image["image_id"]]
            assert [row["category_id"] - 1 for row in rows] == [a["category_id"] for a in image["annotations"]]
            assert [row["iscrowd"] for row in rows] == [a["iscrowd"] for a in image["annotations"]]
            boxes = np.array([a["bbox"] for a in image["annotations"]], np.float32).reshape(-1, 4)
            np.testing.assert_allclose(np.reshape([row["bbox"] for row in rows], (-1, 4)), xyxy_to_coco(boxes))
            assert ["segmentation" in row for row in rows] == ["segmentation" in a for a in image["annotations"]]
        assert all(annotation["id"] > 0 for annotation in api.dataset["annotations"])
        assert result["not_held"]["class ids of the source"] == 3
        assert result["not_held"]["EXIF orientations that were ignored"] == 1

    def test_no_object_is_passed_over_for_a_mask_without_area(self, dataset: PreparedDataset, tmp_path: Path) -> None:
        """Detectron2 leaves out whatever has a mask none of whose polygons has three points."""
        result = export_dataset(dataset, "detectron2", tmp_path / "out", ["train"])
        rows = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())["annotations"]
        assert len(rows) == 6
        for polygons in (row["segmentation"] for row in rows if isinstance(row.get("segmentation"), list)):
            assert all(len(polygon) >= 6 for polygon in polygons)
        assert result["not_held"]["masks"] == 1

    def test_differences_are_images_here(self, samples: Samples, tmp_path: Path) -> None:
        pair = samples.pair("p", Objects([[4, 4, 20, 30]], [1]))
        differences = samples.dataset({"train": [pair]}, name="diffs", kind="differences")
        assert main(["export", str(differences.path), "--format", "detectron2", "--out", str(tmp_path / "out")]) == 0
        assert len(list((tmp_path / "out/images/train").iterdir())) == 1
        pairs = samples.dataset({"train": [pair]}, name="pairs", kind="pairs")
        with pytest.raises(UsageError, match="holds before/after pairs, --format detectron2 does not"):
            export_dataset(pairs, "detectron2", tmp_path / "other", ["train"])


class Metadata(SimpleNamespace):
    """What `MetadataCatalog.get` returns, as far as it is documented: attributes that are set once."""

    def set(self, **values: Any) -> "Metadata":
        self.__dict__.update(values)
        return self


@pytest.fixture
def detectron2(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A pretended Detectron2: catalogues, a trainer that writes down what it is asked, an evaluator."""
    functions: dict[str, Any] = {}
    known: dict[str, Metadata] = {}
    asked: list[Any] = []

    class DefaultTrainer:
        def __init__(self, cfg: Any) -> None:
            self.cfg = cfg

        def resume_or_load(self, resume: bool) -> None:
            asked.append(("resume", resume))

        def train(self) -> Any:
            return {name: self.build_evaluator(self.cfg, name) for name in self.cfg.DATASETS.TEST}

    parts = {
        "data": SimpleNamespace(
            DatasetCatalog=SimpleNamespace(
                list=lambda: list(functions), register=functions.__setitem__, get=lambda name: functions[name]()
            ),
            MetadataCatalog=SimpleNamespace(get=lambda name: known.setdefault(name, Metadata(name=name))),
        ),
        "engine": SimpleNamespace(DefaultTrainer=DefaultTrainer),
        "evaluation": SimpleNamespace(COCOEvaluator=lambda name, output_dir: (name, output_dir)),
    }
    monkeypatch.setitem(sys.modules, "detectron2", ModuleType("detectron2"))
    for name, part in parts.items():
        monkeypatch.setitem(sys.modules, f"detectron2.{name}", part)  # type: ignore[arg-type]
    return SimpleNamespace(asked=asked, **parts)


class TestRegistering:
    def test_a_name_leads_to_the_dicts_and_what_describes_them(
        self, detectron2: SimpleNamespace, dataset: PreparedDataset, tmp_path: Path
    ) -> None:
        name = bridge.register(dataset, "train", tmp_path)
        assert name == f"tiny_train_{dataset.fingerprint[:12]}"
        assert not list(tmp_path.glob("tiny-*"))  # Nothing is written before it is asked for.
        assert detectron2.data.DatasetCatalog.get(name) == bridge.dicts(dataset, "train", tmp_path)
        metadata = detectron2.data.MetadataCatalog.get(name)
        assert metadata.thing_classes == list(NAMES)
        assert metadata.thing_dataset_id_to_contiguous_id == {0: 0, 1: 1, 2: 2}
        with pytest.raises(UsageError, match="already; give another name"):
            bridge.register(dataset, "train", tmp_path)
        assert bridge.register(dataset, "train", tmp_path, "mine") == "mine"

    def test_it_trains_and_judges_what_was_registered(
        self, detectron2: SimpleNamespace, dataset: PreparedDataset, tmp_path: Path
    ) -> None:
        heads = SimpleNamespace(ROI_HEADS=SimpleNamespace(NUM_CLASSES=80), RETINANET=SimpleNamespace(NUM_CLASSES=80))
        cfg = SimpleNamespace(DATASETS=SimpleNamespace(), MODEL=heads, OUTPUT_DIR=str(tmp_path / "out"))
        names = [bridge.register(dataset, split, tmp_path / "media") for split in ("train", "validation")]
        configured = bridge.configure(cfg, dataset, *names)
        assert ((names[0],), (names[1],)) == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 3
        assert bridge.train(configured) == {names[1]: (names[1], str(tmp_path / "out" / "inference"))}
        assert detectron2.asked == [("resume", False)]

    def test_splits_and_kinds_that_are_not_there(
        self, detectron2: SimpleNamespace, dataset: PreparedDataset, samples: Samples, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match="has no split 'test'"):
            bridge.register(dataset, "test", tmp_path)
        pairs = samples.dataset(
            {"train": [samples.pair("p", Objects([[4, 4, 20, 30]], [1]))]}, name="pairs", kind="pairs"
        )
        with pytest.raises(UsageError, match="holds pairs"):
            bridge.register(pairs, "train", tmp_path)
        assert not detectron2.data.DatasetCatalog.list()


@pytest.mark.skipif("detectron2" in sys.modules, reason="it is installed")
def test_where_it_is_not_installed_the_error_says_how_to_get_it(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    for call in (lambda: bridge.register(dataset, "train", tmp_path), lambda: bridge.train(None)):
        with pytest.raises(UsageError, match=r"is not on PyPI; build it: pip install --no-build-isolation git\+https"):
            call()


def test_classes_in_any_order_of_their_source_keep_ours(samples: Samples, tmp_path: Path) -> None:
    record = samples.record("a", Objects([[4, 4, 20, 30]], [0]))
    dataset = samples.dataset({"train": [replace(record)]}, categories=Categories(("x", "y"), (9, 4)))
    export_dataset(dataset, "detectron2", tmp_path / "out", ["train"])
    content = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [(cat["id"], cat["name"]) for cat in content["categories"]] == [(1, "x"), (2, "y")]
    assert content["annotations"][0]["category_id"] == 1
