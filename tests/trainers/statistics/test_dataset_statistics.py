"""Statistics of datasets, against pycocotools and TFDS's own parser; by Beam the same; what is odd is said."""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pycocotools.coco import COCO

from dataflow.beam.shard_tasks import TaskRunner
from dataflow.errors import DataRefusedError, ShardboxError, UsageError
from dataflow.prepared import MANIFEST, PreparedDataset
from dataflow.records import Categories, Objects, no_objects
from dataflow.tfrecord import read_records
from tests.pages import HOSTILE, check_page
from tests.trainers.small_sets import square_picture, write_dataset
from tfds_builders.pages.markup import legible
from trainers.cli import main
from trainers.statistics.dataset_statistics import StatisticsTask, count_dataset, median_of_bins
from trainers.statistics.dataset_warnings import find_warnings
from trainers.statistics.statistics_json import octaves, statistics_json

BEAM = TaskRunner("FnApiRunner")
TWO_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
COCO128 = Path(__file__).parents[4] / "shared" / "data" / "coco128"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Three shards a split, objects of all sizes, and regions to ignore."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(30):
        size = (int(rng.integers(30, 400)), int(rng.integers(30, 400)))
        low = rng.random((number % 5, 2)) * 0.7
        extent = 0.02 + rng.random((number % 5, 2)) * 0.28
        boxes = np.concatenate([low, low + extent], axis=1) * [size[1], size[0], size[1], size[0]]
        objects = Objects(boxes, rng.integers(0, 2, number % 5), is_crowd=rng.random(number % 5) < 0.2)
        records.append(square_picture(f"image {number}", size, objects))
    splits = {"train": records[:20], "validation": records[20:]}
    return write_dataset(tmp_path_factory.mktemp("data"), splits, shards=3)


def test_against_pycocotools_and_the_parser_of_tfds(dataset: PreparedDataset) -> None:
    content = statistics_json(count_dataset(dataset))
    features = tfds.builder_from_directory(dataset.path).info.features
    for split in dataset.splits:
        images, annotations = [], []
        for shard in dataset.shards(split):
            with shard.path.open("rb") as file:
                for payload in read_records(file):
                    skip = {"image": tfds.decode.SkipDecoding()}
                    example = features.deserialize_example_np(payload, decoders=skip)
                    height, width = int(example["image/height"]), int(example["image/width"])
                    images.append({"id": len(images) + 1, "height": height, "width": width})
                    columns = example["objects"]
                    for box, label, crowd in zip(columns["bbox"], columns["label"], columns["is_crowd"], strict=True):
                        y0, x0, y1, x1 = (box * [height, width, height, width]).tolist()
                        annotations.append({
                            "id": len(annotations) + 1, "image_id": len(images), "category_id": int(label) + 1,
                            "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": int(crowd),
                        })  # fmt: skip
        coco = COCO()
        coco.dataset = {
            "images": images, "annotations": annotations,
            "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
        }  # fmt: skip
        coco.createIndex()
        found = content["splits"][split]
        assert found["images"] == len(coco.getImgIds())
        assert found["objects"] == len(coco.getAnnIds(iscrowd=False))
        assert found["ignored_regions"] == len(coco.getAnnIds(iscrowd=True))
        ranges = {"small": [0, 32**2], "medium": [32**2, 96**2], "large": [96**2, 1e10]}
        for category, name in ((1, "red"), (2, "green")):
            ids = coco.getAnnIds(catIds=[category], iscrowd=False)
            assert found["classes"][name]["objects"] == len(ids)
            assert found["classes"][name]["images"] == len({a["image_id"] for a in coco.loadAnns(ids)})
            for size, area in ranges.items():
                ids = coco.getAnnIds(catIds=[category], areaRng=area, iscrowd=False)
                assert found["classes"][name][size] == len(ids)
        real = [annotation for annotation in annotations if not annotation["iscrowd"]]
        sides = [np.sqrt(annotation["area"]) for annotation in real]
        edges = [*(row[0] for row in found["box_side_px"]), found["box_side_px"][-1][1]]
        assert [row[2] for row in found["box_side_px"]] == np.histogram(sides, edges)[0].tolist()
        assert found["box_side_px_median"] == pytest.approx(np.median(sides), rel=0.3)
        together = {frozenset(p["classes"]): p["images"] for p in found["together"]}
        both = Counter((a["image_id"], a["category_id"]) for a in real)
        expected = sum((i["id"], 1) in both and (i["id"], 2) in both for i in images)
        assert together == {frozenset({"red", "green"}): expected}


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_by_beam_the_same_files(dataset: PreparedDataset, tmp_path: Path) -> None:
    count_dataset(dataset, tmp_path / "here")
    count_dataset(dataset, tmp_path / "beam", BEAM)
    assert list(files(tmp_path / "here")) == ["stats.html", "stats.json"]
    assert files(tmp_path / "here") == files(tmp_path / "beam")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beam", "here"]


