"""Each preset against the tool itself, run plainly, or where it is not installed against its documented method."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dataflow.boxes import xyxy_to_fiftyone
from dataflow.records import Objects, no_objects
from trainers.evaluation.convention_figures import ConventionFigures
from trainers.evaluation.conventions import FIGURES, PRESETS, Convention, Most
from trainers.evaluation.matching import match

SIZE = (192, 256)


def _sets(samples, seed, *, images=6, n=30, grid=True):
    """Records and detections; off the grid, equal overlaps do not happen."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(images):
        objects = samples.objects(rng, int(rng.integers(1, 8)), SIZE) if i else no_objects()
        areas = objects.areas * rng.uniform(0.3, 1.0, len(objects)).astype(np.float32)
        boxes = objects.boxes + (0 if grid else rng.uniform(-0.9, 0.9, (len(objects), 4)).clip(-objects.boxes))
        objects = replace(objects, areas=areas, boxes=np.clip(boxes, 0, (256, 192, 256, 192)).astype(np.float32))
        records.append(samples.record(f"image {i}", objects, SIZE))
    found = {r.image_id: samples.detections(rng, r, "run", n=int(rng.integers(0, n))) for r in records}
    if not grid:
        moved = {i: p.boxes + rng.uniform(-0.9, 0.9, p.boxes.shape).astype(np.float32) for i, p in found.items()}
        found = {i: replace(p, boxes=_ordered(moved[i])) for i, p in found.items()}
    return records, found


def _ordered(boxes):
    low = np.minimum(boxes[:, :2], boxes[:, 2:] - 1)
    return np.concatenate([low, boxes[:, 2:]], axis=1)


def _close(got, wanted, tolerance):
    for name, value in wanted.items():
        known = -1.0 if got[name] is None else got[name]
        assert known == pytest.approx(-1.0 if value is None else value, abs=tolerance), name


@pytest.mark.parametrize("seed", range(6))
def test_pycocotools(samples, seed):
    records, found = _sets(samples, seed, n=200 if seed == 5 else 30)
    got = ConventionFigures(records, found, 3).figures(PRESETS["pycocotools"], FIGURES)
    wanted = match(records, found, 3).figures
    _close(got, {name: wanted[name] for name in FIGURES}, 1e-9)


TORCHMETRICS = dict(zip(FIGURES, ("map", "map_50", "map_75", "map_small", "map_medium", "map_large"), strict=True))


