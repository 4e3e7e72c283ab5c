"""Pascal VOC: 1-based inclusive pixels, image sets, and everything that can be wrong with an XML file."""

import os
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
    found = [(finding.code, finding.file, finding.line) for finding in listing.findings]
    assert found == [
        (Code.LISTED_TWICE, "ImageSets/Main/val.txt", 2),
        (Code.IMAGE_MISSING, "ImageSets/Main/val.txt", 3),
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


def test_flags(tmp_path: Path) -> None:
    flags = "<difficult> 1 </difficult><truncated>1</truncated>"
    other = BOX.replace(">11<", ">5<")
    loaded = load(
        open_voc(
            with_objects(
                tmp_path, f"<object><name>a</name>{flags}{BOX}</object>", f"<object><name>a</name>{other}</object>"
            )
        )
    )
    assert loaded.column(NAME, "is_crowd") == loaded.column(NAME, "is_truncated") == [True, False]


def test_an_image_of_the_background(tmp_path: Path) -> None:
    loaded = load(open_voc(with_objects(tmp_path), ("thing",)))
    assert loaded.places() == [(Code.LABEL_EMPTY, f"Annotations/{NAME}.xml", None)]
    assert not loaded.quarantined and not len(loaded.boxes(NAME))


@pytest.mark.parametrize("repair", [False, True])
def test_shares_of_the_image_where_pixels_are_expected(repair: bool, tmp_path: Path) -> None:
    box = "<bndbox><xmin>0.1</xmin><ymin>0.25</ymin><xmax>0.5</xmax><ymax>1</ymax></bndbox>"
    loaded = load(open_voc(with_objects(tmp_path, f"<object><name>a</name>{box}</object>")), repair)
    assert loaded.places() == [(Code.BOX_UNITS, f"Annotations/{NAME}.xml", "/annotation/object[1]/bndbox")]
    assert loaded.quarantined == [NAME]


def test_a_box_of_the_first_pixel_is_no_share_of_the_image(tmp_path: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>1</xmax><ymax>1</ymax></bndbox>"
    loaded = load(open_voc(with_objects(tmp_path, f"<object><name>a</name>{box}</object>")))
    assert loaded.boxes(NAME).tolist() == [[0, 0, 1, 1]]
    assert [code for code, _, _ in loaded.places()] == [Code.BOX_ABSURD]


def test_boxes_that_count_from_zero_are_cut(tmp_path: Path) -> None:
    """Many tools do: what that costs is one pixel, and a note."""
    box = "<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    loaded = load(open_voc(with_objects(tmp_path, f"<object><name>a</name>{box}</object>")))
    assert loaded.boxes(NAME).tolist() == [[0, 0, 30, 40]]
    assert [code for code, _, _ in loaded.places()] == [Code.BOX_CLIPPED]


BOMB = (
    '<?xml version="1.0"{encoding}?>\n<!DOCTYPE annotation [\n<!ENTITY a "' + "a" * 1000 + '">\n'
    + "".join(f'<!ENTITY {new} "{f"&{old};" * 10}">\n' for old, new in zip("abcdefg", "bcdefgh", strict=True))
    + "]>\n<annotation><object><name>&h;</name></object></annotation>"
)  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_xml_bombs_do_not_go_off(encoding: str, tmp_path: Path) -> None:
    """A file of 2 kB whose class name would have ten thousand million letters."""
    write_voc(tmp_path, [ONE])
    text = BOMB.format(encoding=f' encoding="{encoding}"')
    write(tmp_path / "Annotations" / f"{NAME}.xml", text.encode(encoding))
    loaded = load(open_voc(tmp_path, ("thing",)))
    assert loaded.places() == [(Code.LABEL_MALFORMED, f"Annotations/{NAME}.xml", 3)]
    assert "entities" in loaded.findings[0].value and loaded.quarantined == [NAME]
    with pytest.raises(UsageError, match="names no class"):
        open_voc(tmp_path)


def test_files_outside_are_not_pulled_in(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.txt", "thing")
    root = write_voc(tmp_path / "source", [ONE])
    entity = f'<!DOCTYPE annotation [<!ENTITY x SYSTEM "file://{secret}">]>'
    item = f"<object><name>&x;</name>{BOX}</object>"
    write(root / "Annotations" / f"{NAME}.xml", f"{entity}<annotation>{item}</annotation>")
    loaded = load(open_voc(root, ("thing",)))
    assert loaded.places() == [(Code.LABEL_MALFORMED, f"Annotations/{NAME}.xml", 1)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", 1),
        (b"<html><object/></html>", 1),
        (b"<annotation>\n\n", 3),
        (b'<?xml version="1.0" encoding="nobody-knows"?><annotation/>', 1),
        (b'<?xml version="1.0" encoding="shift_jis"?><annotation/>', 1),
        (b"<a>" * 100_000, 1),
    ],
    ids=["nothing", "another root", "cut", "encoding", "encoding of several bytes", "deep"],
)
def test_what_is_no_annotation(text: bytes, line: int, tmp_path: Path) -> None:
    write_voc(tmp_path, [ONE])
    write(tmp_path / "Annotations" / f"{NAME}.xml", text)
    loaded = load(open_voc(tmp_path, ("thing",)))
    assert loaded.places() == [(Code.LABEL_MALFORMED, f"Annotations/{NAME}.xml", line)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    write_voc(tmp_path, [ONE])
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    text = (
        f'<?xml version="1.0" encoding="{declared}"?><annotation><object><name>köttur</name>{BOX}</object></annotation>'
    )
    write(tmp_path / "Annotations" / f"{NAME}.xml", text.encode(encoding))
    source = open_voc(tmp_path)
    assert source.categories.names == ("köttur",) and load(source).column(NAME, "label") == [0]


def test_broken_lines_of_a_name_are_one_name(tmp_path: Path) -> None:
    items = [f"<object><name>{name}</name>{BOX}</object>" for name in ("traffic\n   light", " traffic light ")]
    assert open_voc(with_objects(tmp_path, *items)).categories.names == ("traffic light",)


def test_the_label_map_of_cvat_names_the_classes(tmp_path: Path) -> None:
    root = with_objects(tmp_path, f"<object><name>cat</name>{BOX}</object>")
    rows = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:128,0,0:head,tail:\nhalf: full:::\ncat:0,128,0::\n"
    write(root / "labelmap.txt", rows)
    source = open_voc(root)
    assert source.categories.names == ("dog", "half: full", "cat")
    assert load(source).column(NAME, "label") == [2]


def test_lists_of_single_classes_are_no_splits_and_lines_twice_are_told(tmp_path: Path) -> None:
    write_voc(tmp_path, [Picture(name, 48, 64, ONE.things) for name in ("a", "b c", "d")])
    write(tmp_path / "ImageSets/Main/train.txt", "a\nb c\na\n")
    write(tmp_path / "ImageSets/Main/thing_val.txt", "d 1\na -1\n")
    listing = open_voc(tmp_path).scan()
    assert {r.image_id: r.split for r in listing.references} == {"a": "train", "b c": "train", "d": None}
    assert [(f.code, f.file, f.line, f.image_id) for f in listing.findings] == [
        (Code.LISTED_TWICE, "ImageSets/Main/train.txt", 3, "a")
    ]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    raw = os.fsdecode(b"caf\xe9")
    write_voc(tmp_path, [Picture(raw.encode("utf-8", "surrogateescape").decode("latin-1"), 48, 64, ONE.things)])
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (tmp_path / folder / f"café.{suffix}").rename(tmp_path / folder / f"{raw}.{suffix}")
    write(tmp_path / "ImageSets/Main/train.txt", b"caf\xe9\n")
    source = open_voc(tmp_path)
    assert [(r.image_id, r.split) for r in source.scan().references] == [("caf\\xe9", "train")]
    np.testing.assert_allclose(load(source).boxes("caf\\xe9"), [ONE.things[0].box], atol=1e-4)


def test_where_its_image_is(tmp_path: Path) -> None:
    items = [f"<object><name>{name}</name>{BOX}</object>" for name in ("c", "a", "c", "nobody")]
    source = open_voc(with_objects(tmp_path, *items), ("a", "b", "c"))
    (reference,) = source.scan().references
    assert source.image_path(reference).read_bytes() == ONE.encoded()
