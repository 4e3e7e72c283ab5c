"""YOLO sources as people have them: layouts, spellings, and what is wrong with them."""

import os
from pathlib import Path

import numpy as np
import pytest

from dataflow.errors import UsageError
from dataflow.findings import Code
from tests.factories import Loaded, Thing, load, photograph, write, yolo_line
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.formats.yolo_layout import label_path

LINE = "0 0.5 0.5 0.25 0.5\n"  # In a photograph of 64 x 48 px:
BOX = [24, 12, 40, 36]
OTHER = "0 0.5 0.5 0.5 0.5\n"
OTHER_BOX = [16, 12, 48, 36]


def dataset(root: Path, labels: dict[str, str | bytes | None], names: str = "cat\ndog\n", suffix: str = ".jpg") -> Path:
    """`images/NAME.jpg` and `labels/NAME.txt` for every name; no label file where it is None."""
    for seed, (name, label) in enumerate(labels.items()):
        write(root / "images" / f"{name}{suffix}", photograph(seed=seed))
        if label is not None:
            write(root / "labels" / f"{name}.txt", label)
    write(root / "classes.txt", names)
    return root


def load_one(root: Path, label: str | bytes | None, repair: bool = False) -> Loaded:
    return load(open_yolo(dataset(root, {"a": label})), repair)


@pytest.mark.parametrize(
    "label",
    [
        LINE,
        "\ufeff" + LINE,
        LINE.replace("\n", "\r\n"),
        LINE.replace("\n", "\r"),
        f"\n\n  {LINE.strip()}  \t\n\n",
        LINE.strip(),
        "0.0 5e-1 .5 2.5E-1 +0.5",
        "0\t0.5\t0.5\t0.25\t0.5\n",
        "0 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75\n",
        "0 0.375 0.25 0.625 0.75 0.5 0.5\n",
    ],
    ids=["plain", "BOM", "CRLF", "CR", "blanks", "no newline", "spellings", "tabs", "rectangle", "triangle"],
)
def test_spellings_of_one_box(label: str, tmp_path: Path) -> None:
    loaded = load_one(tmp_path, label)
    assert not loaded.findings
    np.testing.assert_allclose(loaded.boxes("a"), [BOX], atol=1e-4)
    assert loaded.column("a", "label") == [0]
    assert loaded.example("a")["provenance"] == "labels/a.txt:1"


def test_an_empty_label_file_is_background(tmp_path: Path) -> None:
    for number, label in enumerate(("", "\n", " \r\n", "\ufeff")):
        loaded = load_one(tmp_path / str(number), label)
        assert loaded.places() == [(Code.LABEL_EMPTY, "labels/a.txt", None)] and len(loaded.boxes("a")) == 0
        assert loaded.findings[0].severity == "info"


def test_a_missing_label_file_is_not_background(tmp_path: Path) -> None:
    source = open_yolo(dataset(tmp_path, {"a": None, "b": LINE}))
    loaded = load(source)
    assert loaded.places() == [(Code.LABEL_MISSING, "labels/a.txt", None)]
    assert loaded.quarantined == ["a"]
    repaired = load(source, repair=True)
    assert repaired.quarantined == [] and len(repaired.boxes("a")) == 0
    assert repaired.findings[0].repaired


