"""Lists of pairs as tables and JSON lines: dialects, rows that break, and files that are no list."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflow.errors import UsageError
from tests.factories import load, write
from tests.tfds_builders.pair_lists import BOX, VOC, frames, json_list, pair, table, thing
from tfds_builders.formats.pairs import open_pairs


class TestTables:
    PLAIN = "before,after,labels\na/1.jpg,b/1.jpg,l.xml\n"

    @pytest.mark.parametrize(
        "text",
        [
            PLAIN,
            PLAIN.rstrip("\n"),
            "\ufeff" + PLAIN,
            PLAIN.replace(",", ";"),
            PLAIN.replace(",", "\t"),
            PLAIN.replace("\n", "\r\n"),
            PLAIN.replace("\n", "\r"),
            PLAIN.replace("\n", "\n\n \n,,\n"),
            PLAIN.replace("\n", ",\n"),
            '"before" , After,"labels"\n"a/1.jpg" ,b/1.jpg, l.xml\n'.replace('" ,', '",'),
            'labels,note,after,before\nl.xml,"a, ;\tb",b/1.jpg,a/1.jpg\n',
            'labels;after;"before"\nl.xml;"b/1.jpg";a\\1.jpg\n',
            "before,after,labels\n./a/1.jpg,b//1.jpg,b/../l.xml\n",
        ],
    )
    def test_dialects(self, text: str, tmp_path: Path) -> None:
        write(tmp_path / "l.xml", VOC.format(extra=""))
        loaded = load(open_pairs(table(tmp_path, text)))
        assert not loaded.findings
        np.testing.assert_allclose(loaded.boxes("a/1__b/1"), [BOX], atol=1e-4)

    def test_absolute_paths_inside(self, tmp_path: Path) -> None:
        write(tmp_path / "l.xml", VOC.format(extra=""))
        text = f"before,after,labels\n{tmp_path}/a/1.jpg,b/1.jpg,{tmp_path}/l.xml\n"
        loaded = load(open_pairs(table(tmp_path, text)))
        assert not loaded.findings and list(loaded.outcomes) == ["a/1__b/1"]

    @pytest.mark.parametrize(
        ("row", "what"),
        [
            ("a/1.jpg,b/1.jpg", "2 fields under 3 columns"),
            ("a/1.jpg,b/1.jpg,l.xml,more", "4 fields under 3 columns"),
            ('"a/1.jpg,b/1.jpg,l.xml', "not CSV"),
            ('"a/1.jpg"x,b/1.jpg,l.xml', "not CSV"),
            (f"a/1.jpg,{'b' * 200_000},l.xml", "not CSV"),
            (",b/1.jpg,l.xml", "before is empty"),
            ("a/1.jpg,b/1.jpg,", "gives no labels"),
        ],
    )
    def test_a_row_spoils_itself_alone(self, row: str, what: str, tmp_path: Path) -> None:
        write(tmp_path / "l.xml", VOC.format(extra=""))
        frames(tmp_path, 2)
        root = table(tmp_path, f"before,after,labels\na/2.jpg,b/2.jpg,l.xml\n\n{row}\nb/2.jpg,a/2.jpg,l.xml\n")
        loaded = load(open_pairs(root))
        (finding,) = loaded.findings
        assert (finding.file, finding.line, finding.severity) == ("pairs.csv", 4, "error") and what in finding.value
        assert len(loaded.outcomes) == 3 and len(loaded.quarantined) == 1

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("", "no columns before and after"),
            ("before,labels\n", "no columns before and after"),
            ("a/1.jpg,b/1.jpg,l.xml\n", "no columns before and after"),
            ("before,after\n", "no labels"),
            ("before,after,before_labels\nx,y,z\n", "before_labels only"),
            ("before,after,labels,after_labels\n", "both labels and after_labels"),
            ("before,after,labels,before\n", "two columns before"),
            ("before,after,labels\n", "lists no pair"),
            ("before,after,labels\na\n", "line 2 is 1 fields"),
            (PLAIN.encode("utf-16"), "not UTF-8 at byte 0"),
            (PLAIN.encode() + b"\xe9,b/1.jpg,l.xml\n", f"not UTF-8 at byte {len(PLAIN)}"),
            (PLAIN.encode() * 5000 + b"\xe9", f"not UTF-8 at byte {len(PLAIN) * 5000}"),
        ],
    )
    def test_no_list(self, text: str | bytes, match: str, tmp_path: Path) -> None:
        write(tmp_path / "l.xml", VOC.format(extra=""))
        with pytest.raises(UsageError, match=match):
            open_pairs(table(tmp_path, text) / "pairs.csv")

    @pytest.mark.parametrize(
        ("rows", "match"),
        [
            ([], "lists no pair"),
            (["x"], "line 1 is not JSON"),
            ([{"before": "a/1.jpg", "labels": []}], "has no after"),
            ([{"before": "a/1.jpg", "after": "b/1.jpg"}], "has no labels"),
            ([pair(labels=[]), pair(2, before_labels=[])], "both labels and before_labels"),
            ([pair(labels=[])], "names no class"),
            ([pair(labels="x.txt")], "x.txt numbers its classes"),
        ],
    )
    def test_no_json_lines(self, rows: list[Any], match: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=match):
            open_pairs(json_list(tmp_path, *rows))

    def test_which_list(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="does not hold exactly one"):
            open_pairs(tmp_path)
        write(tmp_path / "notes.csv", "name,age\n")
        json_list(tmp_path, pair(labels=[thing()]), name="mine.jsonl")
        assert open_pairs(tmp_path).file == "mine.jsonl"
        json_list(tmp_path, pair(labels=[thing()]), name="other.ndjson")
        with pytest.raises(UsageError, match="does not hold exactly one"):
            open_pairs(tmp_path)
        json_list(tmp_path, pair(labels=[thing()]))
        assert open_pairs(tmp_path).file == "pairs.jsonl"
        assert open_pairs(tmp_path / "mine.jsonl").file == "mine.jsonl"

    @pytest.mark.parametrize("options", [{"moved_iou": 0.0}, {"moved_iou": float("nan")}, {"targets": "all"}])
    def test_options_that_make_no_sense(self, options: dict[str, Any], tmp_path: Path) -> None:
        row = pair(before_labels=[], after_labels=[])
        with pytest.raises(UsageError, match=r"--moved-iou|--targets"):
            open_pairs(json_list(tmp_path, row), **options)

    def test_options_that_a_list_of_targets_has_no_use_for(self, tmp_path: Path) -> None:
        for options in ({"targets": "after"}, {"moved_iou": 0.3}):
            with pytest.raises(UsageError, match="its labels are the targets"):
                open_pairs(json_list(tmp_path, pair(labels=[thing()])), **options)  # type: ignore[arg-type]
