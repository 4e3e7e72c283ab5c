"""YOLO sources: the layouts that data.yaml describes, and what is no source."""

import os
import pickle
from pathlib import Path

import pytest

from dataflow.errors import ShardboxError, UsageError
from dataflow.findings import Code
from tests.factories import load, photograph, write
from tfds_builders.formats.yolo import YoloSource, open_yolo
from tfds_builders.formats.yolo_layout import label_path

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
            "train: images\\train\nvalidation: images\\val\nnames: [cat, dog]\n",
            "train: images/train\nval: images/val\ntest:\nnames: [cat, dog]\ndownload: x\n",
        ],
        ids=[
            "list",
            "BOM and CRLF",
            "dictionary",
            "path elsewhere",
            "path inside",
            "roboflow",
            "Windows",
            "empty test",
        ],
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
        ({"images/a.jpg": b"", "classes.txt": b"\n"}, "no class names"),
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


def listed(root: Path, lists: dict[str, str | bytes], yaml: str | None = None, images: str = "images") -> YoloSource:
    """Images a, b, c in `images` with their labels, lists of them, and a data.yaml that names the lists."""
    for seed, name in enumerate("abc"):
        write(root / images / f"{name}.jpg", photograph(seed=seed))
        write(root / label_path(f"{images}/{name}.txt"), LINE)
    for name, content in lists.items():
        write(root / f"{name}.txt", content)
    entries = "".join(f"{name}: {name}.txt\n" for name in lists)
    write(root / "data.yaml", (entries if yaml is None else yaml) + "names: [cat]\n")
    return open_yolo(root)


def splits(source: YoloSource) -> dict[str, str | None]:
    return {reference.image_id: reference.split for reference in source.scan().references}


def places(source: YoloSource) -> list[tuple[Code, str, str, int | str | None]]:
    return [(finding.code, finding.severity, finding.file, finding.line) for finding in source.scan().findings]


