"""Everything that can be wrong with a list of pairs: rows, objects, label files, tables and JSON lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataflow.findings import Code
from tests.factories import load, photograph, prepare, write
from tests.tfds_builders.broken_sources import contents
from tests.tfds_builders.pair_lists import BOX, VOC, YOLO, frames, json_list, pair, thing
from tfds_builders.formats.pairs import open_pairs

ROWS: dict[str, tuple[dict[str, Any] | str, Code]] = {
    "no image": ({"before": None}, Code.LABEL_MALFORMED),
    "a number": ({"after": 7}, Code.LABEL_MALFORMED),
    "zero byte": ({"after": "b/\0.jpg"}, Code.LABEL_MALFORMED),
    "half a character": ({"after": "b/\ud800.jpg"}, Code.LABEL_MALFORMED),
    "gone": ({"before": "a/none.jpg"}, Code.IMAGE_MISSING),
    "too long": ({"before": "a" * 5000}, Code.LABEL_MALFORMED),
    "out": ({"before": "../secret.jpg"}, Code.IMAGE_OUTSIDE_ROOT),
    "absolute": ({"before": "/etc/hostname"}, Code.IMAGE_OUTSIDE_ROOT),
    "itself": ({"before": "./b//9.jpg"}, Code.LISTED_TWICE),
    "again": ({"before": "a/1.jpg", "after": "b/1.jpg"}, Code.LISTED_TWICE),
    "same id": ({"id": "first"}, Code.DUPLICATE_ID),
    "size": ({"before": "wide.jpg"}, Code.SIZE_MISMATCH),
    "split": ({"split": "50%"}, Code.LABEL_MALFORMED),
    "id is a list": ({"id": [1]}, Code.LABEL_MALFORMED),
    "labels are a number": ({"labels": 7}, Code.LABEL_MALFORMED),
    "labels of a kind": ({"labels": "labels.csv"}, Code.LABEL_MALFORMED),
    "no labels": ({"labels": ""}, Code.LABEL_MALFORMED),
    "not JSON": ("{'before': 1}", Code.LABEL_MALFORMED),
    "a list": ("[1, 2]", Code.LABEL_MALFORMED),
    "key twice": ('{"before": "a/9.jpg", "before": "a/8.jpg"}', Code.LABEL_MALFORMED),
    "deep": ("[" * 100_000, Code.LABEL_MALFORMED),
    "long number": ("1" * 5000, Code.LABEL_MALFORMED),
}
ROWS["no labels"] = ({"labels": ""}, Code.LABEL_MISSING)


class TestRows:
    @pytest.mark.parametrize("kind", ROWS)
    def test_problems_are_found_at_their_line(self, kind: str, tmp_path: Path) -> None:
        change, code = ROWS[kind]
        root = tmp_path / "source"
        frames(root, 1, 9)
        write(tmp_path / "secret.jpg", photograph())
        write(root / "wide.jpg", photograph(48, 70))
        row = change if isinstance(change, str) else pair(9, labels=[thing()]) | change
        json_list(root, pair(1, labels=[thing()], id="first"), "", row, pair(2, labels=[thing()]))
        frames(root, 2)
        before = contents(root)
        for repair in (False, True):
            loaded = load(open_pairs(root), repair)
            assert loaded.places() == [(code, "pairs.jsonl", 3)], loaded.findings
            kept_out = 0 if repair and code == Code.LABEL_MISSING else 1
            assert len(loaded.outcomes) == 3 and len(loaded.quarantined) == kept_out
            assert len(loaded.boxes("a/2__b/2")) == 1
        assert contents(root) == before

    def test_builders_count_every_row(self, tmp_path: Path) -> None:
        rows = [row if isinstance(row, str) else pair(9, labels=[thing()]) | row for row, _ in ROWS.values()]
        root = json_list(tmp_path / "source", pair(1, labels=[thing()], id="first"), *rows)
        frames(root, 9)
        write(root / "wide.jpg", photograph(48, 70))
        write(tmp_path / "secret.jpg", photograph())
        audit = json.loads((prepare(open_pairs(root), tmp_path / "out").path / "audit.json").read_text())
        assert (audit["images_in"], audit["images_prepared"]) == (len(rows) + 1, 1)
        assert len(audit["quarantined"]) == len(rows)
        lines = {finding["line"] for finding in audit["findings"] if finding["severity"] == "error"}
        assert lines == set(range(2, len(rows) + 2))

    @pytest.mark.parametrize(
        ("labels", "place", "code"),
        [
            (["cat"], "0", Code.LABEL_MALFORMED),
            ([{"class": "cat"}], "0", Code.LABEL_MALFORMED),
            ([thing(), {"box": BOX}], "1", Code.LABEL_MALFORMED),
            ([thing(name=3)], "0/class", Code.LABEL_MALFORMED),  # type: ignore[arg-type]
            ([thing(name="")], "0/class", Code.CLASS_UNKNOWN),
            ([thing(name="cow")], "0/class", Code.CLASS_UNKNOWN),
            ([thing([1, 2, 3])], "0/box", Code.LABEL_MALFORMED),
            ([thing([1, 2, "3", 4])], "0/box", Code.LABEL_MALFORMED),  # type: ignore[list-item]
            ([thing([1, 2, True, 4])], "0/box", Code.LABEL_MALFORMED),
            ([thing([1, 2, 10**400, 4])], "0/box", Code.BOX_NOT_FINITE),
            ([thing([1, 2, 1e300, 4])], "0/box", Code.BOX_NOT_FINITE),
            ([thing([1, 2, float("nan"), 4])], "0/box", Code.BOX_NOT_FINITE),
            ([thing([5, 5, 5, 9])], "0/box", Code.BOX_EMPTY),
            ([thing([50, 5, 90, 9])], "0/box", Code.BOX_OUTSIDE),
            ([thing(change="went")], "0/change", Code.LABEL_MALFORMED),
            ([thing(change=["moved"])], "0/change", Code.LABEL_MALFORMED),
            ([thing(track="7")], "0/track", Code.LABEL_MALFORMED),
            ([thing(track=-1)], "0/track", Code.LABEL_MALFORMED),
            ([thing(track=2**63)], "0/track", Code.LABEL_MALFORMED),
            ([thing(track=True)], "0/track", Code.LABEL_MALFORMED),
            ([thing(ignore=1)], "0/ignore", Code.LABEL_MALFORMED),
            ([thing(truncated="no")], "0/truncated", Code.LABEL_MALFORMED),
            ([thing(area=0)], "0/area", Code.LABEL_MALFORMED),
            ([thing(area=float("inf"))], "0/area", Code.LABEL_MALFORMED),
            ([thing(segmentation=[[1, 2, 3]])], "0/segmentation", Code.LABEL_MALFORMED),
            ([thing(segmentation="x")], "0/segmentation", Code.LABEL_MALFORMED),
        ],
    )
    def test_objects_are_found_by_pointer(self, labels: list[Any], place: str, code: Code, tmp_path: Path) -> None:
        write(tmp_path / "classes.txt", "cat\ndog\n")
        loaded = load(open_pairs(json_list(tmp_path, pair(labels=labels))))
        assert loaded.places() == [(code, "pairs.jsonl", f"1#/labels/{place}")]
        assert loaded.quarantined == ["a/1__b/1"]
        repaired = load(open_pairs(tmp_path), repair=True)
        assert not repaired.quarantined
        write(tmp_path / "l.json", json.dumps(labels))
        apart = load(open_pairs(json_list(tmp_path, pair(labels="l.json"))))
        assert apart.places() == [(code, "l.json", f"/{place}")]

    @pytest.mark.parametrize(
        ("file", "content", "code", "line"),
        [
            ("l.txt", f"{YOLO}0 0.5 0.5 0.25\n", Code.LABEL_MALFORMED, 2),
            ("l.txt", f"{YOLO}\n0 0.5 0.5 0.25 0.5 0.9\n", Code.LABEL_MALFORMED, 3),
            ("l.txt", "0.5 0.5 0.5 0.25 0.5\n", Code.LABEL_MALFORMED, 1),
            ("l.txt", "cat 0.5 0.5 0.25 0.5\n", Code.LABEL_MALFORMED, 1),
            ("l.txt", f"0 0.5 0.5 0.25 0.5 {'9' * 5000}\n", Code.LABEL_MALFORMED, 1),
            ("l.txt", "4 0.5 0.5 0.25 0.5\n", Code.CLASS_UNKNOWN, 1),
            ("l.txt", "0 0.5 inf 0.25 0.5\n", Code.BOX_NOT_FINITE, 1),
            ("l.xml", "<annotation>\n<object>", Code.LABEL_MALFORMED, 2),
            ("l.xml", '<?xml version="1.0" encoding="nonsense"?><a/>', Code.LABEL_MALFORMED, 1),
            ("l.xml", "<a><object><name>cow</name></object></a>", Code.CLASS_UNKNOWN, "/annotation/object[1]/name"),
            ("l.xml", "<a><object><name>cat</name></object></a>", Code.LABEL_MALFORMED, "/annotation/object[1]/bndbox"),
            ("l.xml", VOC.format(extra="<trackid>x</trackid>"), Code.LABEL_MALFORMED, "/annotation/object[1]/trackid"),
            ("l.json", "{", Code.LABEL_MALFORMED, 1),
            ("l.json", "{}", Code.LABEL_MALFORMED, ""),
            ("l.json", '{"shapes": [7]}', Code.LABEL_MALFORMED, "/shapes/0"),
            ("l.json", '{"shapes": [{"label": "cat", "points": [[1, 2]]}]}', Code.LABEL_MALFORMED, "/shapes/0"),
            ("l.json", b"\xff\xfe{", Code.LABEL_MALFORMED, 1),
            ("l.json", "[]", Code.LABEL_EMPTY, None),
            ("l.txt", "", Code.LABEL_EMPTY, None),
            ("folder.txt", None, Code.LABEL_MALFORMED, None),
            ("gone.txt", None, Code.LABEL_MISSING, None),
            ("../out.txt", None, Code.IMAGE_OUTSIDE_ROOT, None),
        ],
    )
    def test_label_files_have_their_own_lines(
        self, file: str, content: str | bytes | None, code: Code, line: Any, tmp_path: Path
    ) -> None:
        root = tmp_path / "source"
        write(root / "folder.txt" / "x", "")
        if content is not None:
            write(root / file, content)
        for row, names in ((pair(labels=file), ("cat",)), (pair(before_labels=file, after_labels=[]), ("cat",))):
            loaded = load(open_pairs(json_list(root, row), names=names))
            assert loaded.places() == [(code, file, line)], loaded.findings
            assert bool(loaded.quarantined) == (code != Code.LABEL_EMPTY)

    def test_a_size_that_is_declared(self, tmp_path: Path) -> None:
        write(tmp_path / "l.xml", "<annotation><size><width>65</width><height>48</height></size></annotation>")
        loaded = load(open_pairs(json_list(tmp_path, pair(labels="l.xml")), names=("cat",)))
        assert (Code.SIZE_MISMATCH, "l.xml", "/annotation/size") in loaded.places()

    def test_relative_boxes_are_no_pixels(self, tmp_path: Path) -> None:
        loaded = load(open_pairs(json_list(tmp_path, pair(labels=[thing([0.1, 0.2, 0.5, 0.6])]))))
        assert loaded.places() == [(Code.BOX_UNITS, "pairs.jsonl", "1#/labels/0/box")]

    def test_unreadable_images(self, tmp_path: Path) -> None:
        root = json_list(tmp_path, pair(labels=[thing()]))
        write(root / "a" / "1.jpg", photograph(200, 300))
        write(root / "b" / "1.jpg", photograph(200, 300, seed=1)[:5000])
        assert load(open_pairs(root)).places() == [(Code.IMAGE_TRUNCATED, "b/1.jpg", None)]

    def test_frames_of_one_content(self, tmp_path: Path) -> None:
        root = json_list(tmp_path, pair(labels=[thing()]))
        write(root / "b" / "1.jpg", (root / "a" / "1.jpg").read_bytes())
        loaded = load(open_pairs(root))
        assert loaded.places() == [(Code.DUPLICATE_CONTENT, "pairs.jsonl", 1)] and not loaded.quarantined


NOISE = st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


class TestGarbage:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(noise=NOISE, suffix=st.sampled_from([".txt", ".xml", ".json"]))
    def test_label_files(self, noise: bytes, suffix: str, tmp_path: Path) -> None:
        write(tmp_path / f"l{suffix}", noise)
        loaded = load(open_pairs(json_list(tmp_path, pair(labels=f"l{suffix}")), names=("cat",)))
        assert loaded.findings or len(loaded.boxes("a/1__b/1"))

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(noise=st.text(max_size=100), name=st.sampled_from(["pairs.jsonl", "pairs.csv"]))
    def test_rows(self, noise: str, name: str, tmp_path: Path) -> None:
        """A line of anything is a pair that is quarantined, or no pair at all."""
        line = noise.replace("\n", " ").replace("\r", " ").encode("utf-8", "replace").decode()
        good = (
            ["before,after,labels", "a/1.jpg,b/1.jpg,l.json"]
            if name.endswith("csv")
            else [json.dumps(pair(labels=[thing()]))]
        )
        write(tmp_path / "l.json", json.dumps([thing()]))
        frames(tmp_path)
        write(tmp_path / name, "\n".join([*good, line]))
        loaded = load(open_pairs(tmp_path / name, names=("cat",)))
        assert len(loaded.boxes("a/1__b/1")) == 1
        assert len(loaded.outcomes) == 1 + bool(line.strip() and (name.endswith("jsonl") or line.strip(' ,\t"')))

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        item=st.fixed_dictionaries(
            {},
            optional={
                key: VALUES | st.just(good)
                for key, good in (
                    ("box", BOX),
                    ("class", "cat"),
                    ("change", "moved"),
                    ("track", 1),
                    ("ignore", True),
                    ("area", 3.5),
                    ("segmentation", [[1, 2, 3, 4, 9, 1]]),
                )
            },
        )
    )
    def test_objects(self, item: dict[str, Any], tmp_path: Path) -> None:
        json_list(tmp_path, pair(labels=[item]))
        loaded = load(open_pairs(tmp_path, names=("cat",)))
        assert loaded.quarantined or len(loaded.boxes("a/1__b/1")) == 1
        assert (
            not load(open_pairs(tmp_path, names=("cat",)), repair=True).quarantined
            or loaded.findings[0].code == Code.BOX_UNITS
        )
