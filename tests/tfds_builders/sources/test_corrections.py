"""Corrections applied while ingesting: what they do, what they touch, and what of them is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflow.errors import UsageError
from dataflow.prepared import METRICS, PreparedDataset
from dataflow.records import Categories
from tests.factories import Picture, Thing, write_mot, write_yolo
from tfds_builders.builders import SourceBuilder
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.ingest_options import IngestOptions
from tfds_builders.planning import PlanOptions
from tfds_builders.sources.corrections import ACTIONS, Corrections, read_corrections
from tfds_builders.sources.pairing import PairOptions

NAMES = ("cat", "dog")
OPTIONS = IngestOptions(PlanOptions(seed=0, shards=4))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pictures = [Picture(f"p{i:02d}", 60, 80, (Thing(0, (4, 4, 24, 34)), Thing(1, (40, 10, 70, 50)))) for i in range(20)]
    return write_yolo(tmp_path / "photos", pictures, NAMES)


def build(source: Path, out: Path, *lines: dict[str, Any], update: bool = False) -> PreparedDataset:
    corrections = Corrections().then(json.dumps(line, sort_keys=True) for line in lines)
    builder = SourceBuilder(
        open_yolo(source), name="photos", out=out, options=OPTIONS, corrections=corrections, update=update
    )
    return builder.prepare()


def objects_of(dataset: PreparedDataset) -> dict[str, list[tuple[str, list[float]]]]:
    names = dataset.categories.names
    return {
        record.image_id: [
            (names[kind], np.round(box, 2).tolist())
            for kind, box in zip(record.objects.category_ids, record.objects.boxes, strict=True)
        ]
        for split in dataset.splits
        for record in dataset.records(split)
    }


def digests(dataset: PreparedDataset) -> dict[str, str]:
    return {
        shard["file"]: shard["digest"] for split in dataset.manifest["splits"].values() for shard in split["shards"]
    }


CAT = {"class": "cat", "box": [4, 4, 24, 34]}
DOG = {"class": "dog", "box": [40, 10, 70, 50]}
CASES = {
    "class": ([{"action": "change", "object": CAT, "class": "dog"}], [("dog", CAT["box"]), ("dog", DOG["box"])]),
    "box": (
        [{"action": "change", "object": CAT, "box": [5, 6, 30, 40]}], [("cat", [5, 6, 30, 40]), ("dog", DOG["box"])]
    ),
    "box over the edge": (
        [{"action": "change", "object": DOG, "box": [40, 10, 99, 50]}], [("cat", CAT["box"]), ("dog", [40, 10, 80, 50])]
    ),
    "delete": ([{"action": "delete", "object": CAT}], [("dog", DOG["box"])]),
    "delete all": ([{"action": "delete", "object": CAT}, {"action": "delete", "object": DOG}], []),
    "add": (
        [{"action": "add", "class": "cat", "box": [1, 2, 9, 8]}],
        [("cat", CAT["box"]), ("dog", DOG["box"]), ("cat", [1, 2, 9, 8])],
    ),
    "one after another": (
        [
            {"action": "change", "object": CAT, "class": "dog"},
            {"action": "change", "object": {**CAT, "class": "dog"}, "box": [5, 6, 30, 40]},
        ],
        [("dog", [5, 6, 30, 40]), ("dog", DOG["box"])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_correction_touches_one_shard_and_is_as_if_made_anew(case: str, source: Path, tmp_path: Path) -> None:
    changes, expected = CASES[case]
    entries = [{"image_id": "p07", **change} for change in changes]
    before = build(source, tmp_path / "a")
    old, files = objects_of(before), {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    old_digests = digests(before)
    after = build(source, tmp_path / "a", *entries, update=True)
    new = objects_of(after)
    assert new.pop("p07") == expected and old.pop("p07") != expected
    assert new == old
    assert sum(digests(after)[file] != digest for file, digest in old_digests.items()) == 1
    assert {path: path.read_bytes() for path in files} == files
    anew = build(source, tmp_path / "b", *entries)
    for path in after.path.iterdir():
        if path.name not in ("inputs.json", METRICS):
            assert path.read_bytes() == (anew.path / path.name).read_bytes(), path.name
    audit = json.loads((after.path / "audit.json").read_text())
    assert audit["counts"]["label-corrected"] == len(entries) == sum(after.manifest["corrections"].values())
    found = [finding for finding in audit["findings"] if finding["code"] == "label-corrected"]
    assert {(finding["file"], finding["image_id"]) for finding in found} == {("corrections.jsonl", "p07")}
    assert [finding["line"] for finding in found] == list(range(1, len(entries) + 1))
    (record,) = (r for split in after.splits for r in after.records(split) if r.image_id == "p07")
    sides = record.objects.boxes[:, 2:] - record.objects.boxes[:, :2]
    np.testing.assert_allclose(record.objects.areas, sides.prod(axis=1), rtol=1e-4)


def test_an_update_keeps_the_corrections_before_it(source: Path, tmp_path: Path) -> None:
    first = {"image_id": "p01", "action": "delete", "object": CAT}
    second = {"image_id": "p02", "action": "change", "object": CAT, "class": "dog"}
    build(source, tmp_path / "a", first)
    once = build(source, tmp_path / "a", second, update=True)
    twice = build(source, tmp_path / "a", second, update=True)  # The same list again changes nothing.
    none = build(source, tmp_path / "a", update=True)
    for dataset in (once, twice, none):
        assert dataset.manifest["corrections"] == {"change": 1, "delete": 1}
        assert len(objects_of(dataset)["p01"]) == 1 and objects_of(dataset)["p02"][0][0] == "dog"
    assert once.fingerprint == none.fingerprint == build(source, tmp_path / "b", first, second).fingerprint


def test_images_are_excluded_and_suspects_are_told(source: Path, tmp_path: Path) -> None:
    dataset = build(
        source,
        tmp_path / "a",
        {"image_id": "p03", "action": "exclude", "tags": ["exclude"]},
        {"image_id": "p04", "action": "suspect", "object": DOG, "tags": ["mislabelled"]},
        {"image_id": "p05", "action": "suspect", "tags": ["relabel"]},
        {"image_id": "p06", "action": "delete", "object": {**CAT, "box": [4, 4, 25, 34]}},
        {"image_id": "p08", "action": "change", "object": {**CAT, "class": "dog"}, "class": "cat"},
        {"image_id": "p09", "action": "add", "class": "cat", "box": [90, 2, 99, 8]},
        {"image_id": "no such", "action": "exclude"},
    )
    audit = json.loads((dataset.path / "audit.json").read_text())
    assert (audit["images_in"], audit["images_prepared"], audit["quarantined"]) == (20, 19, ["p03"])
    told = {
        key: n for key, n in audit["counts"].items() if key in ("image-excluded", "label-suspect", "correction-stale")
    }
    assert told == {"image-excluded": 1, "label-suspect": 2, "correction-stale": 4}
    suspect = next(f for f in audit["findings"] if f["image_id"] == "p04" and f["code"] == "label-suspect")
    assert suspect["box"] == DOG["box"] and "mislabelled" in suspect["value"] and suspect["severity"] == "warning"
    for image in ("p04", "p05", "p06", "p08", "p09"):
        assert len(objects_of(dataset)[image]) == 2


def test_pairs_are_corrected(tmp_path: Path) -> None:
    """They have columns that single images have not."""
    pictures = [
        Picture(f"street/{i:06d}", 60, 80, tuple(Thing(0, (5 * i + d, 9, 5 * i + d + 12, 30), d) for d in (1, 30)))
        for i in range(1, 7)
    ]
    source = open_mot(write_mot(tmp_path / "source", pictures), pairing=PairOptions(2))

    def made(out: str, *lines: dict[str, Any]) -> PreparedDataset:
        corrections = Corrections().then(map(json.dumps, lines))
        return SourceBuilder(source, name="pairs", out=tmp_path / out, corrections=corrections).prepare()

    before = made("a")
    record = next(record for record in before.records("train") if len(record.objects))
    kind = before.categories.names[record.objects.category_ids[0]]
    known = {"class": kind, "box": record.objects.boxes[0].tolist()}
    lines = [{"image_id": record.image_id, "action": "delete", "object": known}]
    lines += [{"image_id": record.image_id, "action": "add", "class": kind, "box": [1, 1, 20, 20]}]
    after = next(r for r in made("b", *lines).records("train") if r.image_id == record.image_id)
    assert len(after.objects) == len(record.objects)
    np.testing.assert_allclose(after.objects.boxes[-1], [1, 1, 20, 20], atol=1e-3)
    np.testing.assert_array_equal(after.objects.boxes[:-1], record.objects.boxes[1:])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object with a text `image_id`"),
        ('{"action": "delete"}', "not an object with a text `image_id`"),
        ('{"image_id": "a", "action": "paint"}', "the action 'paint' is unknown"),
        ('{"image_id": "a", "action": "delete"}', "delete without object"),
        ('{"image_id": "a", "action": "add", "class": "cat"}', "add without box"),
        ('{"image_id": "a", "action": "change", "object": {"class": "cat", "box": [0, 0, 1, 1]}}', "class or box"),
        ('{"image_id": "a", "action": "delete", "object": {"class": "cat"}}', "has no class and box"),
        ('{"image_id": "a", "action": "delete", "object": 3}', "has no class and box"),
        ('{"image_id": "a", "action": "add", "class": "cow", "box": [0, 0, 1, 1]}', "'cow' is not among cat, dog"),
        ('{"image_id": "a", "action": "add", "class": "cat", "box": [0, 0, 0, 1]}', "x0 < x1"),
        ('{"image_id": "a", "action": "add", "class": "cat", "box": [0, 0, NaN, 1]}', "x0 < x1"),
        ('{"image_id": "a", "action": "add", "class": "cat", "box": "all"}', "x0 < x1"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"image_id": "a", "action": "exclude"}\n\n' + line + "\n")
    with pytest.raises(UsageError, match=r"list\.jsonl:3: ") as error:
        read_corrections(path, Categories(NAMES, (0, 1)))
    assert message in str(error.value) and ", ".join(ACTIONS) in str(error.value)
    with pytest.raises(UsageError, match="cannot be read"):
        read_corrections(tmp_path / "none.jsonl", Categories(NAMES, (0, 1)))