class TestLists:
    @pytest.mark.parametrize(
        "line",
        [
            "./images/{}.jpg",
            "images/{}.jpg",
            "ROOT/images/{}.jpg",
            "  images/{}.jpg \r",
            "images//x/../{}.jpg",
            ".\\images\\{}.jpg",
        ],
        ids=["Ultralytics", "relative", "absolute", "blanks", "detours", "Windows"],
    )
    def test_spellings(self, line: str, tmp_path: Path) -> None:
        line = line.replace("ROOT", str(tmp_path))
        train, val = ("\ufeff" + "".join(f"{line.format(name)}\n" for name in names) + "\n" for names in ("ab", "c"))
        source = listed(tmp_path, {"train": train, "val": val})
        assert splits(source) == {"a": "train", "b": "train", "c": "validation"}
        loaded = load(source)
        assert not loaded.findings and loaded.boxes("a").tolist() == [BOX]
        assert loaded.example("a")["image/filename"] == "images/a.jpg"

    def test_a_relative_root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        listed(tmp_path / "data", {"train": f"./images/a.jpg\n{tmp_path}/data/images/b.jpg\n"})
        monkeypatch.chdir(tmp_path)
        loaded = load(open_yolo(Path("data")))
        assert not loaded.findings and sorted(loaded.outcomes) == ["a", "b"]

    def test_beside_the_list_or_below_path(self, tmp_path: Path) -> None:
        """Darknet's paths start from where it runs, Ultralytics's `./` from the list, others from `path`."""
        source = listed(
            tmp_path,
            {"lists/train": "../images/a.jpg\n", "lists/val": "data/images/b.jpg\n"},
            "path: .\ntrain: lists/train.txt\nval: [lists/val.txt]\n",
        )
        assert splits(source) == {"a": "train", "b": "validation"}
        assert places(source) == [(Code.IMAGE_OUTSIDE_ROOT, "warning", "lists/val.txt", 1)], "a guess"

    def test_labels_beside_the_photographs_as_darknet_has_them(self, tmp_path: Path) -> None:
        source = listed(tmp_path, {"train": "obj/a.jpg\nobj/b.jpg\n"}, images="obj")
        write(tmp_path / "obj" / "d.txt", LINE)
        loaded = load(source)
        assert loaded.places() == [(Code.LABEL_WITHOUT_IMAGE, "obj/d.txt", None)], "c is only not listed"
        assert sorted(loaded.outcomes) == ["obj/a", "obj/b"]

    @pytest.mark.parametrize("beginning", ["/content/datasets/x/", "C:\\Users\\me\\x\\"])
    def test_paths_of_another_machine(self, beginning: str, tmp_path: Path) -> None:
        """They are followed by their ends, in one finding; what is missing there is missing here, whatever its line."""
        lines = [f"{beginning}images/{name}.jpg" for name in ("gone", "a", "b")] + ["/elsewhere/x.jpg"]
        source = listed(tmp_path, {"train": "\n".join(lines)})
        loaded = load(source)
        assert sorted(loaded.places(), key=str) == sorted(
            [
                (Code.IMAGE_OUTSIDE_ROOT, "train.txt", 2),
                (Code.IMAGE_MISSING, "train.txt", 1),
                (Code.IMAGE_OUTSIDE_ROOT, "train.txt", 4),
            ],
            key=str,
        )
        guess = next(finding for finding in loaded.findings if finding.line == 2)
        assert guess.severity == "warning" and "2 paths" in guess.value and guess.image_id is None
        assert loaded.quarantined == ["elsewhere/x", "gone"]
        assert loaded.boxes("a").tolist() == [BOX]

    def test_listed_but_missing(self, tmp_path: Path) -> None:
        source = listed(tmp_path, {"train": "./images/a.jpg\n\n./images/gone.jpg\nimages/\0.jpg\n"})
        loaded = load(source, repair=True)
        assert loaded.places() == [(Code.IMAGE_MISSING, "train.txt", 4), (Code.IMAGE_MISSING, "train.txt", 3)]
        assert {finding.image_id for finding in loaded.findings} == {"gone", "\0"}
        assert loaded.quarantined == ["\0", "gone"]

    @pytest.mark.parametrize("line", ["../secret.jpg", "/SECRET", "./images/../../secret.jpg"])
    def test_out_of_the_source(self, line: str, tmp_path: Path) -> None:
        secret = write(tmp_path / "secret.jpg", photograph())
        source = listed(tmp_path / "source", {"train": line.replace("/SECRET", str(secret)) + "\n./images/a.jpg"})
        loaded = load(source)
        assert loaded.places() == [(Code.IMAGE_OUTSIDE_ROOT, "train.txt", 1)]
        assert len(loaded.quarantined) == 1 and loaded.boxes("a").tolist() == [BOX]

    def test_links_out_of_the_source(self, tmp_path: Path) -> None:
        secret = write(tmp_path / "secret.jpg", photograph())
        source = listed(tmp_path / "source", {"train": "./images/a.jpg"})
        (tmp_path / "source/images/a.jpg").unlink()
        (tmp_path / "source/images/a.jpg").symlink_to(secret)
        assert load(source).places() == [(Code.IMAGE_OUTSIDE_ROOT, "images/a.jpg", None)]

    def test_a_list_out_of_the_source(self, tmp_path: Path) -> None:
        write(tmp_path / "train.txt", "images/a.jpg")
        with pytest.raises(UsageError, match="leads to no folder"):
            listed(tmp_path / "source", {}, f"train: {tmp_path}/train.txt\n")

    def test_twice_in_one_list(self, tmp_path: Path) -> None:
        source = listed(tmp_path, {"train": "./images/a.jpg\n./images/b.jpg\nimages/a.jpg\n"})
        assert splits(source) == {"a": "train", "b": "train"}
        assert places(source) == [(Code.LISTED_TWICE, "warning", "train.txt", 3)]
        assert "train.txt:1" in source.scan().findings[0].value

    def test_in_two_splits(self, tmp_path: Path) -> None:
        """It would be trained on and judged by: its scene decides."""
        lists: dict[str, str | bytes] = {"train": "images/a.jpg\nimages/b.jpg", "val": "images/b.jpg\nimages/c.jpg"}
        source = listed(tmp_path, {**lists, "test": "images/b.jpg"})
        assert splits(source) == {"a": "train", "b": None, "c": "validation"}
        assert places(source) == [
            (Code.LISTED_TWICE, "warning", "val.txt", 1),
            (Code.LISTED_TWICE, "warning", "test.txt", 1),
        ]

    def test_one_list_for_two_splits(self, tmp_path: Path) -> None:
        source = listed(tmp_path, {"all": "images/a.jpg\n"}, "train: all.txt\nval: [./all.txt]\n")
        assert splits(source) == {"a": None}
        assert places(source) == [(Code.LISTED_TWICE, "warning", "data.yaml", "/val")]

    def test_folders_and_lists_together(self, tmp_path: Path) -> None:
        """A list says more than a folder: `train: images` does not train on what `val: val.txt` names."""
        write(tmp_path / "more/images/d.jpg", photograph(seed=9))
        write(tmp_path / "more/labels/d.txt", LINE)
        source = listed(tmp_path, {"val": "images/c.jpg\n"}, "train: [images, more/images, nowhere]\nval: val.txt\n")
        assert splits(source) == {"a": "train", "b": "train", "c": "validation", "d": "train"}
        assert places(source) == [(Code.SPLIT_MISSING, "warning", "data.yaml", "/train")]
        assert not load(source).quarantined

    def test_ids_are_those_of_folders(self, tmp_path: Path) -> None:
        for name in ("train/1", "val2017/2", "scene/3"):
            write(tmp_path / "images" / f"{name}.jpg", photograph())
            write(tmp_path / "labels" / f"{name}.txt", LINE)
        write(tmp_path / "train.txt", "images/train/1.jpg\nimages/scene/3.jpg\n")
        write(tmp_path / "val2017.txt", "images/val2017/2.jpg\n")
        write(tmp_path / "data.yaml", "train: train.txt\nval: val2017.txt\nnames: [cat]\n")
        assert splits(open_yolo(tmp_path)) == {"1": "train", "scene/3": "train", "2": "validation"}

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\0\x01" * 300, b"x" * 5000, b"/\n//\n..\n.\n\\\n"])
    def test_garbage(self, content: bytes, tmp_path: Path) -> None:
        loaded = load(listed(tmp_path, {"train": content}))
        assert len(loaded.quarantined) == len(loaded.outcomes)
        assert {code for code, _, _ in loaded.places()} <= {
            Code.IMAGE_MISSING,
            Code.IMAGE_OUTSIDE_ROOT,
            Code.LISTED_TWICE,
        }

    def test_names_that_are_not_utf_8(self, tmp_path: Path) -> None:
        raw = os.fsdecode(b"caf\xe9")
        write(tmp_path / "images" / f"{raw}.jpg", photograph())
        write(tmp_path / "labels" / f"{raw}.txt", LINE)
        loaded = load(listed(tmp_path, {"train": b"./images/caf\xe9.jpg\n"}))
        assert loaded.boxes("caf\\xe9").tolist() == [BOX]

    def test_the_source_of_many_images_is_small_to_send(self, tmp_path: Path) -> None:
        source = listed(tmp_path, {"train": "".join(f"./images/{i}.jpg\n" for i in range(10_000))})
        assert len(pickle.dumps(source)) < 2000


