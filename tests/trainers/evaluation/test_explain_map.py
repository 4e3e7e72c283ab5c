"""Shares add up, are nothing where nothing differs, and a figure made under another convention is traced to it."""

import json
from dataclasses import replace
from itertools import permutations

import pytest

from dataflow.errors import UsageError
from dataflow.records import Objects, Predictions
from tests.trainers.evaluation.test_convention_figures import SIZE, _sets
from trainers.cli import main
from trainers.evaluation.convention_figures import ConventionFigures
from trainers.evaluation.conventions import FIGURES, PRESETS, Convention, Most, describe
from trainers.evaluation.explain_map import Given, explain, parse_figure, read_torchmetrics, walk
from trainers.prediction.predictions import write_predictions


@pytest.fixture
def figures(samples):
    return ConventionFigures(*_sets(samples, 4, images=8, n=60), 3)


def test_shares_are_the_mean_over_all_orders(figures):
    start, end = PRESETS["pycocotools"], replace(PRESETS["ultralytics"], score_cut=0.3, max_detections=Most(5, "image"))
    explanation = walk(figures, start, end, ("AP", "AP50"))
    assert sum(abs(cause.shares["AP"]) > 1e-4 for cause in explanation.causes) >= 3
    for name in ("AP", "AP50"):
        wanted = dict.fromkeys(start.differences(end), 0.0)
        orders = list(permutations(wanted))
        for order in orders:
            now = start
            for field in order:
                then = replace(now, **{field: getattr(end, field)})
                step = figures.figures(then, (name,))[name] - figures.figures(now, (name,))[name]
                wanted[field] += step / len(orders)
                now = then
        assert {c.field: c.shares[name] for c in explanation.causes} == pytest.approx(wanted, abs=1e-12)
        total = explanation.start[name] + sum(c.shares[name] for c in explanation.causes)
        assert total == pytest.approx(explanation.end[name], abs=1e-12)
        assert explanation.end[name] == figures.figures(end, (name,))[name]


@pytest.mark.parametrize(
    "changes",
    [
        {"crowd": "objects"},
        {"score_cut": 0.25},
        {"max_detections": Most(1, "image and class")},
        {"interpolation": "11 points"},
        {"ids": "first object lost"},
        {"boxes": "shifted"},
        {"crowd": "left out", "interpolation": "continuous"},
        {"classes": "as one", "score_cut": 0.5},
    ],
)
def test_a_figure_is_traced_to_what_made_it(figures, changes):
    made = figures.figures(replace(Convention(), **changes), ("AP", "AP50"))
    found = explain(figures, {name: Given(value, 2e-6) for name, value in made.items()})
    assert all(e.explained and e.left <= 2e-6 for e in found)
    assert replace(Convention(), **changes) in [e.convention for e in found]
    assert all(len(e.causes) == len(changes) for e in found)


def test_where_nothing_explains_the_nearest_is_told(figures):
    start = figures.figures(Convention(), ("AP",))["AP"]
    (found,) = explain(figures, {"AP": Given(0.999, 2e-6)})
    assert found.explained is False and 0.001 < found.left <= 0.999 - start
    (found,) = explain(figures, {"AP": Given(round(start, 3), 0.0005)})
    assert found.explained and found.causes == ()


def test_a_tool_is_where_the_search_starts(figures):
    made = figures.figures(PRESETS["ultralytics"], ("AP", "AP50"))
    (found,) = explain(figures, {name: Given(value, 2e-6) for name, value in made.items()}, "ultralytics")
    assert found.explained and found.convention == PRESETS["ultralytics"]


@pytest.mark.parametrize(
    ("text", "name", "tolerance"),
    [("AP=0.357", "AP", 5e-4), ("mAP50-95=0.3574", "AP", 5e-5), ("map_50=0.5", "AP50", 0.05), ("APs=1", "APs", 0.5)],
)
def test_figures_are_known_as_their_digits_say(text, name, tolerance):
    figure, given = parse_figure(text)
    assert (figure, given.tolerance) == (name, pytest.approx(tolerance, rel=1e-3))


@pytest.mark.parametrize("text", ["F1=0.5", "AP", "AP=high", "AP=35.7", "AP=nan"])
def test_other_figures_are_refused(text):
    with pytest.raises(UsageError, match="--figure"):
        parse_figure(text)


def test_torchmetrics_files(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"map": 0.5, "map_small": -1.0, "mar_1": 0.3, "classes": [0, 1]}))
    assert read_torchmetrics(path) == {"AP": Given(0.5, 2e-6)}
    for content in ("[1]", '{"loss": 1}', "no json"):
        path.write_text(content)
        with pytest.raises(UsageError, match=r"map\.json"):
            read_torchmetrics(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_torchmetrics(tmp_path)


def test_a_figure_that_only_the_other_tool_defines(samples):
    """By its annotated area the object is of medium size, by its box small."""
    record = samples.record("a", Objects([[0, 0, 30, 30]], [0], areas=[2000]), SIZE)
    found = {"a": Predictions("a", [[0, 0, 30, 30]], [0.5], [0], "run")}
    figures = ConventionFigures([record], found, 1)
    (explanation,) = explain(figures, {"APs": Given(1.0, 2e-6), "AP": Given(1.0, 2e-6)}, "torchmetrics")
    assert explanation.explained and list(explanation.start) == ["AP"]
    with pytest.raises(UsageError, match="APs is not defined"):
        explain(figures, {"APs": Given(1.0, 2e-6)})


def test_every_value_has_words():
    for preset in PRESETS.values():
        for field in Convention().differences(preset):
            assert describe(field, getattr(preset, field)).count(": ") == 1


def test_the_command(samples, tmp_path, capsys):
    records, found = _sets(samples, 3, images=8)
    dataset = samples.dataset({"validation": records})
    predictions = tmp_path / "predictions"
    write_predictions(predictions, found.values(), run_id="run", dataset=dataset, split="validation")
    words = ["explain-map", str(dataset.path), "--predictions", str(predictions)]
    assert main([*words]) == 0
    assert all(tool in capsys.readouterr().out for tool in ("ultralytics",))
    ours = ConventionFigures(list(dataset.records("validation")), found, 3)
    told = tmp_path / "map.json"
    made = ours.figures(PRESETS["torchmetrics"], FIGURES)
    told.write_text(json.dumps({"map": made["AP"], "map_50": made["AP50"]}))
    assert main([*words, "--torchmetrics", str(told), "--json"]) == 0
    (explanation,) = json.loads(capsys.readouterr().out)["explanations"]
    assert explanation["explained"] and "crowd" in [cause["cause"] for cause in explanation["causes"]]
    assert main([*words, "--figure", "AP=0.001"]) == 0
    assert "no usual difference" in capsys.readouterr().out
    assert main([*words, "--torchmetrics", str(told), "--tool", "fiftyone"]) == 2
    assert "--tool fiftyone" in capsys.readouterr().err
