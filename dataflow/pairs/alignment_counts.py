"""What alignment found in many pairs, counted: how many it took or refused, and which came off worst."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from dataflow.pairs.motion_models import MotionModel

WORST: Final = 24
"""So many pairs are kept in mind, at most."""
SCORE_STEPS: Final = 50
"""Scores are counted in steps of 1 / 50."""


@dataclass(frozen=True)
class PairAlignment:
    """What alignment found for one pair.

    `score` and `residual` (px) as `dataflow.pairs.registration.Alignment` has them. `model` is None where nothing was
    aligned (method `none`). `change`: mean distance of the difference image from "no change", in grey levels.
    """

    pair_id: str
    score: float
    residual: float
    model: MotionModel | None
    change: float

    @property
    def rank(self) -> tuple[float, float, str]:
        """Orders pairs: the least score first, then the largest change."""
        return self.score, -self.change, self.pair_id


@dataclass(frozen=True)
class AlignmentCounts:
    """Counts of pairs, in one shard or many. Sums of residuals and scores are over the aligned pairs."""

    pairs: int = 0
    """Those whose difference was written, aligned or not."""
    aligned: int = 0
    refused: int = 0
    models: dict[str, int] = field(default_factory=dict)
    scores: dict[str, int] = field(default_factory=dict)
    """Of aligned pairs, by step: "0" to "49", the last with 1 in it."""
    residual_sum: float = 0.0
    score_sum: float = 0.0
    change_sum: float = 0.0
    worst: tuple[PairAlignment, ...] = ()
    """At most `WORST`, the worst first."""

    def summary(self) -> dict[str, Any]:
        """What the manifest says of a dataset; means are None where there is nothing to take them of."""
        return {
            "aligned": self.aligned,
            "refused": self.refused,
            "models": self.models,
            "mean_residual_px": _mean(self.residual_sum, self.aligned),
            "mean_score": _mean(self.score_sum, self.aligned),
            "mean_change": _mean(self.change_sum, self.pairs),
        }


def _mean(total: float, count: int) -> float | None:
    return round(total / count, 4) if count else None


@dataclass
class AlignmentTally:
    """Counts pairs as they come, in bounded memory."""

    _pairs: int = 0
    _refused: int = 0
    _models: Counter[str] = field(default_factory=Counter)
    _scores: Counter[int] = field(default_factory=Counter)
    _residuals: float = 0.0
    _score: float = 0.0
    _change: float = 0.0
    _worst: list[PairAlignment] = field(default_factory=list)

    def add(self, pair: PairAlignment) -> None:
        """Count a pair whose difference is written."""
        self._pairs += 1
        self._change += pair.change
        if pair.model is not None:
            self._models[pair.model] += 1
            self._scores[min(int(pair.score * SCORE_STEPS), SCORE_STEPS - 1)] += 1
            self._residuals += pair.residual
            self._score += pair.score
        self._worst.append(pair)
        if len(self._worst) > 4 * WORST:
            self._worst = _worst(self._worst)

    def refuse(self) -> None:
        """Count a pair that could not be aligned."""
        self._refused += 1

    def counts(self) -> AlignmentCounts | None:
        """What was counted; None where no pair came."""
        if not self._pairs and not self._refused:
            return None
        return AlignmentCounts(
            pairs=self._pairs,
            aligned=self._models.total(),
            refused=self._refused,
            models=dict(sorted(self._models.items())),
            scores={str(step): count for step, count in sorted(self._scores.items())},
            residual_sum=self._residuals,
            score_sum=self._score,
            change_sum=self._change,
            worst=tuple(_worst(self._worst)),
        )


def _worst(pairs: Iterable[PairAlignment]) -> list[PairAlignment]:
    return sorted(pairs, key=lambda pair: pair.rank)[:WORST]


def merge_counts(shards: Iterable[AlignmentCounts]) -> AlignmentCounts:
    """The counts of several shards together. Their order decides how sums round: give them by split and index."""
    given = list(shards)
    scores = sum((Counter(counts.scores) for counts in given), Counter[str]())
    return AlignmentCounts(
        pairs=sum(counts.pairs for counts in given),
        aligned=sum(counts.aligned for counts in given),
        refused=sum(counts.refused for counts in given),
        models=dict(sorted(sum((Counter(counts.models) for counts in given), Counter[str]()).items())),
        scores={step: scores[step] for step in sorted(scores, key=int)},
        residual_sum=sum(counts.residual_sum for counts in given),
        score_sum=sum(counts.score_sum for counts in given),
        change_sum=sum(counts.change_sum for counts in given),
        worst=tuple(_worst(pair for counts in given for pair in counts.worst)),
    )


def parse_counts(fields: dict[str, Any]) -> AlignmentCounts:
    """The counts that `dataclasses.asdict` took apart."""
    return AlignmentCounts(**(fields | {"worst": tuple(PairAlignment(**pair) for pair in fields["worst"])}))
