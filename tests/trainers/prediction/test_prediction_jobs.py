"""Predictions shard by shard: the same by Beam and in this process, and taken up again after any death."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataflow.beam.shard_tasks import TaskRunner
from dataflow.errors import DataRefusedError, UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import Objects
from tests.tfds_builders.portable import ROOT, end_session, members, time_limit, wait_until
from tests.trainers.small_runs import write_run
from tests.trainers.small_sets import square_picture, write_dataset
from trainers.cli import main
from trainers.prediction import prediction
from trainers.prediction.parts import read_part
from trainers.prediction.prediction import predict
from trainers.prediction.predictions import read_predictions
from trainers.training import runs

SHARDS, IMAGES = 5, 17
BEAM = TaskRunner("FnApiRunner")
TWO_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
LIMIT_S = 300.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Images of many sizes, so that another cut into batches would be padded otherwise."""
    rng = np.random.default_rng(0)
    objects = Objects([[4, 8, 30, 30]], [1])
    sizes = rng.integers(33, 120, (IMAGES, 2)).tolist()
    records = [square_picture(f"image {i}", (h, w), objects) for i, (h, w) in enumerate(sizes)]
    root = tmp_path_factory.mktemp("data")
    return write_dataset(root, {"validation": records, "train": records[:2]}, shards=SHARDS, file_format="array_record")


@pytest.fixture(scope="module")
def run(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), dataset)


@pytest.fixture(scope="module")
def expected(dataset: PreparedDataset, run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that an undisturbed prediction in this process leaves."""
    out = tmp_path_factory.mktemp("expected") / "out"
    predict(dataset, run, out)
    assert sorted(read_predictions(out).by_image) == sorted(r.image_id for r in dataset.records("validation"))
    return files(out)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def alone(out: Path) -> bool:
    """Whether nothing was left beside it."""
    return [path.name for path in out.parent.iterdir() if path.name != "log"] == [out.name]


def unfinished(out: Path) -> Path:
    (found,) = out.parent.glob(f".{out.name}.unfinished-*")
    return found


def test_one_file_a_shard_which_other_readers_take_for_one_table(expected, tmp_path: Path) -> None:
    assert sorted(expected) == [
        "coco_results.json",
        "predictions.json",
        *(f"predictions.parquet/part-{i:05d}-of-{SHARDS:05d}.parquet" for i in range(SHARDS)),
    ]
    for name, data in expected.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table.num_rows == len(set(table["image_id"].to_pylist())) == IMAGES
    results = json.loads(expected["coco_results.json"])
    rows = [row for row in table.to_pylist() for _ in row["scores"]]
    assert [result["image_id"] for result in results] == [row["image_id"] for row in rows]
    assert [r["score"] for r in results] == [s for row in table.to_pylist() for s in row["scores"]]


def test_batches_begin_with_a_shard(dataset, run: Path, tmp_path: Path, monkeypatch) -> None:
    batches: list[tuple[str, ...]] = []
    plain = prediction.predict_batch

    def seen(run: prediction.Run, batch: prediction.Batch) -> list[prediction.Predictions]:
        batches.append(batch.image_ids)
        return plain(run, batch)

    monkeypatch.setattr(prediction, "predict_batch", seen)
    predict(dataset, run, tmp_path / "out", batch_size=2)
    shards = [[r.image_id for r in dataset.shard_records(shard)] for shard in dataset.shards("validation")]
    assert batches == [tuple(shard[i : i + 2]) for shard in shards for i in range(0, len(shard), 2)]


def test_one_process_needs_neither_beam_nor_tensorflow(dataset, run: Path, tmp_path: Path) -> None:
    records = list(dataset.records("validation"))[:2]
    stored = write_dataset(tmp_path / "data", {"validation": records}, shards=2)
    words = ["predict", str(stored.path), "--run", str(run), "--out", str(tmp_path / "out")]
    code = f"""if True:
        import sys
        from trainers.cli import main
        status = main({words!r})
        print(sorted({{"apache_beam", "tensorflow"}} & set(sys.modules)))
        sys.exit(status)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(read_predictions(tmp_path / "out").by_image) == 2


def test_by_beam_the_same_files(dataset, run: Path, expected, tmp_path: Path) -> None:
    summary = predict(dataset, run, tmp_path / "out", running=BEAM)
    assert (summary.images, summary.images_kept) == (IMAGES, 0)
    assert files(tmp_path / "out") == expected
    assert alone(tmp_path / "out")


def test_two_processes_give_the_same_files(dataset, run: Path, expected, tmp_path: Path) -> None:
    """Through the command; each process loads the model once, whatever the number of shards."""
    loads = tmp_path / "loads"
    loads.mkdir()
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "def note(event, args):\n"
        "    if event == 'open' and str(args[0]).endswith('run.json') and 'r' in str(args[1]):\n"
        f"        Path({str(loads)!r}, str(os.getpid())).open('a').write('x')\n"
        "import sys\n"
        "if any('sdk_worker_main' in word for word in sys.orig_argv):\n"
        "    sys.addaudithook(note)\n"
    )
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sitecustomize.py").write_text(code)
    words = ["predict", str(dataset.path), "--run", str(run), "--out", str(tmp_path / "out"), "--", *TWO_PROCESSES]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'modules'}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "trainers.cli", *words],
        check=False, env=environment, capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "out") == expected
    assert [path.read_text() for path in loads.iterdir()] == ["x", "x"], "two processes, one model each"


