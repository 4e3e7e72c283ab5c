"""COCO sources: which files they are, where their images lie, and several files at once."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataflow.errors import ShardboxError, UsageError
from dataflow.findings import Code
from tests.factories import Picture, Thing, coco_json, load, photograph, prepare, write, write_coco
from tfds_builders.formats.coco import open_coco

BOX = (24.0, 12.0, 40.0, 36.0)
PICTURES = (
    Picture("a", things=(Thing(0, BOX),)),
    Picture("b", things=(Thing(1, BOX), Thing(0, (0, 0, 64, 48)))),
    Picture("c"),
)
NAMES = ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"instances\.json:1: not JSON"),
        ("{\n", r"instances\.json:2: not JSON"),
        ("[]", "has no lists"),
        ("null", "has no lists"),
        ("{}", "has no lists"),
        ('{"images": [], "categories": [], "annotations": []}', "lists no images"),
        ('{"images": [{}], "categories": {}, "annotations": []}', "has no lists"),
        ('{"images": [{}], "categories": [], "annotations": null}', "has no lists"),
        ('{"images": [{}], "categories": []}', "has no lists"),
        ('{"images": [1], "categories": [], "annotations": []}', "has no lists"),
        ('{"images": [{}], "categories": [], "annotations": [[]]}', "has no lists"),
        ('{"images": [{}], "categories": [], "annotations": []}', "no class names"),
        ('{"images": [{}], "categories": [{"id": 1}], "annotations": []}', "/categories/0"),
        ('{"images": [{}], "categories": [{"name": "a"}], "annotations": []}', "/categories/0"),
        ('{"images": [{}], "categories": [{"id": "a", "name": "a"}], "annotations": []}', "/categories/0"),
        ('{"images": [{}], "categories": [{"id": 1.5, "name": "a"}], "annotations": []}', "/categories/0"),
        ('{"images": [{}], "categories": [{"id": 1, "name": ""}], "annotations": []}', "the class name ''"),
        ('{"images": [{}], "categories": [{"id": 1, "name": "a\\nb"}], "annotations": []}', "the class name"),
        (
            '{"images": [{}], "categories": [{"id": 1, "name": "a"}, {"id": "1", "name": "b"}], "annotations": []}',
            r"/categories/1: the id 1 is taken by 'a'",
        ),
        ('{"images": [{}], "categories": [{"id": "--1", "name": "a"}], "annotations": []}', "/categories/0"),
        ('{"images": [{}], "categories": [{"id": true, "name": "a"}], "annotations": []}', "/categories/0"),
        ('{"images": [{}], "categories": [{"id": 1, "name": "a"}], "annotations": []}', "no image has a file_name"),
        (
            '{"images": [{"file_name": "x.jpg"}], "categories": [{"id": 1, "name": "a"}], "annotations": []}',
            r"'x\.jpg' and the others are in none of images/instances, instances, images below .*pass --images",
        ),
        ("[" * 100_000, "cannot be read"),
        ('{"images": ' + "1" * 5000 + "}", "cannot be read"),
    ],
)
def test_what_is_no_coco_file(content: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "annotations" / "instances.json", content)
    with pytest.raises(ShardboxError, match=message) as caught:
        open_coco(tmp_path)
    assert str(path) in caught.value.message and caught.value.remedy


def test_files_in_other_encodings(tmp_path: Path) -> None:
    root = write_coco(tmp_path, PICTURES, NAMES)
    path = root / "annotations" / "instances.json"
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert not load(open_coco(root)).findings
    path.write_bytes(text.replace("cat", "ch\xe4t").encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8 at byte"):
        open_coco(root)


def test_no_file_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="holds no COCO instances JSON"):
            open_coco(path)


@pytest.mark.parametrize(
    "layout",
    [
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/x.json", "images"),
        ("annotations/x.json", "."),
        ("x.json", "."),
        ("x.json", "images"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_where_images_are(layout: tuple[str, str], tmp_path: Path) -> None:
    json_file, folder = layout
    for picture in PICTURES:
        write(tmp_path / folder / f"{picture.name}.jpg", picture.encoded())
    path = write(tmp_path / json_file, json.dumps(coco_json(PICTURES, NAMES)))
    assert not load(open_coco(path)).findings
    elsewhere = write(tmp_path / "elsewhere" / "y.json", path.read_bytes())
    assert not load(open_coco(elsewhere, images=tmp_path / folder)).findings


def test_a_linked_folder_of_images_is_not_followed_out_of_the_source(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "source", PICTURES, NAMES)
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(UsageError, match="pass --images DIR"):
        open_coco(root)
    assert not load(open_coco(root, images=root / "images")).findings, "unless it is asked for"


class TestSeveralFiles:
    def source(self, root: Path, same_names: bool = False, **names: str) -> Path:
        """`annotations/NAME.json` and `images/TAIL/` for each; each holds the three pictures."""
        for number, stem in enumerate(names.values()):
            prefix = "" if same_names else f"{number}"
            pictures = [Picture(f"{prefix}{picture.name}", things=picture.things) for picture in PICTURES]
            for picture in pictures:
                encoded = photograph(seed=sum(picture.name.encode()) + 1000 * number)
                write(root / "images" / stem.removeprefix("instances_") / f"{picture.name}.jpg", encoded)
            write(root / "annotations" / f"{stem}.json", json.dumps(coco_json(pictures, NAMES)))
        return root

    def test_each_is_a_split(self, tmp_path: Path) -> None:
        names = {"a": "instances_train2017", "b": "instances_val2017", "c": "instances_Test"}
        source = open_coco(self.source(tmp_path, **names))
        splits = {reference.image_id: reference.split for reference in source.scan().references}
        assert splits["0a"] == "train" and splits["1a"] == "validation" and splits["2a"] == "test"
        assert len(splits) == 9 and not load(source).findings

    def test_names_that_only_contain_the_word(self, tmp_path: Path) -> None:
        source = open_coco(self.source(tmp_path, a="instances_latest", b="instances_contest"))
        assert {reference.split for reference in source.scan().references} == {None}

    def test_different_images_of_one_name(self, tmp_path: Path) -> None:
        """`train/1.jpg` and `val/1.jpg` are two photographs: both are kept."""
        source = open_coco(self.source(tmp_path, same_names=True, a="instances_train", b="instances_val"))
        loaded = load(source)
        assert sorted(loaded.outcomes) == ["train/a", "train/b", "train/c", "val/a", "val/b", "val/c"]
        assert not loaded.findings

    def test_one_split_cannot_reach_into_the_folder_of_another(self, tmp_path: Path) -> None:
        """The same photograph to train and to validate on would leak."""
        root = self.source(tmp_path, a="instances_train", b="instances_val")
        val = json.loads((root / "annotations" / "instances_val.json").read_text())
        for number, name in enumerate(("0a", "unlisted"), 1):
            val["images"].append({"id": number, "file_name": f"../train/{name}.jpg", "height": 48, "width": 64})
        write(root / "annotations" / "instances_val.json", json.dumps(val))
        write(root / "images" / "train" / "unlisted.jpg", photograph())
        assert set(load(open_coco(root)).places()) == {
            (Code.LISTED_TWICE, "instances_val.json", "/images/3/file_name"),
            (Code.IMAGE_OUTSIDE_ROOT, "../train/unlisted.jpg", None),
        }

    def test_one_folder_listed_by_two_files(self, tmp_path: Path) -> None:
        for stem in ("instances_train", "instances_val"):
            write_coco(tmp_path / "source", PICTURES, NAMES)
            (tmp_path / "source/annotations/instances.json").rename(tmp_path / f"source/annotations/{stem}.json")
        dataset = prepare(open_coco(tmp_path / "source"), tmp_path / "out")
        audit = json.loads((dataset.path / "audit.json").read_text())
        assert (audit["images_in"], audit["images_prepared"]) == (6, 3)
        assert audit["counts"]["image-listed-twice"] == 3 and "duplicate-image-id" not in audit["counts"]
        assert audit["quarantined"] == [f"instances_val.json#/images/{number}" for number in range(3)]
        assert dataset.splits["train"] == 3 and not dataset.splits.get("validation")

    def test_categories_must_agree(self, tmp_path: Path) -> None:
        root = self.source(tmp_path, a="instances_train", b="instances_val")
        text = (root / "annotations" / "instances_val.json").read_text()
        write(root / "annotations" / "instances_val.json", text.replace('"cat"', '"cow"'))
        with pytest.raises(UsageError, match="list different categories"):
            open_coco(root)

    def test_captions_are_passed_over(self, tmp_path: Path) -> None:
        root = self.source(tmp_path, a="instances_train")
        write(root / "annotations" / "captions_train.json", '{"images": [], "annotations": []}')
        assert len(open_coco(root).files) == 1

    def test_a_name_given_twice_in_each_file_is_said_once(self, tmp_path: Path) -> None:
        root = self.source(tmp_path, a="instances_train", b="instances_val")
        for name in ("train", "val"):
            path = root / "annotations" / f"instances_{name}.json"
            write(path, path.read_text().replace('"dog"', '"cat"'))
        listing = open_coco(root).scan()
        assert [finding.code for finding in listing.findings] == [Code.CLASS_NAMED_TWICE]


class TestParsing:
    def test_a_file_is_parsed_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        parse = json.loads

        def counted(*args: Any, **options: Any) -> Any:
            calls.append(args)
            return parse(*args, **options)

        root = write_coco(tmp_path, PICTURES, NAMES)
        monkeypatch.setattr("tfds_builders.formats.coco_json.json.loads", counted)
        source = open_coco(root)
        first = source.scan()
        assert len(calls) == 1
        assert source.scan() == first and len(calls) == 2, "it is not kept for ever"

    def test_a_file_that_changes_after_it_was_opened(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path, PICTURES, NAMES)
        source = open_coco(root)
        write(root / "annotations" / "instances.json", json.dumps(coco_json(PICTURES[:2], NAMES)))
        assert [reference.image_id for reference in source.scan().references] == ["a", "b"]

    def test_memory(self, tmp_path: Path) -> None:
        """What the file says is held in less memory than the file takes itself, and less than half of its objects."""
        pictures = [
            Picture(f"{i:05d}", things=(Thing(0, BOX), Thing(1, (1.25, 2.25, 30.123, 40.456)))) for i in range(2)
        ]
        content = coco_json(pictures, NAMES)
        polygon = [[number + 0.12 for number in range(60)]]
        content["annotations"] = [
            {**content["annotations"][i % 4], "id": i, "segmentation": polygon} for i in range(4000)
        ]
        path = write_coco(tmp_path, pictures, content=content) / "annotations" / "instances.json"

        def peak(parse: Callable[[], Any]) -> int:
            tracemalloc.start()
            kept = parse()
            top = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert kept
            return top

        objects = peak(lambda: json.loads(path.read_text()))
        assert peak(lambda: open_coco(tmp_path).scan()) < objects / 2
