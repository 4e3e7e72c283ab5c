"""Counts of alignments: bounded, the same however the pairs are cut into shards, and the same after JSON."""

import json
from dataclasses import asdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.pairs.alignment_counts import (
    SCORE_STEPS,
    WORST,
    AlignmentCounts,
    AlignmentTally,
    PairAlignment,
    merge_counts,
    parse_counts,
)
from dataflow.pairs.motion_models import MODELS


@st.composite
def alignments(draw: st.DrawFn) -> list[PairAlignment]:
    n = draw(st.integers(0, 150))
    rows = st.tuples(
        st.sampled_from([0.6, 0.71, 0.8, 0.999, 1.0]),
        st.floats(0, 3),
        st.sampled_from([*MODELS, None]),
        st.sampled_from([0.0, 1.5, 20.0]),
    )
    drawn = draw(st.lists(rows, min_size=n, max_size=n))
    return [PairAlignment(f"p{i}", *row) for i, row in enumerate(drawn)]


def counted(pairs: list[PairAlignment], refused: int = 0) -> AlignmentCounts | None:
    tally = AlignmentTally()
    for pair in pairs:
        tally.add(pair)
    for _ in range(refused):
        tally.refuse()
    return tally.counts()


@given(alignments(), st.integers(0, 3), st.lists(st.integers(0, 150), max_size=4))
def test_shards_add_up_to_the_whole(pairs: list[PairAlignment], refused: int, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(pairs)) for cut in cuts), len(pairs)]
    parts = [counted(pairs[start:stop]) for start, stop in pairwise(edges)]
    merged = merge_counts([*(part for part in parts if part), *filter(None, [counted([], refused)])])
    whole = counted(pairs, refused) or AlignmentCounts()
    aligned = [pair for pair in pairs if pair.model]
    assert (merged.pairs, merged.aligned, merged.refused) == (len(pairs), len(aligned), refused)
    assert merged.worst == whole.worst == tuple(sorted(pairs, key=lambda p: (p.score, -p.change, p.pair_id))[:WORST])
    assert (merged.models, merged.scores) == (whole.models, whole.scores)
    assert sum(merged.scores.values()) == sum(merged.models.values()) == len(aligned)
    assert merged.residual_sum == pytest.approx(sum(pair.residual for pair in aligned))
    assert merged.score_sum == pytest.approx(sum(pair.score for pair in aligned))
    assert merged.change_sum == pytest.approx(sum(pair.change for pair in pairs))
    assert parse_counts(json.loads(json.dumps(asdict(merged)))) == merged


def test_a_summary() -> None:
    counts = counted(
        [
            PairAlignment("a", 0.8, 0.5, "affine", 4.0),
            PairAlignment("b", 1.0, 0.0, "identity", 1.0),
            PairAlignment("c", 0.9, 0.1, "affine", 4.0),
        ],
        refused=2,
    )
    assert counts is not None
    assert counts.scores == {"40": 1, "45": 1, str(SCORE_STEPS - 1): 1}
    assert counts.summary() == {
        "aligned": 3,
        "refused": 2,
        "models": {"affine": 2, "identity": 1},
        "mean_residual_px": 0.2,
        "mean_score": 0.9,
        "mean_change": 3.0,
    }


def test_what_was_not_aligned_has_no_mean_score() -> None:
    counts = counted([PairAlignment("a", 1.0, 0.0, None, 4.0), PairAlignment("b", 1.0, 0.0, None, 5.0)])
    assert counts is not None and counts.pairs == 2
    summary = counts.summary()
    assert (summary["aligned"], summary["mean_score"], summary["mean_residual_px"]) == (0, None, None)
    assert (summary["mean_change"], summary["models"]) == (4.5, {})
    assert [pair.pair_id for pair in counts.worst] == ["b", "a"], "what changes most comes first"


def test_nothing_is_counted_where_no_pair_came() -> None:
    assert AlignmentTally().counts() is None
