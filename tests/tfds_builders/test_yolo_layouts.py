"""YOLO sources: the layouts that data.yaml describes, and what is no source."""

from pathlib import Path

import pytest

from dataflow.errors import ShardboxError, UsageError
from dataflow.findings import Code
from tests.factories import load, photograph, write
from tfds_builders.formats.yolo import YoloSource, open_yolo

LINE = "0 0.5 0.5 0.25 0.5\n"  # In a photograph of 64 x 48 px:
BOX = [24, 12, 40, 36]


class TestDataYaml:
    def source(self, root: Path, yaml: str | bytes, folders: tuple[str, ...] = ("train", "val")) -> YoloSource:
        for seed, folder in enumerate(folders):
            write(root / "images" / folder / f"{folder}.jpg", photograph(seed=seed))
            write(root / "labels" / folder / f"{folder}.txt", LINE)
        write(root / "data.yaml", yaml)
        return open_yolo(root)

    @pytest.mark.parametrize(
        "yaml",
        [
            "train: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n",
            "\ufefftrain: images/train\r\nval: images/val\r\nnames: [cat, dog]\r\n",
            "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n",
            "path: /content/datasets/x\ntrain: images/train/\nval: ./images/val\nnames: {1: dog, 0: cat}\n",
            "path: images\ntrain: [train]\nval: [val]\nnames: {'0': cat, '1': dog}\n",
            "train: ../images/train\nval: ../images/val\nnames: [' cat ', dog]\n",
            "train: images/train\nval: images/val\ntest:\nnames: [cat, dog]\ndownload: x\n",
        ],
        ids=["list", "BOM and CRLF", "dictionary", "path elsewhere", "path inside", "roboflow", "empty test"],
    )
    def test_layouts(self, yaml: str, tmp_path: Path) -> None:
        source = self.source(tmp_path, yaml)
        assert source.categories.names == ("cat", "dog")
        listing = source.scan()
        assert {reference.image_id: reference.split for reference in listing.references} == {
            "train": "train",
            "val": "validation",
        }
        assert not listing.findings and not load(source).findings

    def test_absolute_folders(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, f"train: {tmp_path}/images/train\nval: {tmp_path}/images/val\nnames: [cat]\n")
        assert len(source.scan().references) == 2

    def test_one_folder_for_train_and_val_is_split_by_scene(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, "train: images/train\nval: images/train\nnames: [cat]\n")
        assert [(ref.image_id, ref.split) for ref in source.scan().references] == [("train", None)]

    def test_a_folder_inside_another_keeps_its_images(self, tmp_path: Path) -> None:
        """`train: images` with `val: images/val` must not train on the images it is judged by."""
        source = self.source(tmp_path, "train: images\nval: images/val\nnames: [cat]\n")
        splits = [(reference.file, reference.split) for reference in source.scan().references]
        assert splits == [("images/train/train.jpg", "train"), ("images/val/val.jpg", "validation")]
        assert not load(source).findings

    def test_same_name_in_two_folders(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, "train: images/train\nval: images/val\nnames: [cat]\n")
        for folder in ("train", "val"):
            write(tmp_path / "images" / folder / "1.jpg", photograph())
            write(tmp_path / "labels" / folder / "1.txt", LINE)
        loaded = load(source)
        assert {"images/train/1", "images/val/1"} < set(loaded.outcomes) and not loaded.findings

    def test_a_missing_folder_is_a_finding(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, "train: images/train\nval: images/nowhere\nnames: [cat]\n")
        (finding,) = source.scan().findings
        assert (finding.code, finding.severity, finding.file) == (Code.SPLIT_MISSING, "warning", "data.yaml")
        assert "`val: images/nowhere`" in finding.value

    def test_given_as_the_file_it_may_lead_elsewhere(self, tmp_path: Path) -> None:
        self.source(tmp_path / "elsewhere", "names: [cat]\ntrain: images/train")
        yaml = write(tmp_path / "here" / "my.yaml", "path: ../elsewhere\ntrain: images/train\nnames: [cat]\n")
        assert load(open_yolo(yaml)).boxes("train").tolist() == [BOX]
        yaml.rename(yaml.with_name("data.yaml"))
        with pytest.raises(UsageError, match="leads out of") as caught:
            open_yolo(tmp_path / "here")
        assert "give data.yaml itself" in caught.value.remedy

    @pytest.mark.parametrize("entry", ["../../outside", "/OUTSIDE", "images/../../outside"])
    def test_folders_outside(self, entry: str, tmp_path: Path) -> None:
        write(tmp_path / "outside" / "x.jpg", photograph())
        entry = entry.replace("/OUTSIDE", str(tmp_path / "outside"))
        with pytest.raises(UsageError, match="leads to no folder of images"):
            self.source(tmp_path / "source", f"train: {entry}\nnames: [cat]\n")

    @pytest.mark.parametrize(
        ("yaml", "message"),
        [
            ("train: images/train\n", "names no classes"),
            ("train: images/train\nnames: []\n", "names no classes"),
            ("train: images/train\nnames: cat\n", "names no classes"),
            ("train: images/train\nnames: {0: cat, 2: dog}\n", "class 1 has no name"),
            ("train: images/train\nnames: {1: cat, 2: dog}\n", "class 0 has no name"),
            ("train: images/train\nnames: {cat: 0, dog: 1}\n", "class 0 has no name"),
            ("train: images/train\nnames: [cat, cat]\n", "occur twice: cat"),
            ("train: images/train\nnames: [cat, 'cat ']\n", "occur twice: cat"),
            ("train: images/train\nnames: [yes, no]\n", "class 0 reads as True"),
            ("train: images/train\nnames: [cat, ~]\n", "class 1 reads as None"),
            ("train: images/train\nnames: [cat, '']\n", "the class name ''"),
            ("train: images/train\nnc: 3\nnames: [cat]\n", "nc is 3 but there are 1"),
            ("train: images/train\nnames: [cat\n", "data.yaml:3: not YAML"),
            ("names: [cat]\n", "leads to no folder of images"),
            ("just text\n", "holds no keys"),
            ("", "holds no keys"),
            ("train: images/train\nnames: [cat]\nday: 2024-99-99\n", "not YAML"),
            ("train: images/train\nnames: [cat]\nkpt_shape: [17, 2]\n", "keypoints"),
            (b"train: images/train\nnames: [caf\xe9]\n", "not UTF-8 at byte 31"),
            ("train: images/train\nnames: [cat]\n\t- x: [", "not YAML"),
        ],
    )
    def test_what_is_wrong_with_it(self, yaml: str | bytes, message: str, tmp_path: Path) -> None:
        with pytest.raises(ShardboxError, match=message) as caught:
            self.source(tmp_path, yaml)
        assert "data.yaml" in caught.value.message and caught.value.remedy

    def test_names_given_win(self, tmp_path: Path) -> None:
        self.source(tmp_path, "train: images/train\nnames: [cat]\n")
        assert open_yolo(tmp_path, ("a", "b")).categories.names == ("a", "b")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds neither data.yaml nor a folder images"),
        ({"images/a.jpg": b""}, "names no classes"),
        ({"images/a.txt": b"", "classes.txt": b"cat"}, "holds no image in images"),
        ({"images/a.jpg": b"", "classes.txt": b"caf\xe9"}, "not UTF-8"),
        ({"images/a.jpg": b"", "classes.txt": b"cat\ncat\n"}, "occur twice"),
    ],
)
def test_what_is_no_source(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(ShardboxError, match=message):
        open_yolo(tmp_path)


def test_a_photograph_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no data\.yaml"):
        open_yolo(write(tmp_path / "a.jpg", photograph()))
