"""Image files from shards."""

import re
from pathlib import Path

import numpy as np
import pytest

from dataflow.images import decode_rgb, read_header
from tests.factories import photograph
from trainers.media import media_name, safe_name, write_media


@pytest.mark.parametrize(
    "image_id", ["../../etc/passwd", "/etc/passwd", "a b/c:d*?", "ünï", "x" * 500, "..", ".hidden", "nul\0", "\n"]
)
def test_media_stay_where_they_belong(samples, tmp_path, image_id):
    data = samples.image(8, 8)
    path = write_media(tmp_path / "media", image_id, data)
    assert path.parent == tmp_path / "media" and path.read_bytes() == data
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,90}", path.name) and not path.name.startswith(".")
    assert [p.name for p in (tmp_path / "media").iterdir()] == [path.name]


def test_media_names_are_unique_and_end_as_their_format(samples):
    jpeg, png = samples.image(8, 8), samples.image(8, 8, png=True)
    assert len({media_name(i, jpeg) for i in ("a/b", "a_b", "a b")}) == 3
    assert media_name("a", jpeg).endswith(".jpg") and media_name("a.jpg", png).endswith(".png")
    assert read_header(png).format == "PNG"
    assert safe_name("") == "_"


def test_media_cut_short_are_written_again(samples, tmp_path):
    data = samples.image(8, 8)
    path = write_media(tmp_path, "a", data)
    path.write_bytes(data[:10])
    assert write_media(tmp_path, "a", data) == path and path.read_bytes() == data


@pytest.mark.parametrize("asked", [None, 1, 6])
def test_what_a_browser_shows_is_what_boxes_are_on(asked: int | None, tmp_path: Path) -> None:
    """A browser turns by EXIF; where boxes are on the pixels as stored, nothing may be left to turn."""
    data = photograph(40, 60, orientation=6)
    path = write_media(tmp_path, "a", data, asked)
    shown = read_header(path.read_bytes())
    assert shown.size == ((40, 60) if asked == 1 else (60, 40))
    assert (path.read_bytes() == data) == (asked != 1)
    np.testing.assert_array_equal(decode_rgb(path.read_bytes()), decode_rgb(data, asked))
