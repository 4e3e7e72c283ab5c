"""`shardbox doctor` as a user meets it, and what it makes of a machine that lacks things."""

import json
import shlex
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from dataflow.beam.runners import Check
from tests.factories import logical_dataset, write_coco, write_yolo
from tests.object_stores import object_store
from trainers.cli import main
from trainers.commands import doctor


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    at = words.index("--") if "--" in words else len(words)
    status = main(["doctor", *words[:at], "--json", *words[at:]])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    status, told = said(capsys)
    checks = {check["what"]: check for check in told["checks"]}
    assert status == 0 and "command" not in told
    assert checks["Python"]["level"] == "good"
    assert "numpy " in checks["shardbox itself"]["found"]
    assert "apache-beam " in checks["shardbox[prepare], to ingest and diff"]["found"]


def machine(monkeypatch: pytest.MonkeyPatch, packages: dict[str, str]) -> dict[str, Check]:
    """What a machine with these packages lacks, where ours wants numpy 2 and, to prepare, Beam 2.70."""

    def version(name: str) -> str:
        try:
            return packages[name]
        except KeyError:
            raise PackageNotFoundError(name) from None

    wanted = ["numpy>=2.0", 'apache-beam>=2.70; extra == "prepare"', 'shardbox[prepare]; extra == "all"']
    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "requires", lambda _: wanted)
    return {check.what.partition(",")[0]: check for check in doctor.machine_checks()}


def test_a_machine_without_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = machine(monkeypatch, {"numpy": "2.4.6"})
    assert checks["shardbox itself"] == Check("shardbox itself", "good", "numpy 2.4.6")
    extra = checks["shardbox[prepare]"]
    assert (extra.level, extra.found) == ("note", "apache-beam is not installed")
    assert extra.remedy == "run: pip install 'shardbox[prepare]'"


def test_packages_that_are_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = machine(monkeypatch, {"numpy": "1.26.4", "apache-beam": "2.100.0"})
    assert (checks["shardbox itself"].level, checks["shardbox itself"].found) == (
        "bad",
        "numpy is 1.26.4, older than 2.0",
    )
    assert checks["shardbox[prepare]"].level == "good", "2.100 comes after 2.70"


def test_a_database_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://me:secret@db.invalid:27017")
    [check] = [check for check in doctor.machine_checks() if check.what.startswith("MongoDB")]
    assert check.level == "good" and "db.invalid" in check.found and "secret" not in check.found


def test_the_command_that_it_prints_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_yolo(tmp_path / "photos", logical_dataset(3))
    words = ("--runner", "FnApiRunner", "--source", str(source), "--out", "a b", "--", "--direct_num_workers=1")
    status, told = said(capsys, *words)
    assert status == 0 and {check["level"] for check in told["checks"]} == {"good"}
    program, *command = shlex.split(told["command"])
    assert program == "shardbox" and main(command) == 0
    assert (tmp_path / "a b" / "photos" / "1.0.0" / "manifest.json").is_file()


def test_the_format_of_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that can be read in two ways must be told apart in the command; one that is not there is no source."""
    source = write_yolo(tmp_path / "photos", logical_dataset(3))
    status, told = said(capsys, "--runner", "FnApiRunner", "--source", str(source))
    assert status == 0 and "--format yolo" in told["command"]
    write_coco(source, logical_dataset(3))
    status, told = said(capsys, "--runner", "FnApiRunner", "--source", str(source))
    [check] = [check for check in told["checks"] if check["what"] == "format"]
    assert status == 0 and check["level"] == "note" and "can be read as" in check["found"]
    assert "--format FORMAT" in told["command"] and "FORMAT" in check["remedy"]
    status, told = said(capsys, "--runner", "FnApiRunner", "--source", str(tmp_path / "none"))
    assert status == 1 and f"{tmp_path / 'none'} does not exist" in told["notes"][0]


def test_a_job_that_would_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("doctor", "--runner", "DataflowRunner", "--source", str(tmp_path), "--out", "gs://bucket/data")
    with object_store("gs"):
        assert main([*words, "--", "--project=p"]) == 1
        printed = capsys.readouterr()
        status, told = said(capsys, *words[1:], "--", "--project=p")
    assert "  good: project: p\n" in printed.out and "  bad: region: no --region\n" in printed.out
    assert f"  bad: source: {tmp_path} is on this machine" in printed.out
    assert "  good: output: gs://bucket/data, in the cloud\n" in printed.out
    assert "  good: output, from here: gs://bucket is there\n" in printed.out
    assert "submit it with" not in printed.out and "checks failed" in printed.err
    assert (status, told["error"]) == (1, "refused")
    assert any("no --region" in note for note in told["notes"])


def test_places_in_a_store_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with object_store("gs"):
        status, told = said(capsys, "--runner", "FnApiRunner", "--source", "gs://bucket/no", "--out", "gs://none/x")
    assert status == 1
    assert "source, from here: gs://bucket/no does not exist; check the path" in told["notes"]
    assert "output, from here: there is no bucket gs://none; create it first, or mend its name" in told["notes"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--runner", "NoRunner"), "there is no runner 'NoRunner'"),
        (("--runner", "FnApiRunner", "--", "--direct_running_mode=multi_threading"), "loses elements"),
        (("--runner", "FlinkRunner", "--", "--flink_version=0.1"), "flink_version"),
        (("--runner", "FlinkRunner", "--", "--runner=SparkRunner"), "name the runner once"),
    ],
)
def test_options_that_cannot_be(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, answer = said(capsys, *words)
    assert status == 1 and told in answer["notes"][0]


def test_options_about_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--out", "x"), ("--source", "x"), ("--", "--project=p")):
        status, answer = said(capsys, *words)
        assert status == 2 and "add --runner" in answer["remedy"]
