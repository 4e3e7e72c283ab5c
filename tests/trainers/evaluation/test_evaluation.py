"""Evaluation against pycocotools used plainly on JSON files, and against slow loops written here."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dataflow.boxes import pairwise_iou, xyxy_to_coco
from dataflow.errors import DataRefusedError, UsageError
from dataflow.records import Change, Objects, Predictions, no_objects
from trainers.commands.evaluation_lines import evaluation_lines
from trainers.evaluation.coco_figures import FIGURES
from trainers.evaluation.curves import SWEEP_SCORES, OperatingPoint
from trainers.evaluation.evaluation import evaluate
from trainers.evaluation.matching import Verdict
from trainers.pages.report_json import report_json
from trainers.prediction.predictions import collect_predictions, write_predictions

SIZE = (64, 96)


def _make(samples, seed, images=8, numbers=True, **detection_options):
    """A random dataset with its adversarial predictions: (dataset, list of Predictions)."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(images):
        objects = samples.objects(rng, int(rng.integers(0, 7)), SIZE) if rng.random() < 0.8 else no_objects()
        areas = objects.areas * rng.uniform(0.3, 1.0, len(objects)).astype(np.float32)  # As if of masks.
        source_id = str(1000 - 7 * i) if numbers else ""
        records.append(samples.record(f"image {i}", replace(objects, areas=areas), SIZE, source_id=source_id))
    dataset = samples.dataset({"validation": records})
    predictions = [
        samples.detections(rng, record, "run", n=int(rng.integers(0, 25)), **detection_options)
        for record in dataset.records("validation")
    ]
    return dataset, predictions


def _evaluate(dataset, predictions, run_id="run"):
    return evaluate(
        dataset,
        collect_predictions(predictions, run_id=run_id, dataset=dataset, split="validation"),
        "validation",
    )


def _coco_json(dataset, path):
    """The truth as a COCO instances file, written as others write them."""
    categories = dataset.categories
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": n} for i, n in zip(categories.source_ids, categories.names, strict=True)],
    }
    for record in dataset.records("validation"):
        image = int(record.source_id) if record.source_id else record.image_id
        content["images"].append({"id": image, "height": record.height, "width": record.width})
        objects = record.objects
        for i, box in enumerate(xyxy_to_coco(objects.boxes).tolist()):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image,
                    "category_id": categories.source_ids[objects.category_ids[i]],
                    "bbox": box,
                    "area": float(objects.areas[i]),
                    "iscrowd": int(objects.is_crowd[i]),
                }
            )
    path.write_text(json.dumps(content))
    return path


def _plain_pycocotools(dataset, predictions, tmp_path):
    write_predictions(tmp_path / "p", predictions, run_id="run", dataset=dataset, split="validation")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(_coco_json(dataset, tmp_path / "truth.json")))
        plain = COCOeval(truth, truth.loadRes(str(tmp_path / "p" / "coco_results.json")), "bbox")
        plain.evaluate()
        plain.accumulate()
        plain.summarize()
    return plain


@pytest.mark.parametrize("seed", range(10))
def test_figures_equal_plain_pycocotools(samples, tmp_path, seed):
    dataset, predictions = _make(samples, seed, numbers=seed % 3 > 0)
    ours = _evaluate(dataset, predictions)
    plain = _plain_pycocotools(dataset, predictions, tmp_path)
    for name, value in zip(FIGURES, plain.stats, strict=True):
        got = ours.figures[name]
        assert got is None if value == -1 else got == pytest.approx(value, abs=1e-12), name
    # Per class; pycocotools sorts the classes by source id.
    order = np.argsort(dataset.categories.source_ids)
    for k, index in enumerate(order):
        precision = plain.eval["precision"][:, :, k, 0, 2]
        figures = ours.per_class[index]
        if figures.truths == 0:
            assert figures.ap is None and figures.ap50 is None and (precision == -1).all()
        else:
            assert figures.ap == pytest.approx(precision.mean(), abs=1e-12)
            assert figures.ap50 == pytest.approx(precision[0].mean(), abs=1e-12)


