"""Pascal VOC: 1-based inclusive pixels, image sets, and everything that can be wrong with an XML file."""

from pathlib import Path

import numpy as np
import pytest

from dataflow.errors import UsageError
from dataflow.findings import Code
from tests.factories import Picture, Thing, load, logical_dataset, prepare, write, write_voc
from tfds_builders.formats.voc import open_voc

NAME = "000001"
ONE = Picture(NAME, 48, 64, (Thing(0, (10.0, 12.0, 30.0, 40.0)),))
BOX = "<bndbox><xmin>11</xmin><ymin>13</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"


def with_objects(root: Path, *objects: str, size: str = "") -> Path:
    write_voc(root, [ONE])
    write(root / "Annotations" / f"{NAME}.xml", f"<annotation>{size}{''.join(objects)}</annotation>")
    return root


def test_the_first_pixel_is_one_and_the_last_belongs_to_the_box(tmp_path: Path) -> None:
    """A box over the whole of an image of 64 x 48 px is 1, 1, 64, 48 in VOC."""
    whole = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>64</xmax><ymax>48</ymax></bndbox>"
    root = with_objects(
        tmp_path, f"<object><name>cat</name>{whole}</object>", f"<object><name>dog</name>{BOX}</object>"
    )
    loaded = load(open_voc(root))
    np.testing.assert_allclose(loaded.boxes(NAME), [[0, 0, 64, 48], [10, 12, 30, 40]], atol=1e-4)
    assert not loaded.findings


def test_classes_are_those_that_occur_in_alphabetical_order_or_those_given(tmp_path: Path) -> None:
    root = with_objects(
        tmp_path, f"<object><name>dog</name>{BOX}</object>", f"<object><name> cat\n</name>{BOX}</object>"
    )
    assert open_voc(root).categories.names == ("cat", "dog")
    assert load(open_voc(root)).column(NAME, "label") == [1, 0]
    given = load(open_voc(root, ("dog", "horse")))
    assert given.places() == [(Code.CLASS_UNKNOWN, f"Annotations/{NAME}.xml", "/annotation/object[2]/name")]


def test_parts_of_an_object_are_no_objects(tmp_path: Path) -> None:
    """VOC's person layout nests parts, with names and boxes of their own."""
    part = f"<part><name>head</name>{BOX}</part>"
    loaded = load(open_voc(with_objects(tmp_path, f"<object><name>person</name>{BOX}{part}</object>")))
    assert loaded.column(NAME, "label") == [0]
    assert len(loaded.boxes(NAME)) == 1


