"""Image files: what is wrong with them at each level of looking, and what is harmless."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataflow.findings import Code
from dataflow.images import content_hash, look_hash, read_header
from tests.factories import SUFFIXES, photograph, write
from tfds_builders.look_alikes import NEAR_BITS
from tfds_builders.sources.photo import IMAGE_SUFFIXES, Photo, Problem, file_size, files_below, inside_root, read_photo
from tfds_builders.sources.source import CHECK_LEVELS, CheckLevel, Checks

DATA = Path(__file__).parents[3].parent / "shared" / "data"
LARGE = photograph(240, 320, seed=5, quality=90)


def look(
    root: Path, data: bytes, name: str = "a.jpg", level: CheckLevel = "decode", **checks: Any
) -> tuple[Photo | None, tuple[Problem, ...]]:
    write(root / name, data)
    return read_photo(root, name, Checks(level=level, **checks))


def codes(root: Path, data: bytes, name: str = "a.jpg", level: CheckLevel = "decode") -> list[Code]:
    photo, problems = look(root, data, name, level)
    assert (photo is None) == any(problem.severity == "error" for problem in problems)
    assert all(problem.value and problem.remedy for problem in problems)
    return [problem.code for problem in problems]


def segments(data: bytes) -> list[int]:
    """Where the header segments of a JPEG begin (ITU T.81, annex B)."""
    at, found = 2, []
    while data[at + 1] != 0xDA:
        found.append(at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return [*found, at]


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {}),
    "grey JPEG": ("JPEG", {"mode": "L"}),
    "CMYK JPEG": ("JPEG", {"mode": "CMYK"}),
    "progressive JPEG": ("JPEG", {"progressive": True}),
    "JPEG 4:4:4": ("JPEG", {"subsampling": "4:4:4"}),
    "JPEG with restart markers": ("JPEG", {"restart_marker_rows": 1}),
    "PNG": ("PNG", {}),
    "grey PNG": ("PNG", {"mode": "L"}),
    "black and white PNG": ("PNG", {"mode": "1"}),
    "grey PNG with alpha": ("PNG", {"mode": "LA"}),
    "PNG with alpha": ("PNG", {"mode": "RGBA"}),
    "palette PNG": ("PNG", {"mode": "P"}),
    "PNG of 16 bits": ("PNG", {"mode": "I;16"}),
    "BMP": ("BMP", {}),
    "grey BMP": ("BMP", {"mode": "L"}),
    "BMP with alpha": ("BMP", {"mode": "RGBA"}),
}


class TestWhatIsRight:
    @pytest.mark.parametrize("level", CHECK_LEVELS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind(self, kind: str, level: CheckLevel, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        encoding, options = KINDS[kind]
        data = photograph(60, 90, encoding=encoding, **options)
        photo, problems = look(tmp_path, data, f"a{SUFFIXES[encoding]}", level)
        assert photo is not None
        alpha = kind.startswith(("PNG", "grey PNG")) and kind.endswith("alpha")
        unlike = "lower 8" if kind == "PNG of 16 bits" else "fourth channel" if alpha else ""
        assert [(p.code, p.severity) for p in problems] == [(Code.IMAGE_UNSUPPORTED, "warning")] * bool(unlike)
        assert all(unlike in problem.value for problem in problems)
        assert (photo.data, photo.size, photo.stored_size, photo.orientation) == (data, (60, 90), (60, 90), 1)
        assert photo.sight.content == content_hash(data) and (photo.sight.look is None) == (level == "header")
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("level", CHECK_LEVELS)
    @pytest.mark.parametrize("size", [(5, 5), (37, 61), (1, 1)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_interlaced_png(
        self, channels: int, size: tuple[int, int], level: CheckLevel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        shape = size if channels == 1 else (*size, 3)
        data = adam7(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))
        with Image.open(io.BytesIO(data)) as image:
            assert image.info["interlace"] == 1 and image.convert("RGB").size == size[::-1]
        assert codes(tmp_path, data, "a.png", level) == [] and capfd.readouterr().err == ""

    @pytest.mark.parametrize("junk", [b"\0", b"\0\xff\0", b"ab" * 20])
    def test_bytes_between_header_segments(
        self, junk: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Some cameras and editors leave them; every decoder skips them."""
        for at in segments(LARGE)[1:]:
            data = LARGE[:at] + junk + LARGE[at:]
            assert codes(tmp_path, data) == []
            assert look_hash(data, read_header(data)) == look_hash(LARGE, read_header(LARGE))
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("tail", [b"\0" * 100, b"\xff\xd9", b"more " * 50])
    def test_bytes_behind_the_end(self, tail: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        for encoding in ("JPEG", "PNG", "BMP"):
            assert codes(tmp_path, photograph(encoding=encoding) + tail, f"a{SUFFIXES[encoding]}") == []
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".jpe", ".jfif", ".mpo"])
    def test_suffixes_of_jpeg(self, suffix: str, tmp_path: Path) -> None:
        assert codes(tmp_path, LARGE, f"a{suffix}") == []