@pytest.mark.parametrize("repair", [False, True])
def test_an_unreadable_label_file_is_never_background(repair: bool, tmp_path: Path) -> None:
    dataset(tmp_path, {"a": None, "b": LINE})
    (tmp_path / "labels" / "a.txt").mkdir()
    loaded = load(open_yolo(tmp_path), repair)
    assert loaded.places() == [(Code.LABEL_MALFORMED, "labels/a.txt", None)]
    assert loaded.quarantined == ["a"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("0 0.5 0.5 0.25", Code.LABEL_MALFORMED),
        ("0 0.5 0.5 0.25 0.5 0.9", Code.LABEL_MALFORMED),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", Code.LABEL_MALFORMED),
        ("cat 0.5 0.5 0.25 0.5", Code.LABEL_MALFORMED),
        ("0,0.5,0.5,0.25,0.5", Code.LABEL_MALFORMED),
        ("0 0,5 0,5 0,25 0,5", Code.LABEL_MALFORMED),
        ("0 0.5 0.5 0.25 0.5 # a cat", Code.LABEL_MALFORMED),
        ("2 0.5 0.5 0.25 0.5", Code.CLASS_UNKNOWN),
        ("-1 0.5 0.5 0.25 0.5", Code.CLASS_UNKNOWN),
        ("0.5 0.5 0.5 0.25 0.5", Code.CLASS_UNKNOWN),
        ("nan 0.5 0.5 0.25 0.5", Code.CLASS_UNKNOWN),
        ("1e99 0.5 0.5 0.25 0.5", Code.CLASS_UNKNOWN),
        ("0 nan 0.5 0.25 0.5", Code.BOX_NOT_FINITE),
        ("0 0.5 inf 0.25 0.5", Code.BOX_NOT_FINITE),
        ("0 0.5 0.5 1e60 0.5", Code.BOX_NOT_FINITE),
        ("0 nan 0.2 0.3 0.4 0.5 0.6", Code.BOX_NOT_FINITE),
        ("0 0.5 0.5 0 0.5", Code.BOX_EMPTY),
        ("0 0.5 0.5 0.25 -0.5", Code.BOX_EMPTY),
        ("0 0.5 0.5 0.25 0.5e-5", Code.BOX_EMPTY),
        ("0 0.2 0.2 0.2 0.2 0.2 0.2", Code.BOX_EMPTY),
        ("0 0.9 0.5 0.25 0.5", Code.BOX_OUTSIDE),
        ("0 320 240 160 240", Code.BOX_OUTSIDE),
        ("0 1.5 0.5 0.25 0.5", Code.BOX_OUTSIDE),
    ],
)
def test_what_is_wrong_with_a_line(line: str, code: Code, tmp_path: Path) -> None:
    label = f"{LINE}\n{line}\n{OTHER}"
    loaded = load_one(tmp_path, label)
    assert loaded.places() == [(code, "labels/a.txt", 3)]
    assert loaded.quarantined == ["a"] and loaded.findings[0].image_id == "a"
    repaired = load_one(tmp_path, label, repair=True)
    assert repaired.places() == loaded.places() and repaired.findings[0].repaired
    cut = [[49.6, 12, 64, 36]] if line.startswith("0 0.9") else []
    np.testing.assert_allclose(repaired.boxes("a"), [BOX, *cut, OTHER_BOX], atol=1e-4)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("0 0.5 0.5 1.0000004 1.0", []),  # 1e-5 px: the rounding of six digits.
        ("0 0.5 0.5 1.004 1.0", [Code.BOX_CLIPPED]),
        ("0 0.5 0.5 1.03 1.0", [Code.BOX_CLIPPED]),
        ("0 0.5 0.5 1.04 1.0", [Code.BOX_OUTSIDE]),
    ],
)
def test_boxes_a_little_outside_are_cut(line: str, found: list[Code], tmp_path: Path) -> None:
    loaded = load_one(tmp_path, line)
    assert [code for code, _, _ in loaded.places()] == found
    if found == [Code.BOX_OUTSIDE]:
        assert loaded.quarantined == ["a"]
    else:
        assert loaded.boxes("a").tolist() == [[0, 0, 64, 48]]
        assert all(finding.severity == "info" for finding in loaded.findings)


@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize(("beyond", "code"), [(0.5, Code.BOX_CLIPPED), (1.5, Code.BOX_OUTSIDE)])
def test_every_side_has_a_border(side: int, beyond: float, code: Code, tmp_path: Path) -> None:
    box, limits = [10.0, 10.0, 20.0, 20.0], [0.0, 0.0, 64.0, 48.0]
    box[side] = limits[side] + (beyond if side >= 2 else -beyond)
    line = yolo_line(Thing(0, (box[0], box[1], box[2], box[3])), 48, 64)
    loaded = load_one(tmp_path, line, repair=True)
    assert loaded.places() == [(code, "labels/a.txt", 1)]
    assert f"by {beyond:.2f} px" in loaded.findings[0].value
    box[side] = limits[side]
    np.testing.assert_allclose(loaded.boxes("a"), [box], atol=1e-4)