class TestFoldersOfAnotherMachine:
    @pytest.mark.parametrize("entry", ["/content/datasets/x/images", "C:\\x\\images", "../datasets/x/images"])
    def test_they_are_followed_by_their_ends(self, entry: str, tmp_path: Path) -> None:
        source = listed(tmp_path, {}, f"train: {entry}\n")
        assert splits(source) == dict.fromkeys("abc", "train")
        (finding,) = source.findings
        assert (finding.code, finding.severity, finding.line) == (Code.SPLIT_MISSING, "warning", "/train")
        assert "images is taken for it" in finding.value

    @pytest.mark.parametrize("entry", ["valid/images", "/content/x/valid/images"])
    def test_a_missing_folder_is_not_that_of_another_split(self, entry: str, tmp_path: Path) -> None:
        source = listed(tmp_path, {}, f"val: {entry}\ntrain: images\n")
        assert splits(source) == dict.fromkeys("abc", "train")
        (finding,) = source.findings
        assert (finding.code, finding.line) == (Code.SPLIT_MISSING, "/val") and "is taken" not in finding.value

    def test_keys_of_exporters_are_no_splits(self, tmp_path: Path) -> None:
        yaml = "train: images\nroboflow:\n  project: images\ndownload: images\nlicense: MIT\nextra: [1, nowhere]\n"
        assert splits(listed(tmp_path, {}, yaml)) == dict.fromkeys("abc", "train")


def test_a_class_named_twice_is_found_at_its_place(tmp_path: Path) -> None:
    write(tmp_path / "images/a.jpg", photograph())
    write(tmp_path / "labels/a.txt", LINE)
    write(tmp_path / "data.yaml", "train: images\nnames: [cat, dog, 'cat ']\n")
    source = open_yolo(tmp_path)
    assert source.categories.names == ("cat", "dog")
    assert load(source).places() == [(Code.CLASS_NAMED_TWICE, "data.yaml", "/names/2")]