def adam7(pixels: np.ndarray) -> bytes:
    """An interlaced PNG (W3C PNG, section 8.2), which Pillow does not write."""
    height, width = pixels.shape[:2]
    rows = b""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    for x0, y0, dx, dy in passes:
        part = pixels[y0::dy, x0::dx]
        if part.size:
            rows += b"".join(b"\0" + row.tobytes() for row in part)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def damaged(data: bytes, places: Sequence[int], bit: int = 0x10) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[place] ^= bit
    return bytes(changed)


class TestDamage:
    def test_lost_pixels_of_a_jpeg_are_found_by_decoding_only(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        scan = segments(LARGE)[-1]
        data = LARGE[: scan + 2000] + LARGE[scan + 4000 :]
        assert codes(tmp_path, data, level="header") == []
        assert codes(tmp_path, data) == [Code.IMAGE_UNREADABLE]
        assert capfd.readouterr().err == ""

    def test_flipped_bits_of_a_jpeg(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Huffman codes have no checksum: some flips give another valid picture. Most do not, and none is a crash."""
        rng = np.random.default_rng(3)
        scan = segments(LARGE)[-1] + 14
        found = 0
        for _ in range(60):
            places = rng.integers(scan, len(LARGE) - 2, 9).tolist()
            data = damaged(LARGE, places, 1 << int(rng.integers(8)))
            assert codes(tmp_path, data, level="header") in ([], [Code.IMAGE_TRUNCATED])
            found += codes(tmp_path, data) != []
        assert found >= 45
        assert capfd.readouterr().err == ""

    def test_a_restart_marker_that_is_lost(self, tmp_path: Path) -> None:
        data = photograph(240, 320, seed=5, restart_marker_rows=1)
        at = data.index(b"\xff\xd3", segments(data)[-1])
        assert codes(tmp_path, data[:at] + data[at + 2 :]) == [Code.IMAGE_UNREADABLE]
        assert codes(tmp_path, data[:at] + b"junk" + data[at:]) == [Code.IMAGE_UNREADABLE]

    def test_zeros_for_the_end_of_a_jpeg(self, tmp_path: Path) -> None:
        """What a disk leaves that was full, or a download that was not finished."""
        half = len(LARGE) // 2
        data = LARGE[:half] + b"\0" * (len(LARGE) - half)
        for level in CHECK_LEVELS:
            assert codes(tmp_path, data, level=level) == [Code.IMAGE_TRUNCATED]

    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16"])
    def test_checksums_of_a_png(self, mode: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        data = photograph(60, 90, mode=mode, encoding="PNG")
        start = data.index(b"IDAT") + 4
        for place in range(start, len(data) - 12, (len(data) - start) // 40):
            changed = damaged(data, [place])
            deep = [Code.IMAGE_UNSUPPORTED] * (mode == "I;16")
            assert codes(tmp_path, changed, "a.png", "header") == deep
            assert codes(tmp_path, changed, "a.png") == [*deep, Code.IMAGE_UNREADABLE]
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("level", CHECK_LEVELS)
    @pytest.mark.parametrize("encoding", ["JPEG", "PNG", "BMP"])
    def test_every_cut(
        self, encoding: str, level: CheckLevel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Wherever a file ends too early it is kept out, at both levels."""
        data = photograph(240, 320, encoding=encoding)
        ends = [*range(1, 200, 7), *range(200, len(data), max(1, len(data) // 20)), len(data) - 2]
        for end in ends:
            [code] = codes(tmp_path, data[:end], f"a{SUFFIXES[encoding]}", level)
            assert code in (Code.IMAGE_UNREADABLE, Code.IMAGE_TRUNCATED)
        assert codes(tmp_path, data[: len(data) // 2], f"a{SUFFIXES[encoding]}", level) == [Code.IMAGE_TRUNCATED]
        assert capfd.readouterr().err == ""

    @settings(max_examples=150)
    @given(data=st.data(), encoding=st.sampled_from(["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"]))
    def test_nothing_raises(self, tmp_path_factory: pytest.TempPathFactory, encoding: str, data: st.DataObject) -> None:
        encoded = bytearray(photograph(30, 40, encoding=encoding))
        for _ in range(data.draw(st.integers(0, 4))):
            place = data.draw(st.integers(0, len(encoded) - 1))
            encoded[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        level = data.draw(st.sampled_from(CHECK_LEVELS))
        codes(tmp_path_factory.getbasetemp(), bytes(encoded), "any.jpg", level)

    @given(data=st.binary(max_size=200))
    def test_any_bytes(self, tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
        found = codes(tmp_path_factory.getbasetemp(), data, "any bytes.jpg")
        assert found == ([Code.IMAGE_UNREADABLE] if data else [Code.IMAGE_EMPTY])


class TestKinds:
    @pytest.mark.parametrize("encoding", ["WEBP", "TIFF", "GIF"])
    def test_what_readers_of_tfds_cannot_decode(self, encoding: str, tmp_path: Path) -> None:
        data = photograph(encoding=encoding)
        assert codes(tmp_path, data, f"a{SUFFIXES[encoding]}") == [Code.IMAGE_UNSUPPORTED]
        assert codes(tmp_path, data) == [Code.IMAGE_TYPE, Code.IMAGE_UNSUPPORTED]

    def test_a_bmp_of_one_bit(self, tmp_path: Path) -> None:
        assert codes(tmp_path, photograph(mode="1", encoding="BMP"), "a.bmp") == [Code.IMAGE_UNSUPPORTED]

    @pytest.mark.parametrize(("encoding", "name"), [("PNG", "a.jpg"), ("JPEG", "a.png"), ("BMP", "a.jpeg")])
    def test_a_suffix_that_lies_is_a_warning(self, encoding: str, name: str, tmp_path: Path) -> None:
        photo, problems = look(tmp_path, photograph(encoding=encoding), name)
        assert photo is not None and [(p.code, p.severity) for p in problems] == [(Code.IMAGE_TYPE, "warning")]
        assert encoding in problems[0].value

    def test_a_name_that_says_nothing_does_not_lie(self, tmp_path: Path) -> None:
        assert codes(tmp_path, LARGE, "a") == codes(tmp_path, LARGE, "a.photo") == []

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation(self, orientation: int, tmp_path: Path) -> None:
        data = photograph(30, 50, orientation=orientation)
        upright = (50, 30) if orientation >= 5 else (30, 50)
        severity = [] if orientation == 1 else [(Code.EXIF_ORIENTATION, "info")]
        applied, problems = look(tmp_path, data)
        assert applied is not None and [(p.code, p.severity) for p in problems] == severity
        assert (applied.size, applied.orientation, applied.is_turned) == (upright, orientation, orientation >= 5)
        ignored, problems = look(tmp_path, data, exif="ignore")
        assert ignored is not None and [(p.code, p.severity) for p in problems] == severity
        assert (ignored.size, ignored.orientation, ignored.is_turned) == ((30, 50), 1, False)
        refused, problems = look(tmp_path, data, exif="refuse")
        assert [problem.code for problem in problems if problem.severity == "error"] == [code for code, _ in severity]
        assert applied.stored_size == ignored.stored_size == (30, 50) and applied.sight == ignored.sight
        assert refused is not None, "what else is wrong with it is still told"

    def test_orientation_behind_the_pixels_of_a_png(self, tmp_path: Path) -> None:
        data = photograph(30, 50, encoding="PNG", orientation=6)
        at, end = data.index(b"eXIf") - 4, data.index(b"IEND") - 4
        chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
        moved = data[:at] + data[at + len(chunk) : end] + chunk + data[end:]
        photo, problems = look(tmp_path, moved, "a.png")
        assert photo is not None and photo.size == (50, 30)
        assert [problem.code for problem in problems] == [Code.EXIF_ORIENTATION]


class TestPlaces:
    def test_missing_and_outside(self, tmp_path: Path) -> None:
        write(tmp_path / "secret.jpg", LARGE)
        root = tmp_path / "in"
        write(root / "a.jpg", LARGE)
        (root / "out.jpg").symlink_to("../secret.jpg")
        (root / "round.jpg").symlink_to("round.jpg")
        (root / "gone.jpg").symlink_to("nowhere.jpg")
        (root / "in.jpg").symlink_to("a.jpg")
        (root / "folder.jpg").mkdir()
        expected = {
            "a.jpg": None,
            "in.jpg": None,
            "out.jpg": Code.IMAGE_OUTSIDE_ROOT,
            "../secret.jpg": Code.IMAGE_OUTSIDE_ROOT,
            str(tmp_path / "secret.jpg"): Code.IMAGE_OUTSIDE_ROOT,
            "round.jpg": Code.IMAGE_UNREADABLE,
            "gone.jpg": Code.IMAGE_MISSING,
            "no.jpg": Code.IMAGE_MISSING,
            "folder.jpg": Code.IMAGE_UNREADABLE,
            "\0.jpg": Code.IMAGE_UNREADABLE,
            "x" * 5000: Code.IMAGE_UNREADABLE,
        }
        for file, code in expected.items():
            photo, problems = read_photo(root, file, Checks())
            assert (photo is None) == (code is not None), file
            assert [problem.code for problem in problems] == ([code] if code else []), file

    def test_a_root_that_is_a_link(self, tmp_path: Path) -> None:
        write(tmp_path / "in" / "a.jpg", LARGE)
        (tmp_path / "link").symlink_to("in")
        assert inside_root(tmp_path / "link", tmp_path / "link" / "a.jpg")
        assert inside_root(tmp_path / "link", tmp_path / "in" / "a.jpg")
        assert not inside_root(tmp_path / "in", tmp_path / "inside" / "a.jpg"), "names that only begin alike"

    def test_files_below(self, tmp_path: Path) -> None:
        for name in ("a.JPG", "b/c.png", "b/.hidden.jpg", "notes.txt", "d.webp"):
            write(tmp_path / name, "x")
        (tmp_path / "gone.jpg").symlink_to("nowhere")
        (tmp_path / "folder.jpg").mkdir()
        found = {path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path, IMAGE_SUFFIXES)}
        assert found == {"a.JPG", "b/c.png", "d.webp", "gone.jpg"}
        sizes = file_size(tmp_path / "a.JPG"), file_size(tmp_path / "gone.jpg"), file_size(tmp_path / "\0")
        assert sizes == (1, 0, 0)


def bits(a: bytes, b: bytes) -> int:
    first, second = (look_hash(data, read_header(data)) for data in (a, b))
    assert first is not None and second is not None
    return (first ^ second).bit_count()


def encoded(image: Image.Image, encoding: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, encoding, **options)
    return buffer.getvalue()


class TestLooks:
    def test_a_flat_picture_has_none(self) -> None:
        for colour in ((0, 0, 0), (255, 255, 255), (12, 200, 99)):
            data = encoded(Image.new("RGB", (64, 48), colour))
            assert look_hash(data, read_header(data)) is None

    @pytest.mark.skipif(not DATA.is_dir(), reason="the photographs beside the checkout are not there")
    def test_photographs(self) -> None:
        """Copies of a photograph differ by less than any two photographs do."""
        paths = sorted((DATA / "coco128").rglob("*.jpg"))
        data = [path.read_bytes() for path in paths]
        looks = [look_hash(each, read_header(each)) for each in data]
        assert len(looks) >= 100 and None not in looks
        halves = np.array([[look >> 64, look & (2**64 - 1)] for look in looks if look is not None], np.uint64)
        distance = np.bitwise_count(halves[:, None] ^ halves[None]).sum(axis=2)
        np.fill_diagonal(distance, 128)
        assert distance.min() > 20, "no two photographs are near"
        found: dict[str, list[int]] = {}
        for each in data[::4]:
            for name, copy in copies(each).items():
                found.setdefault(name, []).append(bits(each, copy))
        assert len(found) == 6
        for name, distances in found.items():
            assert np.mean(np.array(distances) <= NEAR_BITS) >= 0.9, (name, distances)


def copies(data: bytes) -> dict[str, bytes]:
    """A photograph as others save it."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    half, more = ((int(image.width * scale), int(image.height * scale)) for scale in (0.5, 1.5))
    return {
        "quality 50": encoded(image, quality=50),
        "PNG": encoded(image, "PNG", compress_level=1),
        "smaller": encoded(image.resize(half, Image.Resampling.BICUBIC), quality=90),
        "larger": encoded(image.resize(more, Image.Resampling.BICUBIC), quality=90),
        "brighter": encoded(image.point(lambda level: min(255, int(level * 1.1 + 5))), quality=90),
        "grey": encoded(image.convert("L"), quality=90),
    }
