"""The pages as a reader sees them: on real moved objects, in a real browser, light and dark, wide and on a phone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataflow.prepared import PreparedDataset
from dataflow.records import Predictions
from tests.trainers.browser import in_browser, screenshot
from trainers.cli import main
from trainers.prediction.predictions import write_predictions

PETS = Path(__file__).parents[4] / "shared" / "data" / "pets09_s2l1"
PAGE = {"light": "#f7f5f0", "dark": "#141311"}
TP, FP = "#19c58f", "#ff5a36"


def _rgb(colour):
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a dataset and of two runs, one twice as far from the truth, made by the commands."""
    root = tmp_path_factory.mktemp("pets")
    words = ["--format", "mot", "--pair-gap", "10", "--splits", "train=1-170,validation=171-200"]
    assert main(["ingest", str(PETS), *words, "--out", str(root)]) == 0
    assert main(["diff", str(root / "pets09_s2l1" / "1.0.0"), "--out", str(root)]) == 0
    dataset = PreparedDataset(root / "pets09_s2l1_absolute" / "1.0.0")
    for name, noise in (("far", 0.12), ("near", 0.06)):
        rng = np.random.default_rng(0)
        found = []
        for record in dataset.records("validation"):
            boxes = record.objects.boxes
            sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
            boxes = np.clip(boxes + rng.normal(0, noise, boxes.shape) * sides, 0, [record.width, record.height] * 2)
            kept = rng.random(len(boxes)) < 0.85
            found.append(
                Predictions(record.image_id, boxes[kept], rng.beta(5, 2, kept.sum()), np.zeros(kept.sum()), name)
            )
        write_predictions(root / name, found, run_id=name, dataset=dataset, split="validation")
    given = [str(dataset.path), "--predictions", str(root / "far")]
    assert main(["evaluate", *given, "--out", str(root / "report")]) == 0
    assert main(["compare", *given, str(root / "near"), "--out", str(root / "compared")]) == 0
    assert main(["stats", str(dataset.path), "--out", str(root / "stats")]) == 0
    return {
        "report": root / "report" / "report.html",
        "compare": root / "compared" / "compare.html",
        "diff": dataset.path / "diff.html",
        "audit": dataset.path / "audit.html",
        "stats": root / "stats" / "stats.html",
    }


real = [
    pytest.mark.slow,
    pytest.mark.skipif(not PETS.is_dir(), reason="needs ../shared/data/pets09_s2l1 beside the checkout"),
    pytest.mark.skipif(not shutil.which("chromium"), reason="needs the browser chromium"),
]


def _marked(test):
    for mark in real:
        test = mark(test)
    return test


@_marked
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_is_seen(pages, tmp_path, name, width, scheme):
    # A window is 500 px wide at least, so that the page of a phone is a frame in it.
    shown = pages[name]
    if width < 500:
        shown = tmp_path / f"{name}.html"
        frame = f'<iframe src="{pages[name].as_uri()}" style="width:{width}px;height:9000px;border:0"></iframe>'
        shown.write_text(f'<body style="margin:0">{frame}</body>')
    pixels = screenshot(shown, tmp_path, (max(width, 500), 5000), dark=scheme == "dark")[:, :width]
    assert pixels[3, 3].tolist() == _rgb(PAGE[scheme]).tolist()
    for colour in (TP, FP):
        assert (np.abs(pixels.astype(int) - _rgb(colour)).sum(axis=2) < 12).sum() > 200
    # Photographs have many colours, and the right edge of the page is free.
    assert len(np.unique(pixels[::3, ::3].reshape(-1, 3), axis=0)) > 5000
    assert (pixels[:, -4:] == _rgb(PAGE[scheme])).all()


_SCRIPT = """
const results = {wide: [], images: [...document.querySelectorAll("image")].length};
for (const figure of [null, document.querySelector("figure")]) {
  if (figure) figure.dispatchEvent(new KeyboardEvent("keydown", {key: " "}));
  results.wide.push(document.documentElement.scrollWidth <= innerWidth);
}
const reached = [...document.querySelectorAll("button, select, input, a, figure:has(.panel)")];
results.unreachable = reached.filter(element => element.tabIndex < 0).length;
results.links = [...document.querySelectorAll("nav a")].every(a => document.querySelector(a.getAttribute("href")));
const out = document.createElement("pre"); out.id = "results"; out.textContent = JSON.stringify(results);
document.body.append(out);
"""


@_marked
@pytest.mark.parametrize(
    ("name", "images"), [("report", 36), ("compare", 36), ("diff", 72), ("audit", 0), ("stats", 0)]
)
def test_a_page_fits_and_is_reached_by_keys(pages, tmp_path, name, images):
    results = in_browser(pages[name].read_text(), _SCRIPT, tmp_path)
    assert results == {"wide": [True, True], "images": images, "unreachable": 0, "links": True}
    assert pages[name].stat().st_size < 6_000_000
    if name not in ("report", "compare"):
        return
    content = json.loads(pages[name].with_suffix(".json").read_text())
    if name == "compare":
        assert content["changes"][0]["AP"]["share_better"] > 0.99
