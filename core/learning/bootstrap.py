"""How sure a figure is: the same pairs again, with houses drawn at random.

Pairs of one house are alike, so whole properties are drawn, not pairs. A pair of two properties counts as often as
the product of their draws (Owen, *The Pigeonhole Bootstrap*, 2007; its intervals err on the wide side). Every method
is measured on the same draws, so that differences between methods have intervals too.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from core.learning import evaluation, pairs

REPLICATES = 1000
HIGH_PRECISION = 0.99
_BINS = 15
_TAILS = (2.5, 97.5)

Values = npt.NDArray[np.float64]
"""(replicates + 1,) of one figure: on the pairs as they are, then on each draw."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure on the pairs as they are, and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: Values) -> Estimate:
    """A figure and its percentile interval."""
    drawn = values[1:] if len(values) > 1 else values
    low, high = np.percentile(drawn, _TAILS)
    # On a skewed figure (one at its ceiling) the percentiles may leave the value itself out.
    return Estimate(float(values[0]), float(min(low, values[0])), float(max(high, values[0])))


def draws(pair_set: pairs.PairSet, seed: int, replicates: int = REPLICATES) -> Values:
    """(replicates + 1, pairs): how often each pair counts; the first row is ones."""
    names = sorted({name for pair in pair_set.pairs for name in (pair.property_a, pair.property_b)})
    place = {name: number for number, name in enumerate(names)}
    first = np.array([place[pair.property_a] for pair in pair_set.pairs])
    second = np.array([place[pair.property_b] for pair in pair_set.pairs])
    random = np.random.default_rng(seed)
    times = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    result = np.ones((replicates + 1, len(pair_set.pairs)))
    result[1:] = np.where(first == second, times[:, first], times[:, first] * times[:, second])
    return result


def figures(
    scores: evaluation.Scores,
    duplicate: evaluation.Labels,
    flagged: evaluation.Labels,
    probabilities: evaluation.Scores,
    weights: Values,
) -> dict[str, Values]:
    """The figures of `evaluation.report` and the recall at precision 0.99, on each row of `weights`.

    Args:
        scores: (n,), for the order of the pairs.
        duplicate: (n,), the labels.
        flagged: (n,), which pairs the threshold makes duplicates.
        probabilities: (n,) in 0…1, for the calibration error.
        weights: (m, n), how often each pair counts.
    """
    wanted, found = weights @ duplicate, weights @ flagged
    hits = weights @ (duplicate & flagged)
    average, recall_high = _ranked(scores, duplicate, weights)
    return {
        "f1": share(2 * hits, wanted + found),
        "precision": share(hits, found),
        "recall": share(hits, wanted),
        "average_precision": average,
        "recall_at_precision_99": recall_high,
        "calibration_error": _calibration(probabilities, duplicate, weights),
    }


def _ranked(
    scores: evaluation.Scores, duplicate: evaluation.Labels, weights: Values
) -> tuple[Values, Values]:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    ranked = weights[:, order]
    hits = np.cumsum(ranked * duplicate[order], axis=1)[:, last]
    flagged = np.cumsum(ranked, axis=1)[:, last]
    precision = hits / np.maximum(flagged, 1e-12)
    recall = hits / np.maximum(hits[:, -1:], 1e-12)
    average = np.sum(np.diff(recall, axis=1, prepend=0.0) * precision, axis=1)
    reached = np.where(precision >= HIGH_PRECISION, recall, 0.0).max(axis=1)
    return average, reached


def _calibration(probabilities: evaluation.Scores, duplicate: evaluation.Labels, weights: Values) -> Values:
    place = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.zeros((len(probabilities), _BINS))
    gaps[np.arange(len(probabilities)), place] = probabilities - duplicate
    total: Values = np.abs(weights @ gaps).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-12)
    return total


def share(part: Values, whole: Values) -> Values:
    """`part` of `whole`; all of nothing is 1."""
    return np.where(whole > 0, part / np.maximum(whole, 1e-12), 1.0)