def test_labels_without_photograph(tmp_path: Path) -> None:
    dataset(tmp_path, {"a": LINE, "sub/b": LINE})
    for name in ("c.txt", "sub/d.TXT", "sub/a.txt", "classes.txt", ".hidden.txt"):
        write(tmp_path / "labels" / name, LINE)
    loaded = load(open_yolo(tmp_path))
    assert loaded.places() == [
        (Code.LABEL_WITHOUT_IMAGE, f"labels/{name}", None) for name in ("c.txt", "sub/a.txt", "sub/d.TXT")
    ]
    assert sorted(loaded.outcomes) == ["a", "sub/b"] and not loaded.quarantined


def test_labels_beside_the_photographs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "train" / f"{name}.jpg", photograph())
    for name in ("a", "b", "c"):
        write(tmp_path / "train" / f"{name}.txt", LINE)
    write(tmp_path / "data.yaml", "train: train\nnames: [cat]\n")
    loaded = load(open_yolo(tmp_path))
    assert loaded.places() == [(Code.LABEL_WITHOUT_IMAGE, "train/c.txt", None)]
    assert not loaded.quarantined and loaded.example("a")["provenance"] == "train/a.txt:1"


@pytest.mark.parametrize("folder", ["train", "."])
def test_a_split_folder_above_images_and_labels(folder: str, tmp_path: Path) -> None:
    write(tmp_path / folder / "images" / "a.jpg", photograph())
    write(tmp_path / folder / "labels" / "a.txt", LINE)
    write(tmp_path / "data.yaml", f"train: {folder}\nnames: [cat]\n")
    loaded = load(open_yolo(tmp_path))
    assert not loaded.findings and loaded.boxes("images/a").tolist() == [BOX]


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".Jpeg", ".jfif", ".png", ".PNG"])
def test_suffixes(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / "images" / f"a{suffix}", photograph(encoding="PNG" if suffix.lower() == ".png" else "JPEG"))
    write(tmp_path / "labels" / "a.txt", LINE)
    write(tmp_path / "classes.txt", "cat\n")
    loaded = load(open_yolo(tmp_path))
    assert not loaded.findings and loaded.example("a")["image/filename"] == f"images/a{suffix}"


@pytest.mark.parametrize("encoding", ["WEBP", "GIF", "TIFF", "AVIF"])
def test_kinds_of_images_that_tfds_cannot_read_are_no_silent_loss(encoding: str, tmp_path: Path) -> None:
    """A GIF or WebP would become four-dimensional, a TIFF an error, for everybody who reads the dataset by TFDS."""
    dataset(tmp_path, {"a": LINE, "b": LINE})
    (tmp_path / "images" / "b.jpg").unlink()
    suffix = f".{encoding.lower()}"
    write(tmp_path / "images" / f"b{suffix}", photograph(encoding=encoding))
    loaded = load(open_yolo(tmp_path))
    assert loaded.places() == [(Code.IMAGE_UNSUPPORTED, f"images/b{suffix}", None)]
    assert encoding in loaded.findings[0].value and "JPEG or PNG" in loaded.findings[0].remedy
    assert loaded.quarantined == ["b"]


@pytest.mark.parametrize(
    "name", ["with space", "ünïcödé", "犬", "a.b.c", "deep/er/nested", "name'with\"quotes", "-dash", "%41", "a,b;c"]
)
def test_names(name: str, tmp_path: Path) -> None:
    loaded = load(open_yolo(dataset(tmp_path, {name: LINE})))
    assert not loaded.findings and loaded.boxes(name).tolist() == [BOX]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """A file from an old archive: its bytes are escaped in ids, and it is prepared."""
    raw = os.fsdecode(b"caf\xe9")
    source = open_yolo(dataset(tmp_path, {raw: LINE, "b": None}))
    loaded = load(source)
    assert loaded.boxes("caf\\xe9").tolist() == [BOX]
    assert loaded.example("caf\\xe9")["image/filename"] == "images/caf\\xe9.jpg"
    (tmp_path / "labels" / f"{raw}.txt").unlink()
    assert (Code.LABEL_MISSING, "labels/caf\\xe9.txt", None) in load(source).places()


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    dataset(tmp_path, {"a": LINE})
    write(tmp_path / "images" / "._a.jpg", b"what macOS leaves behind")
    write(tmp_path / "images" / "Thumbs.db", b"and Windows")
    assert list(load(open_yolo(tmp_path)).outcomes) == ["a"]


