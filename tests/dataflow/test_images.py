"""Headers and pixels of encoded images against Pillow, for every kind of image that people have."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dataflow.images import ImageError, decode_rgb, encode_jpeg, encode_png, is_complete, read_header, turn_upright
from tests.factories import photograph, pixels


def by_pillow(data: bytes) -> np.ndarray:
    """Upright RGB pixels as Pillow has them."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(encoding: str, orientation: int) -> None:
    data = photograph(33, 57, encoding=encoding, orientation=orientation)
    header, upright, truth = read_header(data), decode_rgb(data), by_pillow(data)
    assert header.format == encoding
    assert header.size == upright.shape[:2] == truth.shape[:2]
    assert upright.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(upright, truth)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_pixels_stay_as_stored(orientation: int) -> None:
    data = photograph(33, 57, encoding="PNG", orientation=orientation)
    header, stored = read_header(data), decode_rgb(data, orientation=1)
    assert header.orientation == orientation and header.stored_size == stored.shape[:2] == (33, 57)
    np.testing.assert_array_equal(stored, pixels(33, 57))
    np.testing.assert_array_equal(turn_upright(stored, orientation), decode_rgb(data))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_meaningless_orientation_is_upright(orientation: int) -> None:
    data = photograph(orientation=orientation)
    assert read_header(data).orientation == 1
    np.testing.assert_array_equal(decode_rgb(data), by_pillow(data))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (64, 48), (65, 130)])
def test_jpeg_is_decoded_as_pillow_does(subsampling: str, progressive: bool, size: tuple[int, int]) -> None:
    for quality in (30, 75, 95):
        data = photograph(*size, subsampling=subsampling, progressive=progressive, quality=quality)
        np.testing.assert_array_equal(decode_rgb(data), by_pillow(data))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_modes(mode: str) -> None:
    data = photograph(21, 34, mode=mode, encoding="PNG")
    decoded = decode_rgb(data)
    assert read_header(data).size == decoded.shape[:2] == (21, 34)
    assert decoded.dtype == np.uint8 and decoded.shape[2] == 3
    if mode == "I;16":  # Pillow cuts 16 bits off at 255 when it converts; the upper byte is what 8 bits mean.
        np.testing.assert_array_equal(decoded, pixels(21, 34)[:, :, :1].repeat(3, axis=2))
    elif mode in ("LA", "RGBA"):  # Alpha is dropped, not blended.
        np.testing.assert_array_equal(decoded, by_pillow(photograph(21, 34, mode=mode.rstrip("A"), encoding="PNG")))
    else:
        np.testing.assert_array_equal(decoded, by_pillow(data))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_tiff_modes(mode: str) -> None:
    data = photograph(21, 34, mode=mode, encoding="TIFF")
    opaque = by_pillow(photograph(21, 34, mode=mode.rstrip("A"), encoding="TIFF"))
    if mode == "I;16":
        opaque = pixels(21, 34)[:, :, :1].repeat(3, axis=2)
    np.testing.assert_array_equal(decode_rgb(data), opaque)


def test_palette_with_transparency() -> None:
    data = photograph(21, 34, mode="P", encoding="PNG", transparency=0)
    np.testing.assert_array_equal(decode_rgb(data), by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_bmp_modes(mode: str) -> None:
    data = photograph(21, 34, mode=mode, encoding="BMP")
    np.testing.assert_array_equal(decode_rgb(data), by_pillow(data))


def test_grey_jpeg_has_three_equal_channels() -> None:
    data = photograph(mode="L")
    decoded = decode_rgb(data)
    np.testing.assert_array_equal(decoded, by_pillow(data))
    assert (decoded == decoded[:, :, :1]).all()


def test_cmyk_jpeg() -> None:
    """Two conversions from CMYK, neither normative, differ by rounding; the colours are not inverted."""
    data = photograph(mode="CMYK", quality=95)
    decoded = decode_rgb(data)
    assert read_header(data).size == decoded.shape[:2]
    assert np.abs(decoded.astype(int) - by_pillow(data)).max() <= 2
    assert np.abs(decoded.astype(int) - pixels()).mean() < 10


def test_multi_picture_jpeg_is_a_jpeg() -> None:
    first, second = (Image.fromarray(pixels(seed=seed)) for seed in (1, 2))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(buffer.getvalue())).format == "MPO"
    assert read_header(buffer.getvalue()).format == "JPEG"
    np.testing.assert_array_equal(decode_rgb(buffer.getvalue()), by_pillow(buffer.getvalue()))