@pytest.mark.slow
def test_two_processes_give_the_same_files(dataset: PreparedDataset, tmp_path: Path) -> None:
    count_dataset(dataset, tmp_path / "here")
    count_dataset(dataset, tmp_path / "beam", TaskRunner(None, TWO_PROCESSES))
    assert files(tmp_path / "here") == files(tmp_path / "beam")


def test_a_call_that_was_stopped_is_taken_up(dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count_dataset(dataset, tmp_path / "whole")
    write, done = StatisticsTask.write, []

    def stops(task: StatisticsTask, shard: int, loaded: PreparedDataset):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(shard)
        yield from write(task, shard, loaded)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StatisticsTask, "write", stops)
        count_dataset(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists() and done == [0, 1, 2, 3]
    (unfinished,) = tmp_path.glob(".out.unfinished-*")
    (unfinished / "parts" / "00000001.json").write_text('{"tally":')
    rest = []
    monkeypatch.setattr(StatisticsTask, "write", lambda t, s, d: (rest.append(s), (yield from write(t, s, d))))
    count_dataset(dataset, tmp_path / "out")
    assert rest == [1, 4, 5]
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_any_detection_dataset_of_tfds(samples) -> None:
    rng = np.random.default_rng(3)
    records = [samples.record(str(i), samples.objects(rng, 3, (64, 96)), format="png") for i in (7, 12)]
    dataset = samples.foreign(records)
    tally = count_dataset(dataset).splits["validation"]
    real = [~record.objects.is_crowd for record in records]
    assert (tally.images, tally.objects) == (2, sum(map(sum, real)))
    assert tally.ignored == 6 - tally.objects
    assert tally.image_sizes == {"96 x 64": 2}


def test_pairs_and_differences(samples) -> None:
    objects = Objects(
        boxes=[[0, 0, 20, 20], [30, 40, 50, 60]], category_ids=[1, 1], track_ids=[4, 4], changes=[1, 1],
        in_before=[True, False],
    )  # fmt: skip
    pairs = [samples.pair("a", objects), samples.pair("b", no_objects(), alignment_score=0.3)]
    for kind in ("pairs", "differences"):
        dataset = samples.dataset({"train": pairs}, name=f"of_{kind}", kind=kind)
        statistics = count_dataset(dataset)
        found = statistics_json(statistics)["total"]["changes"]
        assert found["objects"] == {"moved": 1, "moved, before": 1}
        assert found["displacement_px_mean"] == pytest.approx(50, abs=1e-3)
        assert [row[2] for row in found["alignment_score"]] == [1, 1]
        assert any("1 pair with an alignment score below 0.6" in one for one in find_warnings(statistics))


def test_copies_are_found_within_and_across_splits(tmp_path: Path) -> None:
    objects = Objects([[4, 8, 30, 30]], [1])
    one, two, three = (square_picture(name, (40, 40), objects) for name in ("a", "bb", "ccc"))
    splits = {"train": [one, two, replace(two, image_id="copy")], "validation": [replace(one, image_id="d"), three]}
    statistics = count_dataset(write_dataset(tmp_path, splits, shards=2))
    assert (statistics.copies.images, statistics.copies.across_splits) == (4, 2)
    assert statistics.copies.shown == ((("train", "a"), ("validation", "d")), (("train", "bb"), ("train", "copy")))
    text = " ".join(find_warnings(statistics))
    assert "2 images with a copy in another split" in text and "2 images with a copy in the same split" in text
    assert "1 scene with images in several splits" in text


def test_what_is_odd_about_classes(tmp_path: Path) -> None:
    many = [square_picture(f"{i}", (40, 40), Objects([[4, 4, 30, 30]] * 3, [0] * 3)) for i in range(40)]
    other = [square_picture(f"o{i}", (40, 40), Objects([[4, 4, 30, 30]], [1])) for i in range(30)]
    rare = [square_picture("rare", (40, 40), Objects([[4, 4, 30, 30], [1, 1, 6, 6]], [2, 2]))]
    categories = Categories(("usual", "only in train", "rare", "never"))
    splits = {"train": many[:20] + other + rare, "validation": many[20:]}
    text = " | ".join(find_warnings(count_dataset(write_dataset(tmp_path, splits, categories))))
    assert "class (never) without any object" in text
    assert "class (rare) with fewer than 10 objects" in text
    assert "validation has no object of class (only in train)" in text
    assert "train has another share" not in text, "60 of 120 among 92 of 152 is no twofold difference"


def test_a_split_with_another_share_of_a_class(tmp_path: Path) -> None:
    reds, greens = (
        [square_picture(f"{name}{i}", (40, 40 + i + 60 * c), Objects([[4, 4, 30, 30]], [c])) for i in range(60)]
        for c, name in enumerate(("red", "green"))
    )
    even = {"train": reds[:30] + greens[:30], "validation": reds[30:] + greens[30:]}
    uneven = {"train": reds[:50] + greens[:10], "validation": reds[50:] + greens[10:]}
    assert not find_warnings(count_dataset(write_dataset(tmp_path / "even", even)))
    text = " | ".join(find_warnings(count_dataset(write_dataset(tmp_path / "uneven", uneven))))
    assert "train has another share of green (10, not about 30)" in text
    assert "validation has another share of red (10, not about 30)" in text


@pytest.mark.parametrize("running", [TaskRunner(), BEAM])
def test_a_broken_example_is_named_with_its_shard(dataset, tmp_path: Path, running: TaskRunner) -> None:
    broken = shutil.copytree(dataset.path, tmp_path / "data" / "1.0.0")
    shard = PreparedDataset(broken).shards("train")[1]
    data = shard.path.read_bytes()
    shard.path.write_bytes(data[:200] + bytes([data[200] ^ 255]) + data[201:])
    with pytest.raises(ShardboxError, match=re.escape(f"{shard.path}: damaged record at byte 0")):
        count_dataset(PreparedDataset(broken), tmp_path / "out", running)
    assert not (tmp_path / "out").exists()


def test_an_image_whose_size_cannot_be_read_is_named(samples) -> None:
    record = samples.record("5", no_objects(), format="png")
    dataset = samples.foreign([replace(record, image=b"no image", orientation=1)])
    with pytest.raises(UsageError, match=r"image '5' \(.*foreign-validation.*, example 0\): image of 8 bytes"):
        count_dataset(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--runner", "NoRunner"), "there is no runner 'NoRunner'"),
        (("--", "--direct_running_mode=multi_threading"), "loses elements"),
        (("--runner", "DataflowRunner", "--", "--project=p"), "--runner DataflowRunner: "),
    ],
)
def test_a_job_that_could_not_run_is_refused_before_it_starts(
    dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert main(["stats", str(dataset.path), "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no --out"):
        count_dataset(dataset, running=BEAM)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UsageError, match="exists already"):
        count_dataset(dataset, tmp_path / "out")
    other = shutil.copytree(dataset.path, tmp_path / "data" / "1.0.0")
    manifest = json.loads((other / MANIFEST).read_text()) | {"fingerprint": "other"}
    (other / MANIFEST).write_text(json.dumps(manifest))
    task = StatisticsTask(other, dataset.fingerprint, ("train",), tmp_path)
    with pytest.raises(DataRefusedError, match="a worker reads another dataset"):
        task.load()


def test_the_page_is_whole_and_names_are_text(samples, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = [samples.record(f"{HOSTILE} {i}", samples.objects(rng, 4, (64, 96))) for i in range(12)]
    names = Categories((HOSTILE, f"{HOSTILE} 2", "c"))
    dataset = samples.dataset({"train": records[:5], "validation": records[5:]}, categories=names)
    count_dataset(dataset, tmp_path / "out")
    page = check_page((tmp_path / "out" / "stats.html").read_text())
    assert page.text.count(legible(HOSTILE)) > 10
    assert {"odd", "classes", "together", "copies"} <= {a.get("id") for a in page.of("section")}


def test_the_page_is_bounded(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(300))
    objects = Objects([[1, 1, 20, 20]] * 300, range(300))
    count_dataset(write_dataset(tmp_path, {"train": [square_picture("a", (40, 40), no_objects())]}), tmp_path / "few")
    picture = replace(square_picture("a", (40, 40), no_objects()), objects=objects)
    statistics = count_dataset(
        write_dataset(tmp_path / "many", {"train": [picture]}, Categories(names)), tmp_path / "out"
    )
    text = (tmp_path / "out" / "stats.html").read_text()
    assert "and 200 more classes, in stats.json" in text and text.count("<tr>") < 150
    assert len(statistics_json(statistics)["total"]["classes"]) == 300


def test_the_command(dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(dataset.path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    total = statistics_json(count_dataset(dataset))["total"]
    assert f"squares: 30 images, {total['objects']} objects of 2 of 2 classes" in said
    row = next(line.split() for line in said.splitlines() if line.split()[:1] == ["all"])
    assert row[1:4] == ["30", str(total["images_without_objects"]), str(total["objects"])]
    assert main(["stats", str(dataset.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "stats.json").read_text())


def test_medians_and_histograms() -> None:
    assert median_of_bins({}) is None and median_of_bins({"none": 3}) is None
    assert median_of_bins({"4": 1, "8": 5, "-4": 1}) == pytest.approx(2 ** (8.5 / 4))
    assert octaves({"-4": 1, "-2": 2, "none": 3}) == [
        [0, 0, 3], [0.5, pytest.approx(2**-0.75), 1], [pytest.approx(2**-0.75), pytest.approx(2**-0.5), 0],
        [pytest.approx(2**-0.5), pytest.approx(2**-0.25), 2],
    ]  # fmt: skip


def test_coco128_against_its_label_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not COCO128.is_dir():
        pytest.skip(f"{COCO128} is not there")
    words = ["ingest", str(COCO128), "--format", "yolo", "--out", str(tmp_path / "data")]
    assert main(words) == 0
    dataset = PreparedDataset(tmp_path / "data" / "coco128" / "1.0.0")
    ids = [record.image_id for split in dataset.splits for record in dataset.records(split)]
    lines = [
        line.split()
        for name in ids
        for line in next(COCO128.rglob(f"labels/**/{Path(name).name}.txt")).read_text().splitlines()
    ]
    tally = count_dataset(dataset).total
    assert tally.class_objects == Counter(line[0] for line in lines)
    assert tally.images == len(ids)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1240])
def test_the_page_in_a_browser(dataset, tmp_path: Path, width: int) -> None:
    """No part of it is wider than the window, and all that it draws has a size."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no chromium on the PATH")
    count_dataset(dataset, tmp_path / "out")
    page = (tmp_path / "out" / "stats.html").read_text()
    inner = page.replace("&", "&amp;").replace("'", "&#39;")
    probe = (
        f"<iframe id=f style='width:{width}px;height:900px;border:0' srcdoc='{inner}'></iframe>"
        + """<script>
f.onload = () => {
  const page = f.contentDocument, told = document.body.dataset;
  const boxes = [...page.querySelectorAll('svg')].map(drawing => drawing.getBoundingClientRect());
  told.wide = page.documentElement.scrollWidth;
  told.small = boxes.filter(box => box.width < 100 || box.height < 50).length;
  told.drawn = boxes.length;
}</script>"""
    )
    (tmp_path / "probe.html").write_text(probe.replace("Content-Security-Policy", "x-none"))
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000", "--dump-dom",
        f"file://{tmp_path / 'probe.html'}",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=os.environ).stdout
    assert int(re.search(r'data-wide="(\d+)"', found)[1]) <= width
    assert re.search(r'data-small="(\d+)"', found)[1] == "0"
    assert int(re.search(r'data-drawn="(\d+)"', found)[1]) >= 6
