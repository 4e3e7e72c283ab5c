"""The App in a browser: groups, boxes, saved views and FiftyOne's panel of an evaluation are seen, of moved people."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from dataflow.boxes import pairwise_iou
from dataflow.images import decode_rgb
from dataflow.prepared import PreparedDataset
from dataflow.records import Predictions
from tests.factories import Thing, mot_row
from tests.tfds_builders.shaken_frames import PETS, write_shaken_pets
from tests.trainers.app_in_browser import CHROMIUM, Page, browser, free_port
from trainers.cli import main
from trainers.prediction.predictions import write_predictions

_COLOURS = np.array([[0x19, 0xC5, 0x8F], [0xE0, 0xAD, 0x00]], float)
"""Of boxes that are right and of objects that were missed."""


@pytest.fixture
def stored(fo, tmp_path, name):
    """Pairs of PETS09-S2L1 ten frames apart, every second one shaken.

    Beside the people two things move that are drawn by nobody, one small and one large. The detector sees people a
    little aside and one in five not, the two things never, and is surest where nothing is.
    """
    source, data = tmp_path / "pets", tmp_path / "data"
    write_shaken_pets(source, range(151, 173))
    for frame in range(1, 23):
        things = (
            Thing(0, (10 * frame, 5, 10 * frame + 20, 30), 901),
            Thing(0, (9 * frame, 400, 9 * frame + 110, 520), 902),
        )
        with (source / "walk" / "gt" / "gt.txt").open("a") as rows:
            rows.writelines(f"{mot_row(frame, thing)}\n" for thing in things)
    made = ["ingest", source, "--format", "mot", "--pair-gap", 10, "--splits", "validation=1", "--out", data]
    assert main([*map(str, made), "--name", "pets"]) == 0
    assert main(["diff", str(data / "pets" / "1.0.0"), "--out", str(data)]) == 0
    dataset = PreparedDataset(data / "pets_absolute" / "1.0.0")
    rng = np.random.default_rng(0)
    found = []
    for record in dataset.records("validation"):
        objects = record.objects.boxes
        areas = (objects[:, 2:] - objects[:, :2]).prod(axis=1)
        seen = (rng.random(len(objects)) > 0.2) & (areas > 32**2) & (areas < 96**2)
        boxes = np.clip(objects[seen] + rng.normal(0, 4, 4), 0, [*record.size[::-1]] * 2)
        boxes = np.concatenate([boxes, _elsewhere(rng, objects)])
        scores = np.append(rng.uniform(0.3, 0.9, len(boxes) - 1), 0.95)
        found.append(Predictions(record.image_id, boxes, scores, np.zeros(len(boxes), int), "run"))
    write_predictions(tmp_path / "run", found, run_id="run", dataset=dataset, split="validation")
    assert main(["browse", str(dataset.path), "--predictions", str(tmp_path / "run"), "--name", name, "--no-app"]) == 0
    return name


def _elsewhere(rng, objects):
    """A box (1, 4) on the ground that no object touches."""
    while True:
        left, top = rng.uniform((50, 250), (650, 480))
        box = np.array([[left, top, left + 40, top + 80]])
        if not pairwise_iou(box, objects).any():
            return box


# All but that of images kept out, which `test_fiftyone_views` has.
VIEWS = {
    "confident", "label suspects", "run: worst images", "run: confident false positives",
    "run: missed, small", "run: missed, medium", "run: missed, large", "run: camera motion",
}  # fmt: skip


@contextmanager
def _app(stored, profile):
    """The App on a stored dataset, in a browser; gives its page and its address."""
    port = free_port()
    heeding = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    opening = f"from trainers.app.store import launch\nlaunch({stored!r}, port={port})"
    command = [sys.executable, "-c", heeding + opening]
    with subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, text=True) as app:
        try:
            address = app.stdout.readline().split(" at ")[1].split(" ")[0]
            with browser(profile) as devtools:
                yield Page(devtools, address), address
        finally:
            app.send_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.skipif(not PETS.is_dir(), reason=f"no PETS09-S2L1 at {PETS}")
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_groups_boxes_saved_views_and_the_evaluation_are_seen(fo, stored, tmp_path):
    pytest.importorskip("websocket", reason="pip install 'shardbox[dev]'")
    dataset = fo.load_dataset(stored)
    assert set(dataset.list_saved_views()) == VIEWS
    moving = dataset.load_saved_view("run: camera motion")
    assert set(moving.count_values("pred_run.detections.eval_run_cause")) == {"camera-motion"}
    with _app(stored, tmp_path / "profile") as (page, address):
        page.wait_for(_shows("groups with slice"))
        page.click_until("[data-cy=saved-views-selection]", _shows("run: worst images"))
        page.wait_for("document.querySelectorAll('canvas').length > 5")
        shown = page.text()
        assert [view for view in VIEWS if view not in shown] == []
        _assert_boxes_drawn(page, tmp_path / "views.png")
        page.call("Page.navigate", url=f"{address}&groupId={dataset.first().group.id}")
        page.wait_for("document.querySelectorAll('[data-cy=modal] canvas').length >= 3")
        _assert_boxes_drawn(page, tmp_path / "group.png")
        page.call("Page.navigate", url=address)
        page.wait_for(_shows("groups with slice"))
        _assert_evaluation_seen(page, dataset, tmp_path / "evaluation.png")


def _assert_evaluation_seen(page, dataset, path):
    """FiftyOne's own panel of model evaluations shows the figures that are counted here, and the confusion matrix."""
    option = "[data-cy=new-panel-option-model_evaluation_panel_builtin]"
    page.click_until("[data-cy=new-panel-btn]", f"!!document.querySelector('{option}')")
    page.click_until(option, _shows("eval_run"))
    page.click_text("eval_run", _shows("F1-Score"))
    right, wrong, missed = (dataset.sum(f"eval_run_{name}") for name in ("tp", "fp", "fn"))
    wanted = {
        "True Positives": right,
        "False Positives": wrong,
        "False Negatives": missed,
        "Precision": right / (right + wrong),
        "Recall": right / (right + missed),
        "mAP": dataset.load_evaluation_results("eval_run").mAP(),
    }
    rows = page.wait_for(
        "Object.fromEntries([...document.querySelectorAll('tr')].map(r => [...r.cells].map(c => c.innerText.trim())))"
    )
    assert {name: float(rows[name]) for name in wanted} == pytest.approx(wanted, abs=6e-4)
    page.save(path)
    page.click_text("Confusion Matrices", _shows("(none)"))
    page.save(path.with_stem("confusion"))


def _shows(text):
    """Whether the page has a text, as an expression."""
    return f"document.body.innerText.includes({text!r})"


def _assert_boxes_drawn(page, path):
    """Lines in the colours of right and missed boxes are seen, as soon as images have been loaded."""
    end = time.monotonic() + 120
    while min(counts := _coloured(decode_rgb(page.save(path)))) < 500:
        assert time.monotonic() < end, f"{path}: pixels in the colours of boxes: {counts}"
        time.sleep(2)


def _coloured(pixels):
    """How many pixels have the hue of each colour, however dark: lines are blended with what is under them."""
    values = pixels.reshape(-1, 3).astype(float)
    lengths, known = np.linalg.norm(values, axis=1), np.linalg.norm(_COLOURS, axis=1)
    alike = values @ _COLOURS.T > 0.985 * lengths[:, None] * known
    return (alike & (lengths[:, None] > 0.3 * known)).sum(axis=0).tolist()