@pytest.mark.parametrize("data", [b"", b"\0", b"no image at all" * 100, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(data: bytes) -> None:
    for read in (read_header, decode_rgb):
        with pytest.raises(ImageError, match=f"image of {len(data)} bytes"):
            read(data)


def test_empty_says_so() -> None:
    with pytest.raises(ImageError, match="is empty; replace the file"):
        read_header(b"")


@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_images_are_not_decoded(encoding: str, share: float) -> None:
    data = photograph(200, 300, encoding=encoding)
    with pytest.raises(ImageError):
        decode_rgb(data[: int(len(data) * share)])


WHOLE = {
    "JPEG": photograph(90, 70, orientation=6),
    "progressive JPEG": photograph(90, 70, progressive=True),
    "CMYK JPEG": photograph(90, 70, mode="CMYK"),
    "PNG": photograph(90, 70, encoding="PNG"),
    "PNG with EXIF": photograph(90, 70, encoding="PNG", orientation=6),
    "BMP": photograph(90, 70, encoding="BMP"),
    "grey BMP": photograph(90, 71, encoding="BMP", mode="L"),
}


@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_files_that_end_early_are_told_from_whole_ones_without_decoding(kind: str) -> None:
    whole = WHOLE[kind]
    header = read_header(whole)
    assert is_complete(whole, header)
    assert is_complete(whole + b"\0" * 50, header), "trailing bytes are common and harmless"
    for length in (len(whole) // 3, len(whole) // 2, len(whole) - 13):
        assert not is_complete(whole[:length], header)


def test_a_thumbnail_is_not_the_end() -> None:
    """The EXIF of photographs holds a whole small JPEG, end marker included."""
    exif = b"Exif\0\0" + photograph(16, 16)
    whole = photograph(90, 70, exif=exif)
    header = read_header(whole)
    assert is_complete(whole, header)
    assert not is_complete(whole[: len(whole) // 2], header)


def test_lossless_encoding() -> None:
    rgb = pixels(31, 47, seed=3)
    np.testing.assert_array_equal(decode_rgb(encode_png(rgb)), rgb)
    assert read_header(encode_png(rgb)).size == (31, 47)


def test_jpeg_encoding_keeps_colour() -> None:
    """4:4:4 at quality 95: no chroma subsampling, so even a one-pixel red line stays red."""
    rgb = np.full((32, 32, 3), 128, np.uint8)
    rgb[:, 16] = (255, 0, 0)
    data = encode_jpeg(rgb)
    with Image.open(io.BytesIO(data)) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    assert np.abs(decode_rgb(data).astype(int) - rgb).max() < 30


MUTANTS = [
    photograph(20, 30, orientation=6),
    photograph(20, 30, mode="CMYK"),
    photograph(20, 30, encoding="PNG", orientation=5),
    photograph(20, 30, encoding="PNG", mode="P"),
    photograph(20, 30, encoding="BMP"),
    photograph(20, 30, encoding="GIF"),
]


@settings(max_examples=300)
@given(
    base=st.sampled_from(MUTANTS),
    changes=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=0, max_size=3)), min_size=1, max_size=6),
)
def test_damaged_bytes_are_an_error_or_an_image_of_the_size_they_say(
    base: bytes, changes: list[tuple[int, bytes]]
) -> None:
    data = base
    for at, new in changes:
        data = data[:at] + new + data[at + 1 :]
    try:
        size = read_header(data).size
        decoded = decode_rgb(data)
    except ImageError:
        return
    assert decoded.shape == (*size, 3)


PHOTOGRAPHS = Path(__file__).parents[2].parent / "shared" / "data" / "coco128" / "images" / "train2017"


def header_by_pillow(data: bytes) -> tuple[str, tuple[int, int]] | None:
    """(format, (height, width) as stored), or None where Pillow makes nothing of it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format or "", (image.height, image.width)
    except (OSError, SyntaxError, ValueError):
        return None


@pytest.mark.parametrize("progressive", [False, True])
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    place=st.integers(2, 700),
    change=st.binary(min_size=0, max_size=6),
)
def test_headers_are_what_pillow_reads(
    progressive: bool, size: tuple[int, int], mode: str, place: int, change: bytes
) -> None:
    """Also of files whose first bytes are damaged: where both read one, it is the same."""
    whole = photograph(*size, mode=mode, progressive=progressive)
    assert read_header(whole).stored_size == size
    damaged = whole[:place] + change + whole[place + len(change) :]
    theirs = header_by_pillow(damaged)
    try:
        ours = read_header(damaged)
    except ImageError:
        assert theirs is None
        return
    assert theirs is None or theirs == (ours.format, ours.stored_size)


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="shared/data/coco128 is not beside the checkout")
def test_headers_of_photographs() -> None:
    for path in sorted(PHOTOGRAPHS.glob("*.jpg")):
        data = path.read_bytes()
        assert ("JPEG", read_header(data).stored_size) == header_by_pillow(data)
