"""The App in a browser: groups, boxes and saved views of people who moved on PETS09-S2L1 are seen."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dataflow.images import decode_rgb
from dataflow.prepared import PreparedDataset
from dataflow.records import Predictions
from tests.trainers.app_in_browser import CHROMIUM, Page, browser, free_port
from trainers.cli import main
from trainers.predictions import write_predictions

PETS = Path(__file__).parents[3] / "shared" / "data" / "pets09_s2l1"
_COLOURS = np.array([[0x19, 0xC5, 0x8F], [0xE0, 0xAD, 0x00]], float)
"""Of boxes that are right and of objects that were missed."""


@pytest.fixture
def stored(fo, tmp_path, name):
    """Ten pairs with their differences, and a detector that sees the objects a little aside, and one in five not."""
    data = tmp_path / "data"
    made = ["ingest", PETS, "--format", "mot", "--pair-gap", 10, "--splits", "train=1-150,validation=151-170"]
    assert main([*map(str, made), "--out", str(data), "--name", "pets"]) == 0
    assert main(["diff", str(data / "pets" / "1.0.0"), "--out", str(data)]) == 0
    dataset = PreparedDataset(data / "pets_absolute" / "1.0.0")
    rng = np.random.default_rng(0)
    found = []
    for record in dataset.records("validation"):
        seen = rng.random(len(record.objects)) > 0.2
        boxes = np.clip(record.objects.boxes[seen] + rng.normal(0, 4, 4), 0, [*record.size[::-1]] * 2)
        kinds = record.objects.category_ids[seen]
        found.append(Predictions(record.image_id, boxes, rng.uniform(0.3, 1, len(boxes)), kinds, "run"))
    write_predictions(tmp_path / "run", found, run_id="run", dataset=dataset, split="validation")
    assert main(["browse", str(dataset.path), "--predictions", str(tmp_path / "run"), "--name", name, "--no-app"]) == 0
    return name


@pytest.mark.slow
@pytest.mark.skipif(not PETS.is_dir(), reason=f"no PETS09-S2L1 at {PETS}")
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_groups_boxes_and_saved_views_are_seen(fo, stored, tmp_path):
    pytest.importorskip("websocket", reason="pip install 'shardbox[dev]'")
    port = free_port()
    heeding = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    opening = f"from trainers.fiftyone_store import launch\nlaunch({stored!r}, port={port})"
    command = [sys.executable, "-c", heeding + opening]
    first = fo.load_dataset(stored).first()
    with subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, text=True) as app:
        try:
            address = app.stdout.readline().split(" at ")[1].split(" ")[0]
            with browser(tmp_path / "profile") as devtools:
                page = Page(devtools, address)
                page.wait_for(_shows("groups with slice"))
                page.click_until("[data-cy=saved-views-selection]", _shows("run: worst images"))
                page.wait_for("document.querySelectorAll('canvas').length > 5")
                text = page.text()
                for view in ("confident", "run: worst images", "run: confident false positives", "label suspects"):
                    assert view in text or not fo.load_dataset(stored).has_saved_view(view), view
                _assert_boxes_drawn(page, tmp_path / "views.png")
                page.call("Page.navigate", url=f"{address}&groupId={first.group.id}")
                page.wait_for("document.querySelectorAll('[data-cy=modal] canvas').length >= 3")
                _assert_boxes_drawn(page, tmp_path / "group.png")
        finally:
            app.send_signal(signal.SIGINT)


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
