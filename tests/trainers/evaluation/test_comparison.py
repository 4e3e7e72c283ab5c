"""Runs beside each other: what is counted, against loops; what is refused; the page; the command."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from dataflow.errors import DataRefusedError, UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, Predictions
from tests.pages import HOSTILE, check_page
from tests.trainers.browser import in_browser
from tfds_builders.pages.markup import legible
from trainers.cli import main
from trainers.commands.comparing_commands import labelled
from trainers.evaluation.bootstrap import draw_weights, resampled_classes
from trainers.evaluation.comparison import Change, compare
from trainers.evaluation.evaluation import evaluate
from trainers.evaluation.matching import Verdict, match
from trainers.pages.comparison_page import verdict, write_comparison
from trainers.pages.report import write_report
from trainers.prediction.predictions import collect_predictions, write_predictions

SIZE = (64, 96)


def _dataset(samples, kind="images", images=6, name="tiny", seed=0):
    rng = np.random.default_rng(seed)
    make = samples.record if kind == "images" else samples.pair
    made = [make(f"image {i}", samples.objects(rng, int(rng.integers(1, 6)), SIZE), SIZE) for i in range(images)]
    return samples.dataset({"validation": made}, kind=kind, name=name)


def _run(samples, dataset, seed, run_id="run"):
    rng = np.random.default_rng(seed)
    found = [samples.detections(rng, record, run_id) for record in dataset.records("validation")]
    return collect_predictions(found, run_id=run_id, dataset=dataset, split="validation")


def _perfect(samples, dataset):
    found = samples.truth_as_predictions(dataset, "validation", "truth")
    return collect_predictions(found, run_id="truth", dataset=dataset, split="validation")


def test_a_resample_is_what_copies_of_its_images_give(samples):
    """No two scores are equal: the order of equal ones of different images is not kept."""
    rng = np.random.default_rng(5)
    records = [samples.record(f"i{i}", samples.objects(rng, int(rng.integers(0, 6)), SIZE), SIZE) for i in range(6)]
    scores = rng.permutation(72).reshape(6, 12) / 72
    found = {r.image_id: replace(samples.detections(rng, r, "run"), scores=scores[i]) for i, r in enumerate(records)}
    weights = draw_weights(len(records), 12, seed=3)
    resampled = resampled_classes(match(records, found, 3), weights)
    for column in range(12):
        copies = [
            (replace(r, image_id=f"{r.image_id}-{copy}"), found[r.image_id])
            for r, times in zip(records, weights[:, column].tolist(), strict=True)
            for copy in range(times)
        ]
        copied = match([r for r, _ in copies], {r.image_id: p for r, p in copies}, 3)
        got = np.nan_to_num(resampled[..., column], nan=-1.0)
        np.testing.assert_allclose(got, copied.precision.mean(axis=1), atol=1e-12)


def test_figures_and_errors_are_those_of_each_run(samples):
    dataset = _dataset(samples)
    runs = {name: _run(samples, dataset, seed) for seed, name in enumerate("abc")}
    compared = compare(dataset, runs, resamples=50)
    each = {name: evaluate(dataset, run, "validation") for name, run in runs.items()}
    assert compared.labels == ("a", "b", "c") and [c.label for c in compared.changes] == ["b", "c"]
    for changes in compared.changes:
        first, other = each["a"], each[changes.label]
        for name in ("AP", "AP50"):
            change = changes.figures[name]
            assert (change.first, change.other) == (first.figures[name], other.figures[name])
            assert change.low <= change.high
        for k, name in enumerate(first.category_names):
            assert changes.classes[name].difference == other.per_class[k].ap50 - first.per_class[k].ap50
        for name, types in changes.error_types.items():
            assert (types.first, types.other) == (first.error_types.counts[name], other.error_types.counts[name])
            assert types.cost_other == other.error_types.cost[name]


def test_objects_and_images_against_loops(samples):
    dataset = _dataset(samples, images=8)
    runs = {"a": _run(samples, dataset, 3), "b": _run(samples, dataset, 4)}
    (changes,) = compare(dataset, runs, resamples=10).changes
    a, b = (evaluate(dataset, run, "validation") for run in runs.values())
    wanted, only = {}, {(True, False): [], (False, True): []}
    for image, record in a.truths.items():
        sides = [e.matches[image].at_score(e.errors.score) for e in (a, b)]
        for i, crowd in enumerate(record.objects.is_crowd.tolist()):
            if not crowd:
                key = tuple(int(side.object_verdicts[i]) == Verdict.TP for side in sides)
                name = a.category_names[record.objects.category_ids[i]]
                wanted.setdefault(name, {}).setdefault(key, 0)
                wanted[name][key] += 1
                if key in only:
                    only[key].append((image, i))
    for name, found in changes.found.items():
        got = {(True, True): found.both, (True, False): found.first_only, (False, True): found.other_only}
        got[False, False] = found.neither
        assert {key: n for key, n in got.items() if n} == wanted[name]
    assert (list(changes.only_first), list(changes.only_other)) == (only[True, False], only[False, True])
    gains = [c.gain for c in changes.images]
    assert gains == sorted(gains, reverse=True)
    costs = [dict(e.error_types.ranked) for e in (a, b)]
    for c in changes.images:
        assert c.gain == costs[0].get(c.image_id, 0) - costs[1].get(c.image_id, 0)
        assert c.first.fp == a.matches[c.image_id].at_score(a.errors.score).count(Verdict.FP)


def test_a_run_beside_itself_is_the_same(samples):
    dataset = _dataset(samples)
    (changes,) = compare(
        dataset, {"a": _run(samples, dataset, 1), "b": _run(samples, dataset, 1)}, resamples=40
    ).changes
    for change in (*changes.figures.values(), *changes.classes.values()):
        assert (change.low, change.high, change.better) == (0.0, 0.0, 0.5) and verdict(change)[1] == "the same"
    assert changes.images == () == changes.only_first == changes.only_other


def test_the_truth_is_better_than_noise_and_noise_worse(samples):
    dataset = _dataset(samples, images=12)
    better, worse = (
        compare(dataset, dict(runs), resamples=200).changes[0].figures["AP50"]
        for pair in [(("noise", _run(samples, dataset, 2)), ("truth", _perfect(samples, dataset)))]
        for runs in (pair, pair[::-1])
    )
    assert verdict(better)[0] == "up" and verdict(worse)[0] == "down"
    assert (better.low, better.high) == pytest.approx((-worse.high, -worse.low))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (Change(0.5, 0.6, 0.01, 0.2, 0.99), "up"),
        (Change(0.5, 0.6, -0.01, 0.2, 0.96), "level"),
        (Change(0.6, 0.5, -0.2, -0.01, 0.01), "down"),
        (Change(None, None, None, None, None), "level"),
    ],
)
def test_verdicts(change, kind):
    assert verdict(change)[0] == kind


def test_other_datasets_are_refused_unless_told(samples):
    old, new = _dataset(samples, images=6), _dataset(samples, images=5, name="new", seed=8)
    runs = {"old": _run(samples, old, 0), "new": _run(samples, new, 0)}
    with pytest.raises(UsageError, match="are of dataset 'tiny'"):
        compare(new, runs)
    compared = compare(new, runs, across_datasets=True, resamples=20)
    assert len(compared.evaluations[0].truths) == 5 and compared.left_out == 0
    assert compared.fingerprints == (old.fingerprint, new.fingerprint)
    # By the truth of the dataset that is given.
    shared = {image: p for image, p in runs["old"].by_image.items() if image in runs["new"].by_image}
    moved = replace(runs["old"], fingerprint=new.fingerprint, dataset="new", by_image=shared)
    assert compared.evaluations[0].figures == evaluate(new, moved, "validation").figures
    few = replace(runs["new"], by_image={k: v for k, v in runs["new"].by_image.items() if k != "image 2"})
    compared = compare(new, {"old": runs["old"], "few": few}, across_datasets=True, resamples=20)
    assert compared.left_out == 1 and "image 2" not in compared.evaluations[0].truths


def test_what_cannot_be_compared(samples):
    dataset = _dataset(samples)
    run = _run(samples, dataset, 0)
    with pytest.raises(UsageError, match="one run"):
        compare(dataset, {"a": run})
    with pytest.raises(DataRefusedError, match="no image"):
        compare(dataset, {"a": run, "b": replace(run, by_image={})}, across_datasets=True)
    with pytest.raises(DataRefusedError, match="has person"):
        compare(dataset, {"a": run, "b": replace(run, categories=Categories(("cat",)))}, across_datasets=True)
    with pytest.raises(UsageError, match="no split"):
        compare(dataset, {"a": run, "b": run}, "test")


@pytest.mark.parametrize("kind", ["images", "differences"])
def test_the_page(samples, tmp_path, kind):
    dataset = _dataset(samples, kind=kind)
    runs = {HOSTILE: _run(samples, dataset, 0, HOSTILE), "b": _run(samples, dataset, 1), "c": _run(samples, dataset, 2)}
    compared = compare(dataset, runs, resamples=30)
    path = write_comparison(compared, dataset, runs, tmp_path / "out", pictures=6)
    assert sorted(p.name for p in path.parent.iterdir()) == ["compare.html", "compare.json"]
    text = path.read_text()
    page = check_page(text)
    assert page.text.count(legible(HOSTILE)) > 10
    frames = {"images": 1, "differences": 3}[kind]
    panels, pictures = page.of("svg", **{"class": "panel"}), page.of("image")
    assert len(panels) == 2 * len(pictures) and len(pictures) % frames == 0 and len(pictures) <= 6 * frames
    assert {use["href"] for use in page.of("use")} == {f"#{picture['id']}" for picture in pictures}
    content = json.loads((path.parent / "compare.json").read_text())
    assert [c["to"] for c in content["changes"]] == ["b", "c"]
    assert content["changes"][0]["AP50"]["to"] == compared.evaluations[1].figures["AP50"]
    shown = text[text.index("<body>") : text.index("<script>")]
    assert "nan" not in shown.lower() and "None" not in shown


def test_nothing_to_compare_is_said(samples, tmp_path):
    empty = samples.objects(np.random.default_rng(0), 0, SIZE)
    dataset = samples.dataset({"validation": [samples.record("a", empty, SIZE)]})
    found = [Predictions("a", [[0, 0, 9, 9]], [0.4], [1], "r")]
    run = collect_predictions(found, run_id="r", dataset=dataset, split="validation")
    compared = compare(dataset, {"a": run, "b": run}, resamples=5)
    text = write_comparison(compared, dataset, {"a": run, "b": run}, tmp_path / "out").read_text()
    assert "no objects" in text and "not defined" in text


def test_labels_tell_runs_apart(tmp_path):
    paths = [tmp_path / "a" / "predictions", tmp_path / "b" / "predictions"]
    assert list(labelled(dict.fromkeys(paths))) == [str(p) for p in paths]
    assert list(labelled(dict.fromkeys([tmp_path / "x" / "old", tmp_path / "x" / "new"]))) == ["old", "new"]


def test_the_command(samples, tmp_path, capsys):
    dataset = _dataset(samples)
    for seed, name in enumerate(("old", "new")):
        found = _run(samples, dataset, seed).by_image.values()
        write_predictions(tmp_path / name, found, run_id="run", dataset=dataset, split="validation")
    words = ["compare", str(dataset.path), "--out", str(tmp_path / "out"), "--predictions", str(tmp_path / "old")]
    assert main(words) == 2 and "two or more" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "new")]) == 0
    out = capsys.readouterr().out
    assert "new beside old" in out and "found by both" in out and (tmp_path / "out" / "compare.html").is_file()
    assert main([*words, str(tmp_path / "new")]) == 2 and "exists already" in capsys.readouterr().err
    assert PreparedDataset(dataset.path).fingerprint in (tmp_path / "out" / "compare.json").read_text()


_SCRIPT = """
const results = {};
const shown = () => [...document.querySelectorAll("figure[data-role]")].filter(f => !f.hidden).map(f => f.dataset.role);
results.first = [...new Set(shown())];
document.querySelector(".which input[value=all]").click(); results.all = [...new Set(shown())].sort();
document.querySelector(".which input[value=before]").click(); results.before = [...new Set(shown())];
const figure = document.querySelector("figure[data-role=before]");
figure.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"})); results.big = figure.classList.contains("big");
results.wide = document.documentElement.scrollWidth <= innerWidth;
const out = document.createElement("pre"); out.id = "results"; out.textContent = JSON.stringify(results);
document.body.append(out);
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the browser chromium")
@pytest.mark.parametrize("page", ["comparison", "report"])
def test_in_a_browser_frames_switch(samples, tmp_path, page):
    dataset = _dataset(samples, kind="differences")
    runs = {"a": _run(samples, dataset, 0), "b": _run(samples, dataset, 1)}
    compared = compare(dataset, runs, resamples=30)
    if page == "comparison":
        path = write_comparison(compared, dataset, runs, tmp_path / "out")
    else:
        path = write_report(compared.evaluations[0], dataset, runs["a"], tmp_path / "out")
    results = in_browser(path.read_text(), _SCRIPT, tmp_path)
    assert results == {
        "first": ["after"] if page == "comparison" else ["before", "after", "diff"],
        "all": ["after", "before", "diff"],
        "before": ["before"],
        "big": True,
        "wide": True,
    }
