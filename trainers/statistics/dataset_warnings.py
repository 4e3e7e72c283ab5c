"""What is odd about a dataset, by its statistics: sentences, the gravest first, each with what may be done."""

from collections.abc import Iterator

from dataflow.tallies import Tally
from tfds_builders.pages.markup import plural
from trainers.statistics.dataset_statistics import Statistics, shared_scenes

FEW_OBJECTS = 10
"""A class with fewer objects than this is near empty: neither training nor a figure means much."""
_UNEVEN = 2.0
_LEAST_EXPECTED = 10
_MANY_EMPTY, _MANY_TINY, _MANY_REPEATED = 0.5, 0.1, 0.95
_TINY_BIN = 12  # 2^(12/4) = 8 px
_TRUSTED_SCORE = 0.6
_NAMED = 6


def find_warnings(statistics: Statistics) -> tuple[str, ...]:
    """All of them."""
    total = statistics.total
    found = (_repeated(statistics), _classes(statistics, total), _shares(statistics, total), _images(total))
    return tuple(sentence for part in found for sentence in part)


def _repeated(statistics: Statistics) -> Iterator[str]:
    copies, scenes = statistics.copies, shared_scenes(statistics)
    if copies.across_splits:
        yield (
            f"{plural(copies.across_splits, 'image')} with a copy in another split, byte for byte: a figure on one "
            "split would measure what was learnt by heart; ingest anew, where copies are findings"
        )
    if within := copies.images - copies.across_splits:
        yield f"{plural(within, 'image')} with a copy in the same split, byte for byte; leave out what is there twice"
    if scenes:
        yield (
            f"{plural(scenes, 'scene')} with images in several splits, which are not independent so; split by scene "
            "(`shardbox ingest --scenes`), or a sequence by time, as far apart as may be"
        )


def _classes(statistics: Statistics, total: Tally) -> Iterator[str]:
    names = statistics.categories.names
    counts = {name: total.class_objects[str(index)] for index, name in enumerate(names)}
    if empty := [name for name, count in counts.items() if count == 0]:
        yield f"{_listed(empty)} without any object; leave such classes out, or annotate them"
    if few := [name for name, count in counts.items() if 0 < count < FEW_OBJECTS]:
        yield f"{_listed(few)} with fewer than {FEW_OBJECTS} objects in all; no figure on them means much"
    for split, tally in statistics.splits.items():
        missing = [n for i, n in enumerate(names) if counts[n] >= FEW_OBJECTS and not tally.class_objects[str(i)]]
        if missing and tally.images:
            yield f"{split} has no object of {_listed(missing)}, which other splits have; split anew"


def _shares(statistics: Statistics, total: Tally) -> Iterator[str]:
    """Classes of which a split has much more or less than its share of all objects."""
    for split, tally in statistics.splits.items():
        uneven = []
        for index, name in enumerate(statistics.categories.names):
            found = tally.class_objects[str(index)]
            expected = total.class_objects[str(index)] * tally.objects / max(1, total.objects)
            if expected >= _LEAST_EXPECTED and found and not 1 / _UNEVEN <= found / expected <= _UNEVEN:
                uneven.append(f"{name} ({found}, not about {expected:.0f})")
        if uneven:
            more = f" and {len(uneven) - _NAMED} more" if len(uneven) > _NAMED else ""
            yield (
                f"{split} has another share of {', '.join(uneven[:_NAMED])}{more} than of objects in all; "
                "figures on it weigh classes otherwise than training does"
            )


def _images(total: Tally) -> Iterator[str]:
    if total.images and total.empty > _MANY_EMPTY * total.images:
        yield f"{total.empty:,} of {total.images:,} images have no object; background is well, but is this meant?"
    tiny = sum(count for side, count in total.sides.items() if int(side) < _TINY_BIN)
    if tiny > _MANY_TINY * max(1, total.objects):
        yield f"{tiny:,} of {total.objects:,} objects are smaller than 8 x 8 px; do not resize images down to train"
    if total.without_area:
        yield f"{plural(total.without_area, 'box')} without area, left out of everything; mend the source"
    low = sum(count for score, count in total.scores.items() if (int(score) + 1) / 20 <= _TRUSTED_SCORE)
    if low:
        yield f"{plural(low, 'pair')} with an alignment score below {_TRUSTED_SCORE}; look at them in diff.html"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{'class' if len(names) == 1 else f'{len(names)} classes'} ({shown}{more})"
