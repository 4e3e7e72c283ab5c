import io
import os
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dataflow.findings import Audit, Code, Finding, Severity, sorted_findings
from tests.factories import photograph, write
from tests.pages import Page, check_page
from tfds_builders.audit.explanations import MEANINGS, REMEDIES
from tfds_builders.audit.page import LISTED, LISTED_PER_CODE, PICTURES, PICTURES_PER_CODE, write_page
from tfds_builders.audit.pictures import THUMBNAIL_PX, Thumbnail, draw_picture, read_thumbnail
from tfds_builders.pages.markup import legible

BAD = Finding(Code.BOX_OUTSIDE, "error", "labels/a.txt", "box 1, 2, 3, 4", "clip it, or repair", 7, "a")
Corners = tuple[float, float, float, float]


@dataclass
class Item:
    """A finding as the page shows it."""

    state: str
    group: str
    text: str = ""
    pictures: int = 0


class AuditPage(Page):
    """A page with its findings."""

    def __init__(self, html: str) -> None:
        self.items: list[Item] = []
        self.groups: list[str] = []
        super().__init__(html)
        check_page(html)

    @property
    def images(self) -> list[bytes]:
        return [b64decode(a["href"].removeprefix("data:image/jpeg;base64,"), validate=True) for a in self.of("image")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        known = self.elements[-1][1]
        if tag == "section" and "group" in known.get("class", ""):
            self.groups.append(known["id"])
        elif tag == "li":
            self.items.append(Item(known["class"], self.groups[-1]))
        elif tag == "figure":
            self.items[-1].pictures += 1

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if "li" in self.open:
            self.items[-1].text += data


def audit_of(*findings: Finding, prepared: int = 0, quarantined: tuple[str, ...] = ()) -> Audit:
    return Audit(prepared, len(quarantined), findings, quarantined)


def page_of(folder: Path, audit: Audit, images: Mapping[str, Path] | None = None, name: str = "dataset") -> AuditPage:
    write_page(folder / "audit.html", audit, name, images or {})
    return AuditPage((folder / "audit.html").read_bytes().decode())


@pytest.mark.parametrize("table", [MEANINGS, REMEDIES], ids=["meanings", "remedies"])
def test_every_code_is_explained_in_one_sentence(table: Mapping[Code, str]) -> None:
    assert list(table) == list(Code)
    assert len(set(MEANINGS.values())) == len(Code)
    for sentence in table.values():
        assert sentence[0].isupper() and re.fullmatch(r"[^.!?]+\.", sentence)


def test_the_headline_counts_images(tmp_path: Path) -> None:
    quarantined = tuple(f"image {number:04d}" for number in range(1234))
    audit = audit_of(replace(BAD, image_id="image 0007"), prepared=98_766, quarantined=quarantined)
    page = page_of(tmp_path, audit, name="street & <b>")
    assert "100,000images in=98,766prepared+1,234quarantined" in page.text
    assert "street & <b> · Shardbox audit" in page.text
    assert "image 0007box-outside-image" in page.text
    assert "1,134 more are in audit.json" in page.text and "image 0100" not in page.text


def test_a_page_without_findings(tmp_path: Path) -> None:
    page = page_of(tmp_path, audit_of(prepared=3))
    assert "Nothing was found" in page.text
    assert not page.items


def test_errors_come_first(tmp_path: Path) -> None:
    severities: tuple[Severity, ...] = ("info", "warning", "error")
    findings = [
        *(replace(BAD, code=Code.BOX_CLIPPED, severity="info", line=line) for line in range(9)),
        *(replace(BAD, code=Code.LABEL_EMPTY, severity="warning", line=line) for line in range(2)),
        *(replace(BAD, code=Code.BOX_EMPTY, repaired=True, line=line) for line in range(5)),
        *(replace(BAD, code=Code.CLASS_UNKNOWN, severity=severity, value=severity) for severity in severities),
        *(replace(BAD, code=Code.IMAGE_MISSING, line=line) for line in range(2)),
    ]
    page = page_of(tmp_path, audit_of(*findings))
    assert page.groups == ["image-missing", "class-unknown", "label-empty", "box-empty", "box-clipped"]
    assert [item.state for item in page.items] == ["e"] * 2 + ["e", "w", "i"] + ["w"] * 2 + ["r"] * 5 + ["i"] * 9
    assert [item.text.removeprefix("labels/a.txt:7") for item in page.items][2:5] == ["error", "warning", "info"]
    assert "3 errors4 warnings" not in page.text
    assert "3 errors3 warnings5 repaired10 notes" in page.text


def test_a_finding_says_where_what_and_what_to_do(tmp_path: Path) -> None:
    pointer = replace(BAD, file="a.json", line="/annotations/3/bbox", remedy="write four numbers", image_id="b/c")
    page = page_of(tmp_path, audit_of(BAD, pointer, replace(BAD, code=Code.IMAGE_MISSING, line=None, image_id=None)))
    texts = sorted(item.text for item in page.items)
    assert texts == [
        "a.json:/annotations/3/bboxbox 1, 2, 3, 4image b/cwrite four numbers",
        "labels/a.txt:7box 1, 2, 3, 4clip it, or repair",
        "labels/a.txtbox 1, 2, 3, 4",  # The only one of its code: the section says what to do.
    ]
    assert "Here: clip it, or repair." in page.text


HOSTILE = [
    "<script>alert(1)</script>",
    "</li></ul></section><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "$script_hash ${body} $$",
    "&lt;b&gt; &amp;",
    "\udce9\ud800 \0 \r\n \u202egpj.exe",
    "x" * 1_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.jpg", photograph())
    missing = tmp_path / "no.jpg"
    findings = (
        replace(BAD, file=text, value=text, remedy=text, image_id=text),
        replace(BAD, code=Code.IMAGE_MISSING, value=text, line=text, image_id=f"{text} 2"),
    )
    audit = audit_of(*findings, quarantined=(text,))
    page = page_of(tmp_path, audit, {text: path, f"{text} 2": missing}, name=text)
    assert len(page.items) == 2 and page.groups == ["box-outside-image", "image-missing"]
    assert sum(item.text.count(legible(text)) for item in page.items) >= 2
    assert len(page.html) < 40_000


def test_the_page_leads_to_the_file_beside_it(tmp_path: Path) -> None:
    page = page_of(tmp_path, audit_of(BAD, quarantined=("a",)), {"a": write(tmp_path / "a.jpg", photograph())})
    assert {a["href"] for a in page.of("a")} == {"#box-outside-image", "audit.json"}
    assert len(page.images) == 1


@pytest.mark.parametrize(
    ("encoding", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "I;16"), ("WEBP", "RGB"), ("BMP", "L")],
)
@pytest.mark.parametrize("orientation", [None, 2, 6])
def test_pictures_are_upright(tmp_path: Path, encoding: str, mode: str, orientation: int | None) -> None:
    data = photograph(240, 400, mode=mode, encoding=encoding, orientation=orientation)  # BMP has no place for it.
    picture = read_thumbnail(write(tmp_path / "a", data))
    assert isinstance(picture, Thumbnail)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        assert upright is not None
        if mode == "I;16":
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        assert picture.original_size == (upright.height, upright.width)
        small = Image.open(io.BytesIO(picture.jpeg))
        assert max(small.size) == THUMBNAIL_PX and picture.size == (small.height, small.width)
        expected = upright.convert("RGB").resize(small.size, Image.Resampling.BOX)
    difference = np.abs(np.asarray(small, np.int16) - np.asarray(expected, np.int16))
    assert difference.mean() < 8


def test_pictures_that_cannot_be_shown_say_why(tmp_path: Path) -> None:
    whole = photograph(200, 300)
    os.mkfifo(tmp_path / "pipe")  # Whoever opens it waits for ever.
    (tmp_path / "folder").mkdir()
    files = {
        "missing": (tmp_path / "no.jpg", "No such file"),
        "empty": (write(tmp_path / "empty", b""), "is empty"),
        "text": (write(tmp_path / "text", b"no image <b>"), "no readable image"),
        "cut PNG": (write(tmp_path / "cut", photograph(200, 300, encoding="PNG")[:2000]), "cannot be decoded"),
        "nameless": (Path("a\0b"), "null"),
        "pipe": (tmp_path / "pipe", "not a regular file"),
        "folder": (tmp_path / "folder", "not a regular file"),
    }
    findings = [replace(BAD, image_id=name, line=line) for line, name in enumerate(files, 1)]
    page = page_of(tmp_path, audit_of(*findings), {name: path for name, (path, _) in files.items()})
    assert not page.images
    for item, (_, reason) in zip(page.items, files.values(), strict=True):
        assert item.pictures == 1 and "cannot be shown" in item.text and reason in item.text
    # What is left of a cut JPEG shows how much is lost.
    assert isinstance(read_thumbnail(write(tmp_path / "cut.jpg", whole[: len(whole) // 2])), Thumbnail)


def test_nothing_outside_the_source_is_shown(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.jpg", photograph())
    outside = replace(BAD, code=Code.IMAGE_OUTSIDE_ROOT, file="images/a.jpg", line=None)
    page = page_of(tmp_path, audit_of(BAD, outside, replace(BAD, image_id="b")), {"a": secret, "b": secret})
    assert [item.pictures for item in page.items if "a.jpg" in item.text] == [0]
    assert sum(item.pictures for item in page.items) == len(page.images) == 1


def numbers(pattern: str, html: str) -> list[float]:
    match = re.search(pattern, html)
    assert match, html
    return [float(number) for number in match.groups()]


NUMBER = "(-?[0-9.]+)"
VIEW = rf'viewBox="{NUMBER} {NUMBER} {NUMBER} {NUMBER}"'
RECT = rf'<rect x="{NUMBER}" y="{NUMBER}" width="{NUMBER}" height="{NUMBER}"/>'


@pytest.mark.parametrize(
    ("box", "view", "rect"),
    [
        ((40.0, 30.0, 200.0, 120.0), (0, 0, 160, 120), (16, 12, 64, 36)),
        ((100.0, 60.0, 460.0, 120.0), (0, 0, 188, 120), (40, 24, 144, 24)),  # Beyond the right side, margin and all.
        ((-20.0, -4e5, 80.0, 80.0), (-12, -56, 172, 176), (-8, -65, 40, 97)),  # Open at the top.
        ((80.0, 80.0, 80.0, 80.0), (0, 0, 160, 120), (30, 30, 4, 4)),  # Large enough to be seen.
        ((80.0, 80.0, 40.0, 40.0), (0, 0, 160, 120), (16, 16, 16, 16)),
    ],
)
def test_the_box_is_where_it_should_be(box: Corners, view: Corners, rect: Corners) -> None:
    picture = Thumbnail(b"", (120, 160), (300, 400))
    html = draw_picture(replace(BAD, box=box), picture)
    assert numbers(VIEW, html) == pytest.approx(view)
    assert numbers(RECT, html) == pytest.approx(rect)


def test_an_arrow_leads_to_a_box_far_away() -> None:
    picture = Thumbnail(b"", (120, 160), (300, 400))
    html = draw_picture(replace(BAD, box=(9e4, 100.0, 9.1e4, 120.0)), picture)
    assert "<rect" not in html and "far outside" in html
    assert numbers(VIEW, html) == pytest.approx([0, 0, 186, 120])
    x, y, turn = numbers(rf"translate\({NUMBER} {NUMBER}\) rotate\({NUMBER}\)", html)
    assert (x, y, turn) == pytest.approx((173, 44, 0))


ANY = st.floats(width=64)


@given(st.tuples(ANY, ANY, ANY, ANY), st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_any_box_can_be_drawn(box: Corners, size: tuple[int, int]) -> None:
    scale = THUMBNAIL_PX / max(size)
    small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    picture = Thumbnail(b"", small, size)
    html = draw_picture(replace(BAD, box=box), picture)
    x, y, width, height = numbers(r'viewBox="([^ "]+) ([^ "]+) ([^ "]+) ([^ "]+)"', html)
    assert x <= 0 <= y + height and y <= 0 <= x + width
    assert width <= 1.71 * THUMBNAIL_PX and height <= 1.71 * THUMBNAIL_PX
    assert "nan" not in html and "inf" not in html
    drawn = "<rect" in html or "<path" in html
    assert drawn == all(map(np.isfinite, box))


def test_a_page_is_bounded(tmp_path: Path) -> None:
    codes = [code for code in Code if code is not Code.IMAGE_OUTSIDE_ROOT]
    image = write(tmp_path / "a.jpg", photograph(480, 640))
    images = {f"image {number}": image for number in range(1000)}
    findings = sorted_findings(
        replace(
            BAD, code=codes[n % len(codes)], line=n, value=f"box {n}", image_id=f"image {n % 1000}", box=(1, 2, n, n)
        )
        for n in range(100_000)
    )
    page = page_of(tmp_path, audit_of(*findings, prepared=900_000), images)
    assert len(page.html) < 1_500_000
    assert len(page.items) == LISTED // len(codes) * len(codes)
    assert len(page.images) == PICTURES
    per_code = [sum(item.pictures for item in page.items if item.group == code) for code in codes]
    assert set(per_code) <= {PICTURES // len(codes), -(-PICTURES // len(codes))}, "shared fairly"
    left_out = [int(number.replace(",", "")) for number in re.findall(r">([\d,]+) more are in", page.html)]
    assert sum(left_out) + len(page.items) == 100_000


def test_pictures_of_a_code_are_of_different_images(tmp_path: Path) -> None:
    image = write(tmp_path / "a.jpg", photograph())
    images = {f"image {number:03d}": image for number in range(50)}
    findings = [replace(BAD, line=number, image_id=f"image {number // 4:03d}") for number in range(150)]
    page = page_of(tmp_path, audit_of(*findings), images)
    assert len(page.items) == LISTED_PER_CODE and len(page.images) == PICTURES_PER_CODE
    shown = [item for item in page.items if item.pictures]
    assert [re.findall(r"image \d+", item.text) for item in shown] == [[f"image {number:03d}"] for number in range(8)]
    assert "50 more are in audit.json" in page.text