def _slow_overlap(detection, truth, crowd):
    """COCO's overlap of two xyxy boxes in plain Python."""
    dx, dy, dw, dh = xyxy_to_coco(detection)[0].tolist()
    tx, ty, tw, th = xyxy_to_coco(truth)[0].tolist()
    w, h = min(dx + dw, tx + tw) - max(dx, tx), min(dy + dh, ty + th) - max(dy, ty)
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (dw * dh if crowd else dw * dh + tw * th - w * h)


def _slow_match(record, predictions, iou, cut):
    """(outcome by detection, found objects) of one image: COCO's rule written as loops, for one cell of the sweep."""
    outcome, taken = {}, {}
    kept = [i for i in range(len(predictions)) if predictions.scores[i] >= np.float32(cut)]
    for i in sorted(kept, key=lambda i: (-predictions.scores[i], i)):
        best = {False: (iou, None), True: (iou, None)}
        for j in range(len(record.objects)):
            crowd = bool(record.objects.is_crowd[j])
            if record.objects.category_ids[j] != predictions.category_ids[i] or (j in taken and not crowd):
                continue
            overlap = _slow_overlap(predictions.boxes[i], record.objects.boxes[j], crowd)
            if overlap >= best[crowd][0]:
                best[crowd] = (overlap, j)
        if best[False][1] is not None:
            taken[best[False][1]] = i
            outcome[i] = ("tp", best[False][1], best[False][0])
        elif best[True][1] is not None:
            outcome[i] = ("ignored", best[True][1], best[True][0])
        else:
            outcome[i] = ("fp", None, None)
    return outcome, taken


def _ratio(part, whole):
    return part / whole if whole else np.nan


@pytest.mark.parametrize("seed", range(4))
def test_sweep_equals_a_loop_over_all_cells(samples, seed):
    dataset, predictions = _make(samples, 100 + seed, images=3)
    sweep = _evaluate(dataset, predictions).sweep
    by_image = {p.image_id: p for p in predictions}
    records = list(dataset.records("validation"))
    truths = sum(int((~record.objects.is_crowd).sum()) for record in records)
    np.testing.assert_array_equal(sweep.scores, SWEEP_SCORES)
    np.testing.assert_allclose(sweep.ious, np.arange(50, 100, 5) / 100)
    for t, iou in enumerate(sweep.ious):
        for s, cut in enumerate(sweep.scores):
            results = [_slow_match(r, by_image[r.image_id], iou, cut)[0] for r in records]
            names = [name for result in results for name, _, _ in result.values()]
            tp, fp = names.count("tp"), names.count("fp")
            expected = [_ratio(tp, tp + fp), _ratio(tp, truths), _ratio(2 * tp, tp + fp + truths)]
            got = [sweep.precision[t, s], sweep.recall[t, s], sweep.f1[t, s]]
            np.testing.assert_allclose(got, expected, rtol=1e-12, err_msg=f"IoU {iou}, score {cut}")


