"""MOTChallenge sequences: which folders and files they are."""

from pathlib import Path

import pytest

from dataflow.errors import UsageError
from dataflow.findings import Code
from tests.factories import load, photograph, write
from tests.tfds_builders.broken_sources import sequence
from tfds_builders.formats.mot import open_mot
from tfds_builders.sources.pairing import PairOptions

ROW = "1,7,25,13,16,24,1,-1,-1,-1\n"
BOX = [24, 12, 40, 36]
GT = "walk/gt/gt.txt"


class TestLayouts:
    def test_several_sequences(self, tmp_path: Path) -> None:
        for name in ("b", "a c", "é"):
            sequence(tmp_path, ROW, name=name)
        source = open_mot(tmp_path)
        assert source.sequences == ("a c", "b", "é")
        loaded = load(source)
        assert not loaded.findings and len(loaded.outcomes) == 9
        assert {loaded.example(f"{name}/000001")["scene"] for name in source.sequences} == {"a c", "b", "é"}
        assert len(load(open_mot(tmp_path, PairOptions(1))).outcomes) == 6, "no pair spans two sequences"

    def test_one_sequence(self, tmp_path: Path) -> None:
        source = open_mot(sequence(tmp_path, ROW) / "walk", name="person")
        assert source.categories.names == ("person",)
        loaded = load(source)
        assert loaded.boxes("walk/000001").tolist() == [BOX]
        assert loaded.example("walk/000001")["image/filename"] == "img1/000001.jpg"

    def test_a_sequence_without_truth_is_a_finding(self, tmp_path: Path) -> None:
        sequence(tmp_path, ROW)
        write(tmp_path / "test-07" / "img1" / "000001.jpg", photograph())
        (tmp_path / "notes").mkdir()
        loaded = load(open_mot(tmp_path))
        assert loaded.places() == [(Code.LABEL_MISSING, "test-07", None)]
        assert loaded.findings[0].severity == "error" and len(loaded.outcomes) == 3

    @pytest.mark.parametrize(
        "info",
        [
            "[Sequence]\nimDir=frames\n",
            "\ufeff[Sequence]\r\nname=100%\r\nimDir=frames\r\n",
            "[Sequence]\nimdir = frames/\n",
        ],
    )
    def test_another_folder(self, info: str, tmp_path: Path) -> None:
        sequence(tmp_path, ROW, folder="frames")
        write(tmp_path / "walk" / "seqinfo.ini", info)
        assert load(open_mot(tmp_path)).boxes("walk/000001").tolist() == [BOX]

    @pytest.mark.parametrize(
        ("info", "message"),
        [
            ("no section", "seqinfo.ini: File contains no section headers"),
            ("[Sequence]\nimDir=nowhere\n", "has no folder nowhere of images"),
            ("[Sequence]\nimDir=%(x)s\n", "has no folder"),
            ("[Sequence]\nimDir=../../outside\n", "has no folder outside of images"),
            ("[Sequence]\nimDir=OUTSIDE\n", "has no folder outside of images"),
            ("[Sequence]\nimDir=link\n", "has no folder link of images"),
            (b"[Sequence]\nname=caf\xe9\n", "seqinfo.ini"),
        ],
    )
    def test_what_is_wrong_with_seqinfo(self, info: str | bytes, message: str, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        write(outside / "000001.jpg", photograph())
        root = sequence(tmp_path / "source", ROW)
        (root / "walk" / "link").symlink_to(outside, target_is_directory=True)
        write(root / "walk" / "seqinfo.ini", info.replace("OUTSIDE", str(outside)) if isinstance(info, str) else info)
        with pytest.raises(UsageError, match=message):
            open_mot(root)

    def test_links_out_of_the_source(self, tmp_path: Path) -> None:
        secret = write(tmp_path / "secret.jpg", photograph())
        root = sequence(tmp_path / "source", ROW)
        for number, target in ((1, secret), (2, "gone.jpg")):
            frame = root / "walk" / "img1" / f"{number:06d}.jpg"
            frame.unlink()
            frame.symlink_to(target)
        loaded = load(open_mot(root), repair=True)
        assert loaded.places() == [
            (Code.IMAGE_OUTSIDE_ROOT, "walk/img1/000001.jpg", None),
            (Code.IMAGE_MISSING, "walk/img1/000002.jpg", None),
        ]
        assert loaded.quarantined == ["walk/000001", "walk/000002"]

    def test_truth_out_of_the_source(self, tmp_path: Path) -> None:
        """Rows that are none are quoted in findings: nothing else on the machine must be."""
        secret = write(tmp_path / "secret", "1,a password\n")
        root = sequence(tmp_path / "source", ROW)
        (root / GT).unlink()
        (root / GT).symlink_to(secret)
        with pytest.raises(UsageError, match="is a link out of"):
            open_mot(root)

    def test_frames_that_are_no_numbers(self, tmp_path: Path) -> None:
        sequence(tmp_path, ROW)
        for name in ("cover", "²", "frame_2", "1.5"):
            write(tmp_path / "walk" / "img1" / f"{name}.JPG", photograph())
        write(tmp_path / "walk" / "img1" / "._000001.jpg", b"what macOS leaves behind")
        loaded = load(open_mot(tmp_path), repair=True)
        names = ["walk/1.5", "walk/cover", "walk/frame_2", "walk/²"]
        assert loaded.quarantined == names and len(loaded.outcomes) == 7
        assert sorted(loaded.places()) == [(Code.LABEL_MALFORMED, f"walk/img1/{name[5:]}.JPG", None) for name in names]
        assert len(load(open_mot(tmp_path, PairOptions(1))).findings) == 4

    def test_numbers_as_people_write_them(self, tmp_path: Path) -> None:
        for name in ("0.png", "1.JPG", "002.jpeg"):
            encoding = "PNG" if name.endswith("png") else "JPEG"
            write(tmp_path / "walk" / "img1" / name, photograph(encoding=encoding))
        write(tmp_path / "walk" / "gt" / "gt.txt", "0,7,25,13,16,24,1\n2,7,25,13,16,24,1\n")
        loaded = load(open_mot(tmp_path))
        assert not loaded.findings
        assert [len(loaded.boxes(f"walk/00000{number}")) for number in range(3)] == [1, 0, 1]

    @pytest.mark.parametrize("made", ["nothing", "file", "empty", "images only"])
    def test_what_is_no_source(self, made: str, tmp_path: Path) -> None:
        path = tmp_path / "x"
        if made == "file":
            path.write_text("x")
        elif made == "empty":
            path.mkdir()
        elif made == "images only":
            write(path / "img1" / "000001.jpg", photograph())
        with pytest.raises(UsageError) as caught:
            open_mot(path)
        assert str(path) in caught.value.message and "gt/gt.txt" in caught.value.remedy

    @pytest.mark.parametrize("made", ["no folder", "empty folder"])
    def test_a_sequence_without_images(self, made: str, tmp_path: Path) -> None:
        write(tmp_path / GT, ROW)
        if made == "empty folder":
            (tmp_path / "walk" / "img1").mkdir()
        with pytest.raises(UsageError, match=r"has no folder img1|holds no images"):
            open_mot(tmp_path)
