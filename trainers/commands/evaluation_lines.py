"""An evaluation in a few lines, for a terminal."""

from collections.abc import Iterator, Mapping

from tfds_builders.pages.markup import plural
from trainers.evaluation.error_types import Cause, ErrorAnalysis
from trainers.evaluation.evaluation import Evaluation

_COSTLIEST = 3
_CAUSES: Mapping[Cause, str] = {
    "camera-motion": "the camera moved",
    "illumination": "the light changed",
    "unmoved": "both frames show the same",
}


def evaluation_lines(evaluation: Evaluation) -> Iterator[str]:
    """Figures and how sure they are, what is found and missed, what errors cost most, and what to be careful of."""
    yield from _figure_lines(evaluation.figures)
    known = {name: interval for name, interval in evaluation.intervals.items() if name in evaluation.figures}
    if known:
        ranges = ", ".join(f"{name} {low:.3f} to {high:.3f}" for name, (low, high) in known.items())
        yield f"  95 % intervals over images: {ranges}"
    total, best = evaluation.errors.total, evaluation.best
    if best.score is not None:
        yield (
            f"  from score {best.score:.2f} on, where F1 is best ({best.f1:.3f}): "
            f"{total.tp:,} right, {total.fp:,} wrong, {total.fn:,} missed"
        )
    yield from _error_lines(evaluation.error_types)
    for sentence in evaluation.warnings:
        yield f"  careful: {sentence}"


def _figure_lines(figures: Mapping[str, float | None]) -> Iterator[str]:
    """COCO's twelve figures as a table of two lines a group; a dash where there are no such objects."""
    for names in (("AP", "AP50", "AP75", "APs", "APm", "APl"), ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")):
        yield "  " + "".join(f"{name:>8}" for name in names)
        values = (figures[name] for name in names)
        yield "  " + "".join(f"{'-' if value is None else format(value, '.3f'):>8}" for value in values)


def _error_lines(analysis: ErrorAnalysis) -> Iterator[str]:
    """The types of errors that cost most, the image that costs most, and what false alarms are suspected to be."""
    costly = sorted((item for item in analysis.cost.items() if item[1] > 0), key=lambda item: -item[1])[:_COSTLIEST]
    if costly:
        yield "  AP50 lost to " + ", ".join(f"{name} {cost:.3f}" for name, cost in costly)
    if analysis.ranked:
        image, cost = analysis.ranked[0]
        yield f"  AP50 lost to one image, at most: {cost:.3f} ({image})"
    if any(analysis.causes.values()):
        causes = ", ".join(f"{_CAUSES[cause]} in {count}" for cause, count in analysis.causes.items() if count)
        yield f"  of {plural(analysis.counts['background'], 'detection')} where nothing changed, suspected: {causes}"
