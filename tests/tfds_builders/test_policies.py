"""The corpus of broken sources: every defect is found where it is, and every image is prepared or quarantined."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from dataflow.beam.jobs import ShardJob
from dataflow.findings import Audit, Code, Finding, Policy, sorted_findings
from dataflow.prepared import PreparedDataset
from dataflow.shards import ShardResult, write_shard
from dataflow.splits import parse_splits
from tests.factories import Thing, logical_dataset, photograph, prepare, write, write_yolo
from tests.tfds_builders import broken_coco, broken_images, broken_sequences, broken_tools, broken_voc, broken_yolo
from tests.tfds_builders.broken_cases import Case, place_of
from tests.tfds_builders.broken_sources import contents, load_json
from tfds_builders.builders import RefusedError
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.planning import PlanOptions
from tfds_builders.sources.source import Source

MODULES = (broken_images, broken_yolo, broken_coco, broken_voc, broken_sequences, broken_tools)
CASES: tuple[Case, ...] = tuple(case for module in MODULES for case in module.CASES)
BY_NAME = {case.name: case for case in CASES}
POLICIES: tuple[Policy, ...] = get_args(Policy)
TOLERANCE_PX = 1e-2


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards written one after another, without Beam: a second less for each of hundreds of jobs."""

    def write_all(job: ShardJob, directory: Path, *_: Any) -> list[ShardResult]:
        return [write_shard(directory, job.shard_format, key, job.outcomes(lines)) for key, lines in job.inputs.items()]

    monkeypatch.setattr("tfds_builders.builders.run_shard_job", write_all)


def audited(case: Case, source: Source, policy: Policy, folder: Path) -> tuple[Audit, PreparedDataset | None]:
    """What a build of the case says, and its dataset where it was not refused."""
    splits = parse_splits(case.splits) if case.splits else None
    plan = PlanOptions(scenes=case.scenes)
    try:
        dataset = prepare(source, folder / "out", splits=splits, policy=policy, plan=plan, exif=case.exif)
    except RefusedError as refused:
        assert policy == "fail" and refused.exit_status == 1
        assert str(refused.audit.errors[0]) in refused.message
        assert f"{len(refused.audit.errors)} errors" in refused.message
        assert not any((folder / "out").rglob("*")), "nothing stays of what was refused"
        return refused.audit, None
    written = load_json(dataset.path / "audit.json")
    findings = tuple(Finding(**finding) for finding in written["findings"])
    audit = Audit(written["images_prepared"], written["images_quarantined"], findings, tuple(written["quarantined"]))
    assert written["images_in"] == audit.images_in and written["counts"] == audit.counts()
    return audit, dataset


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", BY_NAME)
def test_every_defect_is_found_and_every_image_counted(name: str, policy: Policy, tmp_path: Path) -> None:
    check(BY_NAME[name], policy, tmp_path)


# A source of each format, and two that only the whole of a source tells about.
BY_BEAM = [
    "yolo, too few fields",
    "yolo, a copy in another split, brighter",
    "coco, categories counted from 0 in annotations",
    "voc, the size of the image as stored",
    "mot, a track twice in a frame",
    "virat, a type that is none",
    "labelme, no JSON",
    "cvat, an image listed twice",
    "pairs, images of the same bytes",
]


@pytest.mark.parametrize("name", BY_BEAM)
def test_the_same_by_beam(name: str, tmp_path: Path) -> None:
    for policy in POLICIES:
        check(BY_NAME[name], policy, tmp_path / policy)


def check(case: Case, policy: Policy, folder: Path) -> None:
    """All that must hold of a broken source under a policy."""
    write(folder / "in" / "secret.jpg", photograph())
    write(folder / "in" / "secret.txt", "0 0.5 0.5 0.5 0.5")
    source = case.make(folder / "in" / "source")
    before = contents(folder / "in")
    audit, dataset = audited(case, source, policy, folder)
    assert sorted(map(place_of, audit.findings)) == case.places(policy)
    assert all(finding.remedy and finding.value for finding in audit.findings)
    assert list(audit.findings) == list(sorted_findings(audit.findings))
    assert audit.images_in == audit.images_prepared + audit.images_quarantined == case.images
    wanted = case.objects(policy)
    assert audit.images_prepared == len(wanted) and len(audit.quarantined) == case.images - len(wanted)
    assert contents(folder / "in") == before, "sources are never written to"
    assert (dataset is None) == (policy == "fail" and case.is_refused)
    if dataset is not None:
        assert sum(dataset.splits.values()) == audit.images_prepared
        assert_records(dataset, wanted, case.sizes)


def assert_records(
    dataset: PreparedDataset, wanted: Mapping[str, Sequence[Thing]], sizes: Mapping[str, tuple[int, int]]
) -> None:
    """The dataset holds these objects, and no others."""
    records = {record.image_id: record for split in dataset.splits for record in dataset.records(split)}
    assert sorted(records) == sorted(wanted)
    for image_id, things in wanted.items():
        record = records[image_id]
        assert record.size == sizes.get(image_id, (48, 64))
        expected = np.array([thing.box for thing in things]).reshape(-1, 4)
        assert record.objects.boxes.shape == expected.shape, (image_id, record.objects.boxes)
        np.testing.assert_allclose(record.objects.boxes, expected, rtol=0, atol=TOLERANCE_PX)
        assert record.objects.category_ids.tolist() == [thing.category for thing in things]
        assert record.objects.is_crowd.tolist() == [thing.ignore for thing in things]


def test_the_corpus_is_large() -> None:
    """Sixty sources were asked for; each has a name of its own."""
    assert len(CASES) == len(BY_NAME) >= 60


def test_every_code_is_met() -> None:
    met = Counter(found.code for case in CASES for found in case.found)
    elsewhere = {
        Code.PAIR_UNALIGNED,  # In test_differences.py.
        Code.LABEL_CORRECTED,  # In test_corrections.py, as are the rest.
        Code.CORRECTION_STALE,
        Code.IMAGE_EXCLUDED,
        Code.LABEL_SUSPECT,
    }
    assert set(met) == set(Code) - elsewhere, set(Code) - set(met)


def test_fail_lets_a_clean_source_pass(tmp_path: Path) -> None:
    assert prepare(open_yolo(write_yolo(tmp_path / "s", logical_dataset(4))), tmp_path, policy="fail").splits


def test_nothing_to_prepare_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s" / "images" / "a.jpg", b"")
    write(tmp_path / "s" / "classes.txt", "cat")
    with pytest.raises(RefusedError, match=r"nothing could be prepared: images/a\.jpg: image-empty"):
        prepare(open_yolo(tmp_path / "s"), tmp_path / "out")
    assert not any((tmp_path / "out").rglob("*"))