@pytest.mark.parametrize(
    ("given", "average", "convention"),
    [
        ((), "macro", PRESETS["torchmetrics"]),
        (("iscrowd", "area"), "macro", Convention(thresholds="single")),
        (("iscrowd",), "micro", Convention(thresholds="single", classes="as one", areas="of boxes")),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_torchmetrics(samples, seed, given, average, convention):
    from torchmetrics.detection import MeanAveragePrecision

    records, found = _sets(samples, seed)
    metric = MeanAveragePrecision(average=average)
    for record in records:
        p, o = found[record.image_id], record.objects
        target = {"boxes": o.boxes, "labels": o.category_ids}
        target |= {k: v for k, v in (("iscrowd", o.is_crowd.astype(int)), ("area", o.areas)) if k in given}
        metric.update(
            [{k: torch.tensor(v) for k, v in (("boxes", p.boxes), ("scores", p.scores), ("labels", p.category_ids))}],
            [{k: torch.tensor(v) for k, v in target.items()}],
        )
    result = metric.compute()
    got = ConventionFigures(records, found, 3).figures(convention, FIGURES)
    _close(got, {name: result[key].item() for name, key in TORCHMETRICS.items()}, 1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_fiftyone(samples, seed):
    """Off the grid: among equal overlaps FiftyOne takes what its index of boxes gives last, which is no rule."""
    import fiftyone as fo

    records, found = _sets(samples, seed, grid=False)
    # Crowd regions apart from objects: FiftyOne stops at the first crowd its index of boxes happens to give.
    records = [replace(r, objects=_crowd_apart(r.objects)) for r in records]
    dataset = fo.Dataset(f"conventions-{seed}")
    try:
        for record in records:
            p, o = found[record.image_id], record.objects
            truth = [
                fo.Detection(label=str(c), bounding_box=b.tolist(), iscrowd=int(crowd))
                for c, b, crowd in zip(o.category_ids, xyxy_to_fiftyone(o.boxes, SIZE), o.is_crowd, strict=True)
            ]
            detected = [
                fo.Detection(label=str(c), bounding_box=b.tolist(), confidence=float(s))
                for c, b, s in zip(p.category_ids, xyxy_to_fiftyone(p.boxes, SIZE), p.scores, strict=True)
            ]
            sample = fo.Sample(filepath=f"/{record.image_id}.jpg")
            sample["truth"], sample["found"] = fo.Detections(detections=truth), fo.Detections(detections=detected)
            dataset.add_sample(sample)
        results = dataset.evaluate_detections("found", gt_field="truth", compute_mAP=True, progress=False)
        got = ConventionFigures(records, found, 3).figures(PRESETS["fiftyone"], ("AP", "AP50"))
        at_half = results.precision[0].mean(axis=1)
        _close(got, {"AP": results.mAP(), "AP50": at_half[at_half > -1].mean()}, 1e-6)
    finally:
        dataset.delete()


def _crowd_apart(objects: Objects) -> Objects:
    """Without the crowd regions that touch another object of their class."""
    keep = np.ones(len(objects), np.bool_)
    for i in np.flatnonzero(objects.is_crowd):
        a, others = objects.boxes[i], np.delete(objects.boxes, i, axis=0)
        same = np.delete(objects.category_ids, i) == objects.category_ids[i]
        keep[i] = not (same & (others[:, :2] <= a[2:]).all(axis=1) & (others[:, 2:] >= a[:2]).all(axis=1)).any()
    return objects.only(keep)


def _iou(a, b, add=0.0):
    width = min(a[2], b[2]) - max(a[0], b[0]) + add
    height = min(a[3], b[3]) - max(a[1], b[1]) + add
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(c[2] - c[0] + add) * (c[3] - c[1] + add) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def _by_best_object(records, found, category, threshold, *, drop_crowd, add, least=0.0, most=10**9):
    """[(score, right)] of detections that look at their best object alone, best score first; and how many objects.

    As both describe it: VOC's development kit ("assign detection as true positive, don't care or false positive": the
    object of largest overlap decides), and Ultralytics' validator (pairs of detection and object by falling overlap,
    one object a detection, then one detection an object).
    """
    outcomes, total = [], 0
    for record in records:
        o, p = record.objects, found[record.image_id]
        there = [j for j in range(len(o)) if o.category_ids[j] == category and not (drop_crowd and o.is_crowd[j])]
        total += sum(not o.is_crowd[j] for j in there)
        taken = set()
        for d in np.argsort(-p.scores, kind="stable")[:most].tolist():
            if p.category_ids[d] != category or p.scores[d] < np.float32(least):
                continue
            overlaps = [_iou(p.boxes[d].astype(float), o.boxes[j].astype(float), add) for j in there]
            best = there[int(np.argmax(overlaps))] if there else None
            if best is None or max(overlaps) < threshold:
                outcomes.append((p.scores[d], False))
            elif not o.is_crowd[best]:
                outcomes.append((p.scores[d], best not in taken))
                taken.add(best)
    return sorted(outcomes, key=lambda item: -item[0]), total


def _curve(outcomes, total):
    right = np.cumsum([r for _, r in outcomes])
    return right / total, right / np.arange(1, len(outcomes) + 1)


@pytest.mark.parametrize("seed", range(4))
def test_ultralytics_by_its_method(samples, seed):
    """Not installed here: re-derived from how its validator is documented, with loops and integration by hand."""
    records, found = _sets(samples, seed, grid=False, n=400 if seed == 3 else 30)
    areas = {}
    for threshold in np.linspace(0.5, 0.95, 10):
        for category in range(3):
            outcomes, total = _by_best_object(
                records, found, category, threshold, drop_crowd=True, add=0.0, least=0.001, most=300
            )
            if total:
                recall, precision = _curve(outcomes, total)
                points = np.array([[0, 1], *zip(recall, precision, strict=True), [1, 0]], float)
                points[:, 1] = [points[i:, 1].max() for i in range(len(points))]
                y = np.interp(np.linspace(0, 1, 101), points[:, 0], points[:, 1])
                areas[threshold, category] = float((y[1:] + y[:-1]).sum() / 200)
    got = ConventionFigures(records, found, 3).figures(PRESETS["ultralytics"], ("AP", "AP50"))
    half = [area for (threshold, _), area in areas.items() if threshold == 0.5]
    _close(got, {"AP": np.mean(list(areas.values())), "AP50": np.mean(half)}, 1e-9)


@pytest.mark.parametrize("interpolation", ["continuous", "11 points"])
def test_voc_by_its_method(samples, interpolation):
    """Everingham et al. 2010, sections 3.4.1 and 4.2: boxes include their last pixel, `difficult` is ignored."""
    records, found = _sets(samples, 7, grid=False)
    areas = []
    for category in range(3):
        outcomes, total = _by_best_object(records, found, category, 0.5, drop_crowd=False, add=1.0)
        if total:
            recall, precision = _curve(outcomes, total)
            if interpolation == "11 points":
                areas.append(np.mean([max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 11)]))
            else:
                steps = np.unique(recall)
                areas.append(
                    sum((b - a) * precision[recall >= b].max() for a, b in zip([0, *steps[:-1]], steps, strict=True))
                )
    got = ConventionFigures(records, found, 3).figures(replace(PRESETS["voc"], interpolation=interpolation), ("AP50",))
    _close(got, {"AP50": np.mean(areas)}, 1e-9)


def test_each_answer_by_itself(samples):
    """One image, one class, by hand: two objects found, one of them twice, and a crowd region detected once."""
    boxes = [[0, 0, 40, 40], [60, 0, 100, 40], [120, 0, 160, 40]]
    record = samples.record("a", Objects(boxes, [1, 1, 1], is_crowd=[False, False, True]), SIZE)
    detections = samples.detections(np.random.default_rng(0), record, "run", n=0)
    detections = replace(
        detections,
        boxes=[boxes[0], boxes[2], boxes[0], boxes[1]],
        scores=[0.9, 0.8, 0.7, 0.6],
        category_ids=[1, 1, 1, 1],
    )
    figures = ConventionFigures([record], {"a": detections}, 3)

    def half(**changes):
        return figures.figures(replace(Convention(), **changes), ("AP50",))["AP50"]

    at_101 = (51 + 50 * 2 / 3) / 101  # Precision 1 to recall 0.5, then 2/3: found, twice, found.
    assert half() == pytest.approx(at_101)
    assert half(crowd="objects") == pytest.approx((67 + 34 * 3 / 4) / 101)
    assert half(crowd="left out") == pytest.approx((51 + 50 * 2 / 4) / 101)
    assert half(max_detections=Most(2, "image and class")) == pytest.approx(51 / 101)
    assert half(score_cut=0.6) == pytest.approx(at_101)
    assert half(score_cut=0.65) == pytest.approx(51 / 101)
    assert half(interpolation="continuous") == pytest.approx((1 + 2 / 3) / 2)
    assert half(interpolation="11 points") == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert half(classes="mean, absent as 0") == pytest.approx(at_101 / 3)
    assert half(ids="classes one up") == half(ids="classes one down") == 0.0
    # The first object's match does not count, nor may another detection have it: wrong, wrong, right.
    assert half(ids="first object lost") == pytest.approx(51 / 3 / 101)


def test_boxes_are_made_whole_as_the_convention_says(samples):
    """The overlap is 0.5 only where corners are rounded."""
    record = samples.record("a", Objects([[10, 10, 20, 20]], [0]), SIZE)
    detections = samples.detections(np.random.default_rng(0), record, "run", n=0)
    detections = replace(detections, boxes=[[9.6, 9.6, 20.4, 29.6]], scores=[0.5], category_ids=[0])
    figures = ConventionFigures([record], {"a": detections}, 1)
    got = {b: figures.figures(Convention(boxes=b), ("AP50",))["AP50"] for b in ("exact", "detections rounded")}
    assert got == {"exact": 0.0, "detections rounded": 1.0}


def test_nothing_there_is_none(samples):
    records, found = _sets(samples, 0, images=1)
    assert set(ConventionFigures(records, found, 3).figures(Convention(), FIGURES).values()) == {None}
