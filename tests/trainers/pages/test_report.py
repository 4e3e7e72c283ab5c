"""The report: whole, self-contained, true to the evaluation, safe with any text, and alive in a browser."""

import html
import json
import re
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from dataflow.errors import UsageError
from dataflow.images import decode_rgb, encode_png
from dataflow.records import Categories, Objects, Predictions, no_objects
from tests.factories import photograph
from tests.pages import HOSTILE, check_page
from tests.trainers.browser import in_browser
from tfds_builders.pages.markup import legible
from trainers.evaluation.coco_figures import FIGURES
from trainers.evaluation.confusion import confuse
from trainers.evaluation.evaluation import evaluate
from trainers.evaluation.frames import Frame, boxes_in_frame, examples
from trainers.evaluation.matching import Verdict
from trainers.pages import report
from trainers.pages.charts import Chart, draw, standalone
from trainers.pages.pictures import read_panels
from trainers.pages.report import write_report
from trainers.prediction.predictions import collect_predictions

SIZE = (64, 96)


def _compared(samples, seed=0, kind="images", run_id="run", images=6):
    rng = np.random.default_rng(seed)
    make = samples.record if kind == "images" else samples.pair
    made = [make(f"image {i}", samples.objects(rng, int(rng.integers(0, 6)), SIZE), SIZE) for i in range(images)]
    dataset = samples.dataset({"validation": made}, kind=kind)
    detected = [samples.detections(rng, record, run_id) for record in dataset.records("validation")]
    predictions = collect_predictions(detected, run_id=run_id, dataset=dataset, split="validation")
    return evaluate(dataset, predictions, "validation"), dataset, predictions


@pytest.mark.parametrize("kind", ["images", "pairs", "differences"])
def test_the_report_is_whole_and_shows_what_was_counted(samples, tmp_path, kind):
    evaluation, dataset, predictions = _compared(samples, kind=kind)
    path = write_report(evaluation, dataset, predictions, tmp_path / "out", pictures=4)
    assert path == tmp_path / "out" / "report.html"
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "calibration.svg",
        "classes.svg",
        "precision_recall.svg",
        "report.html",
        "report.json",
        "scores.svg",
    ]
    content = json.loads((path.parent / "report.json").read_text())
    assert set(FIGURES) <= set(content)
    text = path.read_text()
    assert f"{evaluation.figures['AP50']:.3f}" in text and dataset.fingerprint in text
    page = check_page(text)
    frames = {"images": 1, "pairs": 2, "differences": 3}[kind]
    assert len(page.of("svg", **{"class": "panel"})) == 4 * frames
    ranked = list(dict.fromkeys([i for i, _ in (*evaluation.error_types.ranked, *evaluation.errors.ranked_images)]))[:4]
    shown = [evaluation.matches[i].at_score(evaluation.errors.score) for i in ranked]
    for name, verdict in (("tp", Verdict.TP), ("fp", Verdict.FP), ("fn", Verdict.FN)):
        assert len(page.of("g", **{"class": name})) == frames * sum(m.count(verdict) for m in shown)
    if kind != "images":
        found, total = evaluation.errors.by_change["moved"]
        row = re.search(r'<th[^>]*data-v="moved"[^>]*>moved</th><td[^>]*>(\d+)</td><td[^>]*>([\d.]+)</td>', text)
        assert row.groups() == (str(total), f"{found / total:.3f}")


def test_every_part_of_the_evaluation_is_shown(samples, tmp_path):
    evaluation, dataset, predictions = _compared(samples, images=9)
    text = write_report(evaluation, dataset, predictions, tmp_path / "out").read_text()
    for sentence in evaluation.warnings:
        assert html.escape(sentence) in text
    for low, high in evaluation.intervals.values():
        assert f"{low:.3f} to {high:.3f}" in text
    for name, cost in evaluation.error_types.cost.items():
        number = evaluation.error_types.counts[name]
        assert re.search(rf">{name}</th><td[^>]*>[^<]*</td><td[^>]*>{number}</td><td[^>]*>{cost:.3f}</td>", text)
    for image, cost in evaluation.error_types.ranked:
        assert re.search(rf">{image}</th><td[^>]*>{cost:.4f}</td>", text)
    matrix = re.search(r'<section id="confusion".*?</table>', text, re.DOTALL)[0]
    shown = [int(n.replace("·", "0")) for n in re.findall(r"<td [^>]*>([^<]*)</td>", matrix)]
    np.testing.assert_array_equal(np.reshape(shown, evaluation.confusion.counts.shape), evaluation.confusion.counts)
    for part in evaluation.breakdown.by_size:
        if part.tp + part.fn:
            assert re.search(
                rf">{part.name}</th><td[^>]*>{part.tp + part.fn}</td><td[^>]*>{part.recall:.3f}</td>", text
            )
    kinds = {kind for errors in evaluation.error_types.by_image.values() for kind in errors.detections if kind}
    assert kinds and all(f"({kind})</title>" in text for kind in kinds)


