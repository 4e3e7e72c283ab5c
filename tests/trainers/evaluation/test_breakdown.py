"""Parts, confusion, calibration, sweeps and doubts about scores against counting by hand."""

from dataclasses import replace

import numpy as np
import pytest

from dataflow.records import Change, ImageRecord, Objects, Predictions
from tests.trainers import made_matches
from trainers.evaluation.breakdown import break_down
from trainers.evaluation.confusion import confuse
from trainers.evaluation.curves import best_points, calibrate, tally
from trainers.evaluation.matching import Verdict, match
from trainers.evaluation.score_checks import warnings

NAMES = ("cat", "dog", "cow")
SCORE = 0.3


def _matched(seed, **options):
    records, predictions = made_matches.make(seed, images=9, **options)
    return records, predictions, match(records, predictions, 3)


def _only(records, predictions, wanted):
    """The same evaluation of some of the images alone."""
    return match([record for record in records if record.image_id in wanted], predictions, 3)


@pytest.mark.parametrize("seed", range(4))
def test_scenes_are_evaluated_as_if_alone(seed):
    records, predictions, matching = _matched(seed)
    by_id = {record.image_id: record for record in records}
    parts = break_down(matching, by_id, {}, SCORE).by_scene
    assert [part.name for part in parts] == ["scene 0", "scene 1", "scene 2"]
    for part in parts:
        images = [record.image_id for record in records if record.group_id == part.name]
        alone = _only(records, predictions, images)
        counts = [result.at_score(SCORE) for result in alone.by_image().values()]
        assert part.images == len(images)
        for name, verdict in (("tp", Verdict.TP), ("fp", Verdict.FP), ("fn", Verdict.FN)):
            assert getattr(part, name) == sum(result.count(verdict) for result in counts), name
        assert part.ap50 == pytest.approx(alone.figures["AP50"], abs=1e-12)


def test_alignment_is_cut_into_ranges():
    records, predictions, matching = _matched(1)
    by_id = {record.image_id: record for record in records}
    alignment = dict(zip(by_id, (0.65, 0.95, 1.0, 0.99, 0.7, 0.6), strict=False))
    parts = break_down(matching, by_id, alignment, SCORE).by_alignment
    assert {part.name: part.images for part in parts} == {"0.6 to 0.7": 2, "0.7 to 0.8": 1, "0.95 to 1": 3}
    best = _only(records, predictions, [image for image, score in alignment.items() if score >= 0.95])
    assert parts[-1].ap50 == pytest.approx(best.figures["AP50"], abs=1e-12)
    assert break_down(matching, by_id, {}, SCORE).by_alignment == ()


def test_sizes_are_those_of_coco():
    records, _, matching = _matched(2)
    parts = break_down(matching, {record.image_id: record for record in records}, {}, SCORE).by_size
    results = [result.at_score(SCORE) for result in matching.by_image().values()]
    assert sum(part.tp for part in parts) == sum(result.count(Verdict.TP) for result in results)
    assert sum(part.fp for part in parts) == sum(result.count(Verdict.FP) for result in results)
    assert sum(part.fn for part in parts) == sum(result.count(Verdict.FN) for result in results)
    areas = np.concatenate([record.objects.areas[~record.objects.is_crowd] for record in records])
    assert parts[0].tp + parts[0].fn == (areas <= 32**2).sum()
    assert parts[2].tp + parts[2].fn == (areas > 96**2).sum()
    assert parts[0].precision == parts[0].tp / (parts[0].tp + parts[0].fp)
    assert parts[0].recall == parts[0].tp / (parts[0].tp + parts[0].fn)


def test_changes_have_a_recall_and_no_precision():
    changes = [Change.MOVED, Change.MOVED, Change.VANISHED]
    objects = Objects([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], [0] * 3, changes=changes)
    record = ImageRecord("a", b"", 99, 99, objects, "s", "tests")
    matching = match([record], {"a": Predictions("a", [[0, 0, 9, 9]], [0.9], [0], "run")}, 1)
    parts = break_down(matching, {"a": record}, {}, 0.0)
    assert [(part.name, part.tp, part.fn) for part in parts.by_change] == [("moved", 1, 1), ("vanished", 0, 1)]
    assert parts.by_change[0].recall == 0.5 and parts.by_change[0].precision is None
    assert parts.by_scene == ()


@pytest.mark.parametrize("seed", range(4))
def test_confusion_adds_up(seed):
    records, _, matching = _matched(seed)
    found = confuse(matching, NAMES, SCORE)
    counts = found.counts
    assert found.names == (*NAMES, "background") and counts.shape == (4, 4) and counts[3, 3] == 0
    np.testing.assert_array_equal(counts[:3].sum(axis=1), matching.truths)
    kept = (matching.scores >= np.float32(SCORE)) & ~matching.ignored[0]
    np.testing.assert_array_equal(
        counts[:, :3].sum(axis=0), np.bincount(matching.detections.category[kept], minlength=3)
    )
    right = matching.right[0] & kept
    np.testing.assert_array_equal(np.diag(counts)[:3], np.bincount(matching.detections.category[right], minlength=3))
    # Without what was taken for another class there is nothing off the diagonal.
    one_class = [replace(r, objects=replace(r.objects, category_ids=np.zeros(len(r.objects)))) for r in records]
    alone = match(one_class, {i: Predictions(i, [], [], [], "run") for i in matching.image_ids}, 3)
    nothing = confuse(alone, NAMES, 0.0).counts
    assert nothing[0, 3] == alone.truths[0] == nothing.sum()


