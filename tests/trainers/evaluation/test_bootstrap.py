"""Resampled figures against evaluating the resample itself, by pycocotools."""

from dataclasses import replace

import numpy as np
import pytest

from tests.trainers import made_matches
from trainers.evaluation import bootstrap
from trainers.evaluation.bootstrap import (
    draw_weights,
    intervals,
    resampled_classes,
    resampled_counts,
    resampled_precision,
)
from trainers.evaluation.matching import Verdict, match

CLASSES = 2


def _resample(records, predictions, weights):
    """Each image as often as it was drawn, under names of their own."""
    drawn, found = [], {}
    for record, times in zip(records, weights.tolist(), strict=True):
        for copy in range(times):
            name = f"{record.image_id}/{copy}"
            drawn.append(replace(record, image_id=name))
            found[name] = replace(predictions[record.image_id], image_id=name)
    return drawn, found


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_as_good_as_copies_of_images(monkeypatch, seed):
    # Where scores are equal, copies stand in another order than weights: scores of their own here.
    records, predictions = made_matches.make(seed, images=10, classes=CLASSES, grid=0)
    matching = match(records, predictions, CLASSES)
    weights = draw_weights(len(records), 4, seed)
    assert (weights.sum(axis=0) == len(records)).all()
    if seed % 2:
        monkeypatch.setattr(bootstrap, "_CELLS", 50)
    figures, of_class = resampled_precision(matching, weights), resampled_classes(matching, weights)
    counts = resampled_counts(matching, weights, 0.4)
    for r in range(weights.shape[1]):
        drawn = _resample(records, predictions, weights[:, r])
        theirs = made_matches.pycocotools(*drawn, CLASSES)
        for name, value in zip(("AP", "AP50", "AP75"), theirs.stats, strict=False):
            # A copy's detection counts before its twin does, which moves precision between two equal scores.
            assert figures[name][r] == pytest.approx(value, abs=0.02)
        assert np.isnan(of_class[0, :, r]).tolist() == (theirs.eval["precision"][0, 0, :, 0, 2] < 0).tolist()
        results = [result.at_score(0.4) for result in match(*drawn, CLASSES).by_image().values()]
        tp, fp, fn = (sum(x.count(v) for x in results) for v in (Verdict.TP, Verdict.FP, Verdict.FN))
        assert counts["precision"][r] == pytest.approx(tp / (tp + fp))
        assert counts["recall"][r] == pytest.approx(tp / (tp + fn))
        assert counts["f1"][r] == pytest.approx(2 * tp / (2 * tp + fp + fn))


@pytest.mark.parametrize("seed", range(6))
def test_weights_of_one_and_none_give_the_figures_themselves(seed):
    records, predictions = made_matches.make(seed, images=9, classes=CLASSES)
    matching = match(records, predictions, CLASSES)
    weights = np.ones((9, 2), np.int32)
    weights[5:, 1] = 0
    found = resampled_precision(matching, weights)
    fewer = match(records[:5], predictions, CLASSES)
    for name in ("AP", "AP50", "AP75"):
        assert found[name][0] == pytest.approx(matching.figures[name], abs=1e-12)
        assert found[name][1] == pytest.approx(fewer.figures[name], abs=1e-12)


def test_intervals_hold_the_figure_and_narrow_with_more_images():
    widths = []
    for images in (20, 320):
        records, predictions = made_matches.make(1, images=images, classes=CLASSES, grid=0)
        matching = match(records, predictions, CLASSES)
        found = intervals(matching, 0.4)
        assert found == intervals(matching, 0.4) != intervals(matching, 0.4, seed=1)
        for name in ("AP", "AP50", "AP75"):
            assert found[name][0] < matching.figures[name] < found[name][1]
        widths.append(found["AP50"][1] - found["AP50"][0])
    assert 1 / 8 < widths[1] / widths[0] < 1 / 2, "a sixteenth of the variance is a quarter of the width"


def test_what_is_not_defined_has_no_interval():
    records, _ = made_matches.make(2, images=9, classes=CLASSES)
    nothing = {record.image_id: made_matches.Predictions(record.image_id, [], [], [], "run") for record in records}
    found = intervals(match(records, nothing, CLASSES), 0.0)
    assert found["AP"] == (0.0, 0.0) and "precision" not in found
    assert intervals(match([], {}, CLASSES), 0.0) == {}