def test_of_many_classes_the_commonest_confusions_are_listed(samples, tmp_path):
    """Thirty classes, in which the first is taken for the last twice, and once the other way."""
    names = Categories(tuple(f"class {i}" for i in range(30)))
    boxes = [[0, 0, 20, 20], [40, 0, 60, 20], [0, 30, 20, 50], [40, 30, 60, 50]]
    record = samples.record("a", Objects(boxes, [0, 0, 29, 5]), SIZE)
    dataset = samples.dataset({"validation": [record]}, categories=names)
    found = [Predictions("a", boxes, [0.9, 0.8, 0.7, 0.95], [29, 29, 0, 5], "r")]
    predictions = collect_predictions(found, run_id="r", dataset=dataset, split="validation")
    evaluation = evaluate(dataset, predictions, "validation")
    evaluation = replace(evaluation, confusion=confuse(evaluation.matching, names.names, 0.5))
    text = write_report(evaluation, dataset, predictions, tmp_path / "out").read_text()
    rows = re.findall(r">(class \d+)</th><td[^>]*>(class \d+)</td><td[^>]*>(\d+)</td>", text)
    assert rows == [("class 0", "class 29", "2"), ("class 29", "class 0", "1")]


def test_text_from_data_cannot_become_markup(samples, tmp_path):
    objects = Objects([[10, 10, 40, 40], [50, 10, 80, 40]], [0, 1])
    record = samples.record(HOSTILE, objects, SIZE)
    dataset = samples.dataset({"validation": [record]}, categories=Categories((HOSTILE, "$body {x} %s")))
    found = [Predictions(HOSTILE, [[10, 10, 40, 40]], [0.5], [1], HOSTILE)]
    predictions = collect_predictions(found, run_id=HOSTILE, dataset=dataset, split="validation")
    evaluation = evaluate(dataset, predictions, "validation")
    text = write_report(evaluation, dataset, predictions, tmp_path / "out").read_text()
    assert check_page(text).text.count(legible(HOSTILE)) > 10
    for path in (tmp_path / "out").glob("*.svg"):
        ElementTree.parse(path)
    json.loads((tmp_path / "out" / "report.json").read_text())


def test_pictures_are_the_frames_of_the_example(samples):
    """The before frame is drawn where the after frame has it."""
    shift = np.array([[1, 0, 16], [0, 1, 8], [0, 0, 1]], float)
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[16:32, 32:48] = 255
    pair = samples.pair("p", Objects([[48, 24, 64, 40]], [0]), SIZE, homography=shift)
    pair = replace(pair, before=replace(pair.before, image=encode_png(pixels)))
    dataset = samples.dataset({"validation": [pair]}, kind="differences")
    ((image_id, panels),) = read_panels(dataset, "validation", ["p"])
    assert image_id == "p"
    assert [panel.title for panel in panels] == ["before, aligned with after", "after", "difference"]
    drawn = decode_rgb(panels[0].jpeg).mean(axis=2)
    assert drawn[28:36, 52:60].min() > 240 and drawn[:20].max() < 15
    (example,) = examples(dataset, "validation")
    before, after, _ = example.frames
    np.testing.assert_allclose(boxes_in_frame(example.record.objects.boxes, before), [[32, 16, 48, 32]], atol=1e-4)
    np.testing.assert_array_equal(boxes_in_frame(example.record.objects.boxes, after), [[48, 24, 64, 40]])


def test_a_box_that_left_the_frame_is_empty_there(samples):
    record = samples.record("a", no_objects(), SIZE)
    frame = Frame("before", record, np.array([[1, 0, 50], [0, 1, 0], [0, 0, 1]], float))
    (box,) = boxes_in_frame(np.array([[10, 10, 20, 20]], np.float32), frame)
    assert box.tolist() == [0, 10, 0, 20]


def test_large_pictures_are_made_smaller(samples):
    dataset = samples.dataset({"validation": [samples.record("a", no_objects(), (900, 1600))]})
    ((_, (panel,)),) = read_panels(dataset, "validation", ["a"])
    assert decode_rgb(panel.jpeg).shape == (360, 640, 3) and panel.size == (900, 1600)


def test_a_dataset_that_is_not_ours(samples, tmp_path):
    """TFDS's own have no source ids, scenes or areas, and their boxes are in pixels as stored, whatever EXIF says."""
    rng = np.random.default_rng(1)
    records = [samples.record(str(i), samples.objects(rng, 3, SIZE), SIZE) for i in (40, 7)]
    turned = photograph(*SIZE, orientation=6)
    dataset = samples.foreign([replace(record, image=turned) for record in records])
    predictions = collect_predictions(
        samples.truth_as_predictions(dataset, "validation", "r"), run_id="r", dataset=dataset, split="validation"
    )
    evaluation = evaluate(dataset, predictions, "validation")
    assert list(evaluation.truths) == ["7", "40"] and evaluation.figures["AP"] == 1.0
    assert evaluation.errors.by_change == {}
    (_, (panel,)), _ = read_panels(dataset, "validation", ["7", "40"])
    assert panel.size == SIZE == decode_rgb(panel.jpeg).shape[:2]
    write_report(evaluation, dataset, predictions, tmp_path / "out")