def deadly(who: str, dataset: PreparedDataset, run: Path, out: Path, *options: str) -> tuple[int, int]:
    """The session of a prediction that dies, and its exit status."""
    words = [sys.executable, "-m", "tests.trainers.killed_predictions", who, str(dataset.path), str(run), str(out)]
    with (out.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            [*words, *options], stdout=log, stderr=log, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.pid, process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            end_session(process.pid)
            raise


def test_killed_and_run_again(dataset, run: Path, expected, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, status = deadly("launcher", dataset, run, out)
    assert status == -signal.SIGKILL, (tmp_path / "log").read_text()[-3000:]
    assert not out.exists()
    with pytest.raises(UsageError):
        read_predictions(unfinished(out))
    kept = list((unfinished(out) / "predictions.parquet").glob("part-*"))
    assert len(kept) == 2
    times = {path.name: path.stat().st_mtime_ns for path in kept}
    summary = predict(dataset, run, out)
    assert summary.images_kept == sum(shard.count for shard in dataset.shards("validation")[:2])
    assert files(out) == expected
    assert {name: (out / "predictions.parquet" / name).stat().st_mtime_ns for name in times} == times
    assert alone(out)


@pytest.mark.slow
def test_two_processes_killed_and_run_again(dataset, run: Path, expected, tmp_path: Path) -> None:
    """The launcher is killed; its workers go on for a while, beside the next call."""
    out = tmp_path / "out"
    session, status = deadly("launcher", dataset, run, out, *TWO_PROCESSES)
    try:
        assert status == -signal.SIGKILL, (tmp_path / "log").read_text()[-3000:]
        assert not out.exists()
        summary = predict(dataset, run, out, running=TaskRunner("FnApiRunner", TWO_PROCESSES))
        assert summary.images == IMAGES
        assert summary.images_kept > 0
        wait_until(lambda: not members(session), 60, "orphans end")
        assert files(out) == expected
        assert alone(out)
    finally:
        end_session(session)


@pytest.mark.slow
def test_a_worker_dies_and_the_next_call_goes_on(dataset, run: Path, expected, tmp_path: Path) -> None:
    out = tmp_path / "out"
    session, status = deadly("worker", dataset, run, out, *TWO_PROCESSES)
    try:
        log = (tmp_path / "log").read_text()
        assert status == 1, log[-3000:]
        assert "WorkerDiedError: a worker process of FnApiRunner died" in log
        assert "the parts that were done are kept" in log
        _, status = deadly("worker", dataset, run, out, *TWO_PROCESSES)
        assert status == 0, (tmp_path / "log").read_text()[-3000:]
        assert files(out) == expected
    finally:
        end_session(session)


def half_done(dataset: PreparedDataset, run: Path, out: Path, monkeypatch) -> list[Path]:
    """Leave the parts of a prediction that was stopped before its end."""
    with monkeypatch.context() as patch:
        patch.setattr(prediction, "finish_predictions", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict(dataset, run, out)
    return sorted((unfinished(out) / "predictions.parquet").iterdir())


def test_parts_of_another_run_or_that_were_damaged_are_done_again(
    dataset, run: Path, expected, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "out"
    parts = half_done(dataset, run, out, monkeypatch)
    other = tmp_path / "other"
    others = half_done(dataset, write_run(tmp_path / "other run", dataset, seed=1), other, monkeypatch)
    shutil.copy(others[0], parts[0])
    data = parts[1].read_bytes()
    parts[1].write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    parts[2].write_bytes(data[:50])
    shutil.copy(parts[4], parts[3])
    summary = predict(dataset, run, out)
    assert summary.images_kept == dataset.shards("validation")[4].count
    assert files(out) == expected


def test_a_run_that_was_trained_again_is_another_one(dataset, run: Path, tmp_path: Path, monkeypatch) -> None:
    """Though its id, which says how it was trained, may be the same."""
    out, moving = tmp_path / "out", tmp_path / "moving"
    shutil.copytree(run, moving)
    half_done(dataset, moving, out, monkeypatch)
    other = write_run(tmp_path / "other", dataset, seed=1)
    shutil.copy(other / "model.safetensors", moving / "model.safetensors")
    assert predict(dataset, moving, out).images_kept == 0
    assert not list(tmp_path.glob(".out.unfinished-*")), "what the first left is swept"


def test_a_worker_that_reads_another_run_refuses(dataset, run: Path, tmp_path: Path, monkeypatch) -> None:
    hashes = iter(("the launcher's", "the worker's"))
    monkeypatch.setattr(runs, "_hash", lambda _: next(hashes))
    with time_limit(LIMIT_S), pytest.raises(DataRefusedError, match="a worker reads another run or dataset"):
        predict(dataset, run, tmp_path / "out", running=BEAM)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def poisoned(tmp_path: Path) -> PreparedDataset:
    """A picture in the second of two shards that cannot be decoded."""
    objects = Objects([[4, 8, 30, 30]], [1])
    records = [square_picture(f"image {i}", (64, 64), objects) for i in range(4)]
    records[3] = replace(records[3], image=records[3].image[:40] + b"\0" * 200, orientation=1)
    return write_dataset(tmp_path / "data", {"validation": records}, shards=2, file_format="array_record")


@pytest.mark.parametrize("options", [(), ("--runner", "FnApiRunner")])
def test_an_image_that_cannot_be_decoded_is_named_with_its_shard(
    poisoned, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(poisoned.path), "--run", str(run), "--out", str(out), *options]) == 2
    said = capsys.readouterr().err
    shard = poisoned.shards("validation")[1].path
    assert f"image 'image 3' ({shard}, example 1)" in said and "Traceback" not in said
    assert not out.exists()
    first, *more = (unfinished(out) / "predictions.parquet").iterdir()
    assert read_part(first).images == 2 and not more


def test_two_images_of_one_id_in_different_shards_are_refused(run: Path, tmp_path: Path) -> None:
    pictures = [square_picture("image", (64, 64), Objects([[4, 8, 30, 30]], [1]))] * 2
    dataset = write_dataset(tmp_path / "data", {"validation": pictures}, shards=2)
    with pytest.raises(DataRefusedError, match=r"image 'image' is in .* twice"):
        predict(dataset, run, tmp_path / "out")


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    """What a part holds in memory is a group of rows, whatever its size."""
    from dataflow.records import Predictions
    from trainers.prediction.parts import part_writer, rows

    boxes = np.tile(np.array([[0, 0, 5, 5]], np.float32), (100, 1))
    names = {str(i): "" for i in range(3000)}
    with part_writer(tmp_path / "part", names) as writer:
        for name in names:
            writer.add(Predictions(name, boxes, np.ones(100), np.zeros(100, np.int64), "run"))
            assert len(writer._group) < 1024
        writer.finish({})
    assert sum(1 for _ in rows(tmp_path / "part")) == 3000
    assert pq.ParquetFile(tmp_path / "part").num_row_groups == 3
