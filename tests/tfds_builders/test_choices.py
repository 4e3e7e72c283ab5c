"""Formats by name and by what a source holds."""

from pathlib import Path

import pytest

from dataflow.errors import UsageError
from tests.factories import logical_dataset, write, write_coco, write_mot, write_voc, write_yolo
from tfds_builders.choices import recognise

WRITE = {"yolo": write_yolo, "coco": write_coco, "voc": write_voc, "mot": write_mot}


@pytest.mark.parametrize("name", sorted(WRITE))
def test_a_source_is_recognised_by_what_it_holds(name: str, tmp_path: Path) -> None:
    assert recognise(WRITE[name](tmp_path, logical_dataset(2))) == name


def test_a_single_sequence_and_single_files(tmp_path: Path) -> None:
    assert recognise(write_mot(tmp_path / "mot", logical_dataset(2)) / "scene") == "mot"
    assert recognise(write_coco(tmp_path / "coco", logical_dataset(2)) / "annotations" / "instances.json") == "coco"
    assert recognise(write(tmp_path / "my.yaml", "names: [a]")) == "yolo"


def test_what_is_not_recognised_or_ambiguous_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--format one of yolo, coco, voc, mot"):
        recognise(tmp_path)
    with pytest.raises(UsageError, match="no format"):
        recognise(write(tmp_path / "notes.txt", "nothing"))
    write_coco(tmp_path, logical_dataset(2))
    write_yolo(tmp_path, logical_dataset(2))
    with pytest.raises(UsageError, match="yolo and as coco"):
        recognise(tmp_path)