@pytest.mark.parametrize("seed", range(4))
def test_matches_and_errors_equal_the_loop(samples, seed):
    dataset, predictions = _make(samples, 200 + seed)
    result = _evaluate(dataset, predictions)
    verdicts = {"tp": Verdict.TP, "fp": Verdict.FP, "ignored": Verdict.IGNORED}
    errors = {name: [0, 0, 0] for name in dataset.categories.names}
    by_image = {p.image_id: p for p in predictions}
    for record in dataset.records("validation"):
        image, given = record.image_id, by_image[record.image_id]
        for cut in (0.0, result.errors.score):
            expected, taken = _slow_match(record, given, 0.5, cut)
            matches = result.matches[image].at_score(cut)
            for i in range(len(given)):
                name, found, overlap = expected.get(i, ("cut", None, None))
                assert matches.verdicts[i] == verdicts.get(name, Verdict.CUT)
                if name in ("tp", "ignored"):
                    assert matches.found[i] == found
                    assert matches.ious[i] == pytest.approx(overlap, abs=1e-12)
                elif name == "fp":
                    assert matches.found[i] == -1
                    assert np.isnan(matches.ious[i])
            for j in range(len(record.objects)):
                missed = Verdict.IGNORED if record.objects.is_crowd[j] else Verdict.FN
                assert matches.object_verdicts[j] == (Verdict.TP if j in taken else missed)
                assert matches.found_by[j] == taken.get(j, -1)
        for i, (name, _, _) in expected.items():
            if name != "ignored":
                errors[dataset.categories.names[given.category_ids[i]]][name == "fp"] += 1
        for j in np.flatnonzero(~record.objects.is_crowd):
            errors[dataset.categories.names[record.objects.category_ids[j]]][2] += j not in taken
        counts = dict(result.errors.ranked_images)[image]
        assert counts.tp == len(taken)
        assert counts.fn == int((~record.objects.is_crowd).sum()) - len(taken)
    assert {name: (c.tp, c.fp, c.fn) for name, c in result.errors.by_class.items()} == {
        name: tuple(c) for name, c in errors.items()
    }
    total = result.errors.total
    assert (total.tp, total.fp, total.fn) == tuple(np.sum(list(errors.values()), axis=0))
    ranked = [c.fp + c.fn for _, c in result.errors.ranked_images]
    assert ranked == sorted(ranked, reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_best_f1_is_the_best_of_all_cuts(samples, seed):
    dataset, predictions = _make(samples, 300 + seed)
    result = _evaluate(dataset, predictions)
    by_image = {p.image_id: p for p in predictions}
    for index, figures in enumerate(result.per_class):
        if figures.truths == 0:
            assert figures.best == OperatingPoint(None, None, None, None)
            continue
        f1 = {}
        for cut in np.unique(np.concatenate([p.scores for p in predictions])):
            tp = fp = 0
            for record in dataset.records("validation"):
                given = by_image[record.image_id]
                for i, (name, _, _) in _slow_match(record, given, 0.5, cut)[0].items():
                    own = given.category_ids[i] == index
                    tp, fp = tp + (own and name == "tp"), fp + (own and name == "fp")
            f1[float(cut)] = 2 * tp / (tp + fp + figures.truths)
        assert figures.best.f1 == pytest.approx(max(f1.values()), abs=1e-12)
        assert f1[figures.best.score] == pytest.approx(figures.best.f1, abs=1e-12)


def test_truth_as_predictions_is_perfect(samples):
    dataset, _ = _make(samples, 1)
    perfect = samples.truth_as_predictions(dataset, "validation", "oracle")
    result = _evaluate(dataset, perfect, "oracle")
    for name in ("AP", "AP50", "AP75", "AR100"):
        assert result.figures[name] == 1.0
    assert result.best.f1 == 1.0 and result.best.score == 1.0
    assert (result.errors.total.fp, result.errors.total.fn) == (0, 0)
    np.testing.assert_array_equal(result.sweep.f1, 1.0)


def test_no_detections_at_all(samples):
    dataset, predictions = _make(samples, 2)
    nothing = [Predictions(p.image_id, [], [], [], "run") for p in predictions]
    result = _evaluate(dataset, nothing)
    assert result.figures["AP"] == 0.0 and result.figures["AR100"] == 0.0
    assert result.best.score is None and result.best.f1 == 0.0
    assert np.isnan(result.sweep.precision).all() and (result.sweep.recall == 0).all()
    assert result.errors.total.tp == result.errors.total.fp == 0 < result.errors.total.fn
    content = json.loads(json.dumps(report_json(result), allow_nan=False))
    assert content["sweep"]["precision"][0][0] is None


def test_no_objects_at_all(samples):
    records = [samples.record(name, no_objects()) for name in "ab"]
    dataset = samples.dataset({"validation": records})
    predictions = [Predictions("a", [[0, 0, 9, 9]], [0.5], [1], "run"), Predictions("b", [], [], [], "run")]
    result = _evaluate(dataset, predictions)
    assert set(result.figures.values()) == {None}
    assert (result.errors.total.fp, result.best.f1) == (1, None)
    assert np.isnan(result.sweep.recall).all() and result.sweep.precision[0, 0] == 0
    json.dumps(report_json(result), allow_nan=False)


def test_beyond_a_hundred_detections_of_a_class_are_ignored(samples):
    objects = Objects([[0, 0, 40, 40]], [0])
    dataset = samples.dataset({"validation": [samples.record("a", objects)]})
    boxes = np.tile([50.0, 10, 60, 20], (130, 1))
    boxes[129] = [0, 0, 40, 40]  # Right, but the last by score.
    predictions = [Predictions("a", boxes, np.linspace(1, 0, 130), np.zeros(130), "run")]
    result = _evaluate(dataset, predictions)
    assert result.figures["AR100"] == 0.0
    matches = result.matches["a"]
    assert matches.count(Verdict.FP) == 100 and (matches.verdicts[100:] == Verdict.IGNORED).all()
    assert matches.object_verdicts.tolist() == [Verdict.FN]


def test_detections_that_do_not_count_are_no_operating_point(samples):
    objects = Objects([[0, 0, 40, 40], [50, 0, 60, 9]], [0, 0], is_crowd=np.array([True, False]))
    dataset = samples.dataset({"validation": [samples.record("a", objects)]})
    result = _evaluate(dataset, [Predictions("a", [[5, 5, 9, 9]], [0.9], [0], "run")])
    assert result.best == OperatingPoint(None, None, 0.0, 0.0)
    assert result.matches["a"].verdicts.tolist() == [Verdict.IGNORED]
    assert result.matches["a"].ious.tolist() == [1.0]  # All of the detection lies in the region.


def test_a_score_on_the_cut_passes_it(samples):
    """0.35 as float32 is less than 0.35 as float64."""
    dataset = samples.dataset({"validation": [samples.record("a", Objects([[0, 0, 40, 40]], [0]))]})
    result = _evaluate(dataset, [Predictions("a", [[0, 0, 40, 40]], [0.35], [0], "run")])
    passed = result.sweep.scores[result.sweep.recall[0] == 1]
    assert passed.max() == pytest.approx(0.35)
    assert result.matches["a"].at_score(0.35).count(Verdict.TP) == 1


def test_recall_by_change(samples):
    changes = [Change.MOVED, Change.MOVED, Change.APPEARED, Change.VANISHED, Change.MOVED]
    boxes = [[8 * i, 0, 8 * i + 8, 8] for i in range(5)]
    objects = Objects(boxes, [0] * 5, is_crowd=np.array([0, 0, 0, 0, 1]), changes=changes)
    dataset = samples.dataset({"validation": [samples.pair("p", objects)]}, kind="pairs")
    predictions = [Predictions("p", [boxes[0], boxes[3]], [0.9, 0.8], [0, 0], "run")]
    result = _evaluate(dataset, predictions)
    assert result.errors.by_change == {"moved": (1, 2), "appeared": (0, 1), "vanished": (1, 1)}
    assert report_json(result)["errors"]["by_change"]["moved"] == {"found": 1, "objects": 2, "recall": 0.5}


def test_report_json_says_what_was_compared(samples):
    dataset, predictions = _make(samples, 3)
    content = report_json(_evaluate(dataset, predictions))
    assert content["compared"]["dataset"]["fingerprint"] == dataset.fingerprint
    assert content["compared"]["predictions"]["run_id"] == "run"
    assert set(FIGURES) <= set(content)
    assert [entry["name"] for entry in content["per_class"]] == list(dataset.categories.names)
    assert np.shape(content["sweep"]["f1"]) == (10, 20)
    json.dumps(content, allow_nan=False)


def test_report_json_has_what_figures_are_argued_from(samples):
    dataset, predictions = _make(samples, 3)
    result = _evaluate(dataset, predictions)
    content = json.loads(json.dumps(report_json(result), allow_nan=False))
    for name, (low, high) in result.intervals.items():
        assert content["intervals"][name] == [low, high] and low <= high
    assert content["warnings"] == list(result.warnings) and "8 images only" in content["warnings"][-1]
    types = content["error_types"]["types"]
    assert {name: entry["count"] for name, entry in types.items()} == result.error_types.counts
    assert {name: entry["AP50_cost"] for name, entry in types.items()} == result.error_types.cost
    wrong = sum(entry["count"] for name, entry in types.items() if name != "missed")
    assert wrong == content["errors"]["fp"]
    costliest = content["error_types"]["costliest_images"]
    assert costliest[0] == {"image_id": result.error_types.ranked[0][0], "AP50_cost": result.error_types.ranked[0][1]}
    cells = content["confusion"]["cells"]
    right = sum(cell["count"] for cell in cells if cell["object"] == cell["detected_as"])
    missed = sum(cell["count"] for cell in cells if cell["detected_as"] == "background")
    objects = sum(cell["count"] for cell in cells if cell["object"] != "background")
    assert right == content["errors"]["tp"] and objects == content["compared"]["dataset"]["objects"]
    assert missed <= content["errors"]["fn"]
    assert sum(content["calibration"]["counts"]) == (~result.matching.ignored[0]).sum()
    sizes = content["breakdown"]["by_size"]
    assert [part["name"] for part in sizes] == ["small", "medium", "large"]
    assert sum(part["tp"] for part in sizes) == content["errors"]["tp"]
    for entry, figures in zip(content["per_class"], result.per_class, strict=True):
        if figures.truths:
            assert np.mean(entry["precision"]["0.50"]) == pytest.approx(entry["AP50"])
            assert np.shape(entry["sweep"]["recall"]) == (10, 20)


def test_lines_for_a_terminal(samples):
    dataset, predictions = _make(samples, 3)
    result = _evaluate(dataset, predictions)
    lines = list(evaluation_lines(result))
    low, high = result.intervals["AP50"]
    assert lines[1].split()[1] == f"{result.figures['AP50']:.3f}"
    assert any(f"AP50 {low:.3f} to {high:.3f}" in line for line in lines)
    total = result.errors.total
    assert any(f"{total.tp} right, {total.fp} wrong, {total.fn} missed" in line for line in lines)
    costliest = max(result.error_types.cost, key=result.error_types.cost.get)
    assert any(line.startswith(f"  AP50 lost to {costliest} ") for line in lines)
    assert lines[-1].startswith("  careful: ") and len(lines) <= 10
    nothing = _evaluate(dataset, [Predictions(p.image_id, [], [], [], "run") for p in predictions])
    assert "  careful: Nothing was detected." in list(evaluation_lines(nothing))


def test_what_does_not_belong_together_is_refused(samples):
    dataset, predictions = _make(samples, 4)
    collected = collect_predictions(predictions, run_id="run", dataset=dataset, split="validation")
    with pytest.raises(UsageError, match="has no split 'test'"):
        evaluate(dataset, collected, "test")
    with pytest.raises(UsageError, match="of the split 'test', not 'validation'"):
        evaluate(dataset, replace(collected, split="test"), "validation")
    with pytest.raises(UsageError, match="fingerprint other"):
        evaluate(dataset, replace(collected, fingerprint="other"), "validation")
    fewer = {image: p for image, p in collected.by_image.items() if image != "image 3"}
    with pytest.raises(DataRefusedError, match=r"lack 1 images.*'image 3'"):
        evaluate(dataset, replace(collected, by_image=fewer), "validation")
    more = {**collected.by_image, "stranger": predictions[0]}
    with pytest.raises(DataRefusedError, match=r"have 1 images.*'stranger'"):
        evaluate(dataset, replace(collected, by_image=more), "validation")


def test_overlaps_agree_with_ours(samples):
    """The stored overlaps, which come from pycocotools, are those of `pairwise_iou`."""
    dataset, predictions = _make(samples, 5)
    result = _evaluate(dataset, predictions)
    by_image = {p.image_id: p for p in predictions}
    checked = 0
    for image, matches in result.matches.items():
        ious = pairwise_iou(by_image[image].boxes, result.truths[image].objects.boxes)
        for i in np.flatnonzero(matches.verdicts == Verdict.TP):
            assert matches.ious[i] == pytest.approx(ious[i, matches.found[i]], abs=1e-12)
            checked += 1
    assert checked > 5