BROKEN = {
    "no name": (f"<object>{BOX}</object>", Code.CLASS_UNKNOWN, "/annotation/object[1]/name"),
    "no box": ("<object><name>thing</name></object>", Code.LABEL_MALFORMED, "/annotation/object[1]/bndbox"),
    "words": (
        f"<object><name>thing</name>{BOX.replace('11', 'left')}</object>",
        Code.LABEL_MALFORMED,
        "/annotation/object[1]/bndbox",
    ),
    "not finite": (
        f"<object><name>thing</name>{BOX.replace('11', 'nan')}</object>",
        Code.BOX_NOT_FINITE,
        "/annotation/object[1]/bndbox",
    ),
    "reversed": (
        f"<object><name>thing</name>{BOX.replace('<xmax>30', '<xmax>3')}</object>",
        Code.BOX_EMPTY,
        "/annotation/object[1]/bndbox",
    ),
    "outside": (
        f"<object><name>thing</name>{BOX.replace('<xmax>30', '<xmax>80')}</object>",
        Code.BOX_OUTSIDE,
        "/annotation/object[1]/bndbox",
    ),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_what_is_broken_is_found_at_its_place(kind: str, tmp_path: Path) -> None:
    item, code, place = BROKEN[kind]
    source = open_voc(with_objects(tmp_path, item), ("thing",))
    loaded = load(source)
    assert loaded.places() == [(code, f"Annotations/{NAME}.xml", place)]
    assert loaded.quarantined == [NAME]
    assert load(source, repair=True).quarantined == []


def test_files_that_are_broken_missing_or_left_over(tmp_path: Path) -> None:
    pictures = [Picture(name, 48, 64, ONE.things) for name in ("broken", "entities", "fine", "missing", "size")]
    write_voc(tmp_path, pictures)
    write(tmp_path / "Annotations/broken.xml", "<annotation>\n<object>\n</annotation>")
    lol = "<!DOCTYPE a [<!ENTITY b 'c'>" + "".join(f"<!ENTITY b{i} '{'&b;' * 9}'>" for i in range(3)) + "]>"
    write(tmp_path / "Annotations/entities.xml", f"{lol}<annotation><object><name>&z;</name></object></annotation>")
    (tmp_path / "Annotations/missing.xml").unlink()
    write(tmp_path / "Annotations/orphan.xml", "<annotation/>")
    xml = (tmp_path / "Annotations/size.xml").read_text().replace("<width>64", "<width>63")
    write(tmp_path / "Annotations/size.xml", xml)
    loaded = load(open_voc(tmp_path))
    assert set(loaded.places()) == {
        (Code.LABEL_MALFORMED, "Annotations/broken.xml", 3),
        (Code.LABEL_MALFORMED, "Annotations/entities.xml", 1),
        (Code.LABEL_MISSING, "Annotations/missing.xml", None),
        (Code.LABEL_WITHOUT_IMAGE, "Annotations/orphan.xml", None),
        (Code.SIZE_MISMATCH, "Annotations/size.xml", "/annotation/size"),
    }
    assert loaded.quarantined == ["broken", "entities", "missing", "size"]


def test_image_sets_are_the_splits(tmp_path: Path) -> None:
    pictures = logical_dataset(6)
    write_voc(tmp_path, pictures)
    names = [picture.name for picture in pictures]
    write(tmp_path / "ImageSets/Main/train.txt", f"{names[0]}\r\n{names[1]}  1\n\n{names[2]}\n")
    write(tmp_path / "ImageSets/Main/val.txt", f"\ufeff{names[3]}\n{names[2]}\nnobody\n")
    source = open_voc(tmp_path)
    listing = source.scan()
    splits = {reference.image_id: reference.split for reference in listing.references}
    assert splits == {
        names[0]: "train", names[1]: "train", names[2]: None, names[3]: "validation", names[4]: None, names[5]: None,
    }  # fmt: skip
    found = [(finding.code, finding.file) for finding in listing.findings]
    assert found == [
        (Code.SPLIT_MISSING, "ImageSets/Main"),
        (Code.LABEL_WITHOUT_IMAGE, "ImageSets/Main/val.txt"),
    ]
    made = prepare(source, tmp_path / "out")
    assert sum(made.splits.values()) == 6
    assert {names[0], names[1]} <= {record.image_id for record in made.records("train")}


def test_annotations_do_not_lead_out_of_the_source(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.xml", "<annotation/>")
    root = write_voc(tmp_path / "source", [ONE])
    (root / f"Annotations/{NAME}.xml").unlink()
    (root / f"Annotations/{NAME}.xml").symlink_to(secret)
    loaded = load(open_voc(root, ("thing",)))
    assert loaded.places() == [(Code.IMAGE_OUTSIDE_ROOT, f"Annotations/{NAME}.xml", None)]


@pytest.mark.parametrize("folders", [(), ("Annotations",), ("JPEGImages",), ("Annotations", "JPEGImages")])
def test_what_is_no_voc_directory_is_said_in_a_line(folders: tuple[str, ...], tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(UsageError):
        open_voc(tmp_path)


def test_the_directory_of_a_year_is_proposed(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOC2007", [ONE])
    with pytest.raises(UsageError, match="VOC2007"):
        open_voc(tmp_path)
