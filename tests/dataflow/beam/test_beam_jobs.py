"""The Beam job: the same shards from every local runner, and nothing lost in silence."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import apache_beam as beam
import pytest

from dataflow.beam.jobs import LostElementsError, ShardJob, add_job, run_shard_job, write_plan
from dataflow.beam.options import check_runner
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.pairs.alignment_counts import PairAlignment
from dataflow.prepared import METRICS
from dataflow.records import Categories, ImageRecord, no_objects
from dataflow.schema import record_to_example
from dataflow.shards import Outcome, ShardFormat, ShardKey, ShardResult, load_results, shard_of
from tests.factories import photograph

FORMAT = ShardFormat("job", Categories(("thing",)), "images")
KEYS = (*(ShardKey("train", index, 4) for index in range(4)), ShardKey("validation", 0, 1))


@dataclass(frozen=True)
class Make:
    """Numbers to outcomes; every fifth is kept out. `lose` drops one, as a broken runner would."""

    lose: int | None = None

    def __call__(self, lines: Sequence[str]) -> Iterator[Outcome]:
        for number in map(int, lines):
            if number == self.lose:
                continue
            if number % 5 == 0:
                yield Outcome(str(number), None)
                continue
            record = ImageRecord(str(number), photograph(8, 8, seed=number), 8, 8, no_objects(), "scene", "x:1")
            yield Outcome(record.image_id, record_to_example(record))


def job(n: int = 12, make: Make = Make()) -> ShardJob:
    """Inputs for the shards of `train` (number 2 stays empty) and for one of `validation`."""
    inputs: dict[ShardKey, list[str]] = {key: [] for key in KEYS}
    for number in range(n):
        inputs[KEYS[(0, 1, 3)[shard_of(str(number), 3)]]].append(str(number))
    inputs[KEYS[4]].append(str(1000 + n))
    return ShardJob(FORMAT, inputs, make, n + 1)


def digests(directory: Path) -> dict[str, str]:
    files = (path for path in sorted(directory.iterdir()) if path.name != METRICS)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_shard_is_written_and_counted(tmp_path: Path) -> None:
    results = run_shard_job(job(), tmp_path)
    assert [(result.split, result.index) for result in results] == [(key.split, key.index) for key in KEYS]
    assert sum(result.count for result in results) == 10
    assert sorted(name for result in results for name in result.quarantined) == ["0", "10", "5"]
    assert results[2].count == 0 and (tmp_path / results[2].file).is_file(), "a shard without inputs is a file too"
    assert sorted(digests(tmp_path)) == [result.file for result in results], "nothing else stays"


@dataclass(frozen=True)
class Align:
    """Numbers to outcomes of an alignment: the residual is a tenth of the number; every fifth is refused."""

    def __call__(self, lines: Sequence[str]) -> Iterator[Outcome]:
        finding = Finding(Code.PAIR_UNALIGNED, "error", "x", "a value", "a remedy")
        for number, outcome in zip(map(int, lines), Make()(lines), strict=True):
            refused = outcome.example is None
            found = None if refused else PairAlignment(str(number), 0.9, number / 10, "affine", 1.0)
            yield replace(outcome, findings=(finding,) if refused else (), alignment=found)


def test_runners_are_told_what_was_written(tmp_path: Path) -> None:
    made = replace(job(), outcomes=Align())
    write_plan(made, tmp_path)
    for folder in (".results", ".times"):
        (tmp_path / folder).mkdir()
    with beam.Pipeline("FnApiRunner") as pipeline:
        add_job(pipeline, made, tmp_path)
    metrics = pipeline.result.metrics().query()
    counters = {counter.key.metric.name: counter.committed for counter in metrics["counters"]}
    results = load_results(tmp_path / ".results")
    written = sum(result.num_bytes for result in results)
    images = {"images_prepared": 10, "images_quarantined": 3, "bytes_written": written}
    assert counters == {**images, "pairs_aligned": 10, "pairs_refused": 3}
    distributions = {found.key.metric.name: found for found in metrics["distributions"]}
    assert set(distributions) == {"alignment_residual_mpx", "encode_us", "write_us"}
    residuals = distributions["alignment_residual_mpx"]
    means = [round(1000 * r.alignment.residual_sum / r.alignment.aligned) for r in results if r.alignment]
    said = residuals.committed
    assert len(means) == 4
    assert (said.count, said.sum, said.min, said.max) == (4, sum(means), min(means), max(means))


def test_order_of_shards_does_not_matter(tmp_path: Path) -> None:
    for name, keys in (("a", KEYS), ("b", tuple(reversed(KEYS)))):
        (tmp_path / name).mkdir()
        inputs = {key: job().inputs[key] for key in keys}
        run_shard_job(replace(job(), inputs=inputs), tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_plan_of_nothing_is_a_job_of_nothing(tmp_path: Path) -> None:
    assert run_shard_job(replace(job(), inputs={}, expected=0), tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]


def test_several_processes_write_the_same_shards(tmp_path: Path) -> None:
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    for name, arguments in (("a", ()), ("b", options)):
        (tmp_path / name).mkdir()
        run_shard_job(job(), tmp_path / name, "FnApiRunner", arguments)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_lost_element_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(LostElementsError, match="5 of 5 shards and 12 of 13 images arrived; nothing was kept"):
        run_shard_job(job(make=Make(lose=3)), tmp_path)


def test_a_lost_shard_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty shard holds no image, so the count of images alone would not tell."""

    def without_the_empty_one(directory: Path) -> list[ShardResult]:
        return [result for result in load_results(directory) if result.count]

    monkeypatch.setattr("dataflow.beam.jobs.load_results", without_the_empty_one)
    with pytest.raises(LostElementsError, match="4 of 5 shards and 13 of 13 images"):
        run_shard_job(job(), tmp_path)


def test_threads_are_refused() -> None:
    for arguments in (
        ("--direct_running_mode=multi_threading",),
        ("--direct_running_mode", "multi_threading", "--direct_num_workers=2"),
        ("--direct_running_mode=in_memory", "--direct_running_mode=multi_threading"),
    ):
        with pytest.raises(UsageError, match="loses elements") as caught:
            check_runner("FnApiRunner", arguments)
        assert "multi_processing" in caught.value.remedy


@pytest.mark.parametrize("runner", ["Nobody", "no.such.module.Runner", "json.Nobody", ""])
def test_unknown_runners_are_refused(runner: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"there is no runner {runner!r}")):
        check_runner(runner, ())


def test_a_runner_is_named_once() -> None:
    """FnApiRunner, then DirectRunner after --: Beam would take the latter, and download Prism."""
    with pytest.raises(UsageError, match="name the runner once"):
        check_runner("FnApiRunner", ("--runner=DirectRunner",))


@pytest.mark.parametrize("argument", ["--direct_num_workers=two", "--direct_running_mode=fast"])
def test_options_that_beam_does_not_take(argument: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="Beam does not take what follows --: argument --direct_"):
        check_runner("FnApiRunner", (argument,))
    assert capfd.readouterr().err == ""


def test_known_runners_pass() -> None:
    check_runner("FnApiRunner", ("--direct_running_mode=multi_processing", "--direct_num_workers=2"))