def test_two_images_for_one_label_file(tmp_path: Path) -> None:
    dataset(tmp_path, {"a": LINE})
    write(tmp_path / "images" / "a.png", photograph(encoding="PNG"))
    references = open_yolo(tmp_path).scan().references
    assert [reference.image_id for reference in references] == ["images/a", "images/a"], "planning finds it"


class TestLinks:
    def test_out_of_the_source(self, tmp_path: Path) -> None:
        write(tmp_path / "secret.jpg", photograph())
        write(tmp_path / "secret.txt", LINE)
        root = dataset(tmp_path / "source", {"a": LINE, "b": LINE})
        (root / "images" / "a.jpg").unlink()
        (root / "images" / "a.jpg").symlink_to(tmp_path / "secret.jpg")
        (root / "labels" / "b.txt").unlink()
        (root / "labels" / "b.txt").symlink_to(tmp_path / "secret.txt")
        loaded = load(open_yolo(root), repair=True)
        assert loaded.places() == [
            (Code.IMAGE_OUTSIDE_ROOT, "images/a.jpg", None),
            (Code.IMAGE_OUTSIDE_ROOT, "labels/b.txt", None),
        ]
        assert loaded.quarantined == ["a", "b"]

    def test_to_nothing_and_in_circles(self, tmp_path: Path) -> None:
        root = dataset(tmp_path, {"a": LINE, "b": LINE, "c": LINE})
        for name, target in (("a", "gone.jpg"), ("b", "b.jpg")):
            (root / "images" / f"{name}.jpg").unlink()
            (root / "images" / f"{name}.jpg").symlink_to(target)
        loaded = load(open_yolo(root))
        assert loaded.places() == [
            (Code.IMAGE_MISSING, "images/a.jpg", None),
            (Code.IMAGE_UNREADABLE, "images/b.jpg", None),
        ]

    def test_inside_the_source(self, tmp_path: Path) -> None:
        root = dataset(tmp_path, {"a": LINE})
        (root / "raw").mkdir()
        (root / "images" / "a.jpg").rename(root / "raw" / "a.jpg")
        (root / "images").rmdir()
        (root / "images").symlink_to("raw", target_is_directory=True)
        write(root / "data.yaml", "train: images\nnames: [cat]\n")
        loaded = load(open_yolo(root))
        assert not loaded.findings and loaded.boxes("a").tolist() == [BOX]

    def test_linked_folders_below_are_not_passed_over_in_silence(self, tmp_path: Path) -> None:
        elsewhere = dataset(tmp_path / "elsewhere", {"b": LINE})
        root = dataset(tmp_path / "source", {"a": LINE, "deep/c": LINE})
        (root / "images" / "deep" / "more").symlink_to(elsewhere / "images", target_is_directory=True)
        (root / "images" / "circle").symlink_to(root, target_is_directory=True)
        loaded = load(open_yolo(root))
        assert sorted(loaded.places()) == [
            (Code.IMAGE_OUTSIDE_ROOT, "images/circle", None),
            (Code.IMAGE_OUTSIDE_ROOT, "images/deep/more", None),
        ]
        assert sorted(loaded.outcomes) == ["a", "deep/c"] and not loaded.quarantined

    def test_folder_out_of_the_source(self, tmp_path: Path) -> None:
        elsewhere = dataset(tmp_path / "elsewhere", {"a": LINE})
        root = tmp_path / "source"
        root.mkdir()
        (root / "images").symlink_to(elsewhere / "images", target_is_directory=True)
        write(root / "data.yaml", "train: images\nnames: [cat]\n")
        with pytest.raises(UsageError, match="leads to no folder of images"):
            open_yolo(root)


def test_class_names_of_windows(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"a": LINE}, names="\ufeffcat \r\n\r\ndog\r\n")
    assert open_yolo(root).categories.names == ("cat", "dog")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.jpg", "labels/a.jpg"),
        ("images/train/a.jpg", "labels/train/a.jpg"),
        ("train/images/a.jpg", "train/labels/a.jpg"),
        ("images/x/images/a.jpg", "images/x/labels/a.jpg"),
        ("my_images/a.jpg", "my_images/a.jpg"),
        ("a.jpg", "a.jpg"),
    ],
)
def test_label_paths(image: str, label: str) -> None:
    assert label_path(image) == label