def test_confusion_by_hand():
    objects = Objects([[0, 0, 20, 20], [50, 0, 70, 20]], [0, 1])
    record = ImageRecord("a", b"", 99, 99, objects, "s", "tests")
    boxes = [[0, 0, 20, 20], [50, 0, 70, 20], [50, 0, 70, 19], [0, 50, 20, 70]]
    matching = match([record], {"a": Predictions("a", boxes, [0.9, 0.5, 0.8, 0.7], [0, 2, 0, 2], "run")}, 3)
    assert confuse(matching, NAMES, 0.0).counts.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [0, 0, 2, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_tally_of_a_class_is_a_count(seed):
    _, _, matching = _matched(seed)
    counted = tally(matching)
    for t, s, k in [(0, 0, 0), (3, 7, 1), (9, 19, 2), (5, 10, 2), (0, 3, 1)]:
        kept = (matching.scores >= np.float32(counted.scores[s])) & (matching.detections.category == k)
        assert counted.tp[t, s, k] == (matching.right[t] & kept).sum()
        assert counted.fp[t, s, k] == (matching.wrong[t] & kept).sum()
        one = counted.of_class(k)
        expected = 2 * counted.tp[t, s, k] / (kept & ~matching.ignored[t]).sum().clip(1)
        assert one.precision[t, s] == pytest.approx(expected / 2, nan_ok=True) or np.isnan(one.precision[t, s])
        assert one.recall[t, s] == pytest.approx(counted.tp[t, s, k] / matching.truths[k])


def test_calibration_is_the_gap_between_score_and_precision():
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(4)]
    record = ImageRecord("a", b"", 99, 999, Objects(boxes[:2], [0, 0]), "s", "tests")
    matching = match([record], {"a": Predictions("a", boxes, [0.92, 0.91, 0.94, 0.31], [0] * 4, "run")}, 1)
    found = calibrate(matching)
    assert found.counts.sum() == 4 and found.counts[18] == 3 and found.counts[6] == 1
    assert found.precision[18] == pytest.approx(2 / 3) and found.precision[6] == 0
    assert found.scores[18] == pytest.approx((0.92 + 0.91 + 0.94) / 3)
    assert found.error == pytest.approx((3 * abs(2 / 3 - 0.92333) + 0.31) / 4, abs=1e-4)
    assert calibrate(match([record], {"a": Predictions("a", [], [], [], "run")}, 1)).error is None


def test_best_points_of_classes_are_those_of_each_alone():
    records, predictions, matching = _matched(4)
    _, each = best_points(matching)
    for k, point in enumerate(each):
        own, alone = {}, []
        for record in records:
            item, kept = predictions[record.image_id], record.objects.only(record.objects.category_ids == k)
            mine = item.category_ids == k
            own[item.image_id] = Predictions(
                item.image_id, item.boxes[mine], item.scores[mine], [0] * mine.sum(), "run"
            )
            alone.append(replace(record, objects=replace(kept, category_ids=np.zeros(len(kept)))))
        assert best_points(match(alone, own, 1))[0] == point


def _scored(scores, n_images=40, classes=1):
    """Detections with these scores, dealt out to images; the first half is right."""
    objects = Objects([[0, 0, 10, 10]], [0])
    records = [ImageRecord(f"{i:03d}", b"", 99, 99, objects, "s", "tests") for i in range(n_images)]
    dealt = [np.asarray(scores)[i::n_images] for i in range(n_images)]
    predictions = {
        r.image_id: Predictions(r.image_id, [[0, 0, 10, 10]] * len(s), s, [0] * len(s), "run")
        for r, s in zip(records, dealt, strict=True)
    }
    return warnings(match(records, predictions, classes), NAMES[:classes])


def test_scores_that_were_cut_are_noticed():
    rng = np.random.default_rng(0)
    whole = rng.beta(0.5, 3, 2000)
    assert _scored(whole) == ()
    (sentence,) = _scored(whole[whole > 0.25])
    assert "No detection scores below 0.25" in sentence and "predict without a threshold" in sentence
    assert _scored(rng.beta(9, 2, 300)) == (), "few detections near the lowest: a slope, no cliff"


def test_what_else_is_said_of_scores():
    assert _scored([]) == ("Nothing was detected.",)
    assert "same score" in _scored(np.ones(50))[0]
    assert "look at the intervals" in _scored(np.linspace(0, 1, 300), n_images=10)[0]
    beyond = _scored(np.linspace(0, 1, 110 * 40))
    assert beyond == ("400 detections in 40 images are beyond the 100 of a class that count.",)
    record = ImageRecord("a", b"", 99, 99, Objects([[0, 0, 9, 9]], [0]), "s", "tests")
    strange = match([record], {"a": Predictions("a", [[0, 0, 9, 9]], [0.01], [2], "run")}, 3)
    assert "1 detections are of classes of which the split has no objects" in warnings(strange, NAMES)[-1]