@pytest.mark.parametrize("detections", [True, False])
def test_nothing_to_show(samples, tmp_path, detections):
    dataset = samples.dataset({"validation": [samples.record("a", no_objects(), SIZE)]})
    found = [Predictions("a", [[0, 0, 9, 9]], [0.4], [1], "r") if detections else Predictions("a", [], [], [], "r")]
    predictions = collect_predictions(found, run_id="r", dataset=dataset, split="validation")
    evaluation = evaluate(dataset, predictions, "validation")
    text = write_report(evaluation, dataset, predictions, tmp_path / "out").read_text()
    shown = text[text.index("<body>") : text.index("<script>")]
    assert "nan" not in shown.lower() and "None" not in shown
    assert "<b>–</b>" in text


def test_a_failure_leaves_nothing_and_what_is_there_stays(samples, tmp_path, monkeypatch):
    compared = _compared(samples)
    write_report(*compared, tmp_path / "out")
    before = (tmp_path / "out" / "report.html").read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        write_report(*compared, tmp_path / "out")
    monkeypatch.setattr(report, "_foot", lambda evaluation: 1 / 0)
    for out in (tmp_path / "out", tmp_path / "new"):
        with pytest.raises(ZeroDivisionError):
            write_report(*compared, out, overwrite=True)
    monkeypatch.undo()
    assert (tmp_path / "out" / "report.html").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out"]
    write_report(*compared, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "report.html").read_bytes() == before  # The same comparison, the same bytes.


def test_charts_are_svg_and_break_where_nothing_is_known():
    x = np.linspace(0, 1, 5)
    chart = Chart("a < b", "x & y", "y", x, {"one": np.array([1, np.nan, np.nan, 0.5, 0]), "two": x}, 0.5, "here <")
    many = replace(chart, quiet={"<": x, "b": x}, columns=np.array([0, 1, 0.5, 0.2, 1]))
    drawn = ElementTree.fromstring(draw(many))
    assert [p.get("data-name") for p in drawn.iter() if p.get("class") == "quiet"] == ["<", "b"]
    heights = [float(r.get("height")) for r in drawn.iter() if r.get("class") == "column"]
    np.testing.assert_allclose(np.array(heights) / max(heights), many.columns, atol=1e-2)
    for text in (draw(chart), standalone(chart)):
        root = ElementTree.fromstring(text)
        paths = [p.get("d") for p in root.iter("{http://www.w3.org/2000/svg}path") if "s1" in p.get("class")]
        assert paths[0].count("M") == 2 and "nan" not in text
        data = json.loads(root.get("data-chart"))
        assert data["series"]["one"] == [1.0, None, None, 0.5, 0.0]
    assert "<style>" in standalone(chart)


_SCRIPT = """
const results = {};
const column = i => [...document.querySelectorAll("#classes tbody tr")].map(row => row.cells[i].textContent);
const heads = document.querySelectorAll("#classes th button");
heads[1].click(); results.falling = column(1); heads[1].click(); results.rising = column(1);
heads[0].click(); results.names = column(0);
document.querySelector(".tabs input[value=Recall]").click();
results.tables = [...document.querySelectorAll(".heat[data-figure]")].filter(t => !t.hidden).map(t => t.dataset.figure);
const pick = document.querySelector(".stands-out"); pick.selectedIndex = 2; pick.dispatchEvent(new Event("change"));
results.picked = [...document.querySelectorAll(".quiet.on")].map(line => line.dataset.name);
const shown = kind => getComputedStyle(document.querySelector(".panel ." + kind)).display;
results.before = shown("fp"); document.querySelector(".keys input[value=fp]").click(); results.after = shown("fp");
const chart = document.querySelector("svg[data-chart]"), box = chart.getBoundingClientRect();
chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2, clientY: box.top + 9}));
results.readout = chart.parentElement.querySelector(".readout").textContent;
results.wide = document.documentElement.scrollWidth <= innerWidth;
const out = document.createElement("pre"); out.id = "results"; out.textContent = JSON.stringify(results);
document.body.append(out);
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the browser chromium")
def test_in_a_browser_tables_sort_and_boxes_hide(samples, tmp_path):
    evaluation, dataset, predictions = _compared(samples, kind="differences")
    path = write_report(evaluation, dataset, predictions, tmp_path / "out")
    results = in_browser(path.read_text(), _SCRIPT, tmp_path)
    values = [figures.ap for figures in evaluation.per_class]
    assert results["falling"] == [f"{v:.3f}" for v in sorted(values, reverse=True)]
    assert results["rising"] == results["falling"][::-1]
    assert results["names"] == sorted(dataset.categories.names)
    assert results["tables"] == ["Recall"]
    assert results["picked"] == [dataset.categories.names[1]]
    assert (results["before"], results["after"]) == ("inline", "none")
    assert re.fullmatch(r"recall 0\.\d\d: IoU 0\.50 [01]\.\d{3} · .*", results["readout"])
    assert results["wide"]  # Nothing sticks out at the width of a phone.
