"""How well scores tell duplicates from others, in the usual figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core import errors

Scores = npt.NDArray[np.floating]
Labels = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Report:
    """Figures of one set of pairs at one threshold, each in 0…1; `pairs` counts them."""

    pairs: int
    duplicates: int
    threshold: float
    precision: float
    recall: float
    f1: float
    average_precision: float
    calibration_error: float


def report(scores: Scores, labels: Labels, threshold: float) -> Report:
    """Figures of scored pairs; a pair counts as flagged at or above `threshold`.

    Args:
        scores: (n,) probabilities.
        labels: (n,) bool, true for duplicates.
        threshold: in 0…1.
    """
    flagged = scores >= threshold
    hits = int((flagged & labels).sum())
    found, wanted = int(flagged.sum()), int(labels.sum())
    return Report(
        pairs=len(labels),
        duplicates=wanted,
        threshold=threshold,
        precision=hits / found if found else 1.0,
        recall=hits / wanted if wanted else 1.0,
        f1=f1_at(scores, labels, threshold),
        average_precision=average_precision(scores, labels),
        calibration_error=calibration_error(scores, labels),
    )


def f1_at(scores: Scores, labels: Labels, threshold: float) -> float:
    """F1 of what is flagged at or above `threshold`, whatever the scores are."""
    flagged = scores >= threshold
    total = int(flagged.sum() + labels.sum())
    return 2 * int((flagged & labels).sum()) / total if total else 1.0


def average_precision(scores: Scores, labels: Labels) -> float:
    """Area under the precision–recall steps, as scikit-learn's ``average_precision_score``; ties count as one."""
    if not labels.any():
        return 0.0
    values, hits, flagged = _steps(scores, labels)
    del values
    recall = hits / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * hits / flagged))


def calibration_error(scores: Scores, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error with equal-width bins (Guo et al., *On Calibration of Modern Neural Networks*)."""
    if not len(scores):
        return 0.0
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, weights=scores - labels.astype(np.float64), minlength=bins)
    return float(np.abs(gap).sum() / len(scores))


def best_f1(scores: Scores, labels: Labels) -> tuple[float, float]:
    """The threshold with the highest F1, and that F1. The threshold stands midway to the next lower score."""
    values, hits, flagged = _steps(scores, labels)
    f1 = 2 * hits / (flagged + max(1, hits[-1]))
    best = int(f1.argmax())
    return _between(values, best), float(f1[best])


def best_mean_f1(sets: Sequence[tuple[Scores, Labels]]) -> tuple[float, float]:
    """The threshold with the highest mean of the sets' F1, and that mean; `sets` are (scores, labels)."""
    values = np.unique(np.concatenate([scores for scores, _ in sets]).astype(np.float64))[::-1]
    total = np.zeros(len(values))
    for scores, labels in sets:
        found = len(scores) - np.searchsorted(np.sort(scores), values)
        hits = labels.sum() - np.searchsorted(np.sort(scores[labels]), values)
        total += 2 * hits / np.maximum(1, found + labels.sum())
    mean = total / len(sets)
    best = int(mean.argmax())
    return _between(values, best), float(mean[best])


def threshold_at_precision(scores: Scores, labels: Labels, precision: float) -> float | None:
    """The lowest threshold at which the precision is reached; nothing if none reaches it."""
    values, hits, flagged = _steps(scores, labels)
    reached = np.flatnonzero(hits / flagged >= precision)
    return _between(values, int(reached[-1])) if len(reached) else None


def precise_threshold(
    groups: Sequence[tuple[Scores, Labels]], precision: float, at_least: float = 0.0
) -> float | None:
    """The lowest threshold, not below `at_least`, at which every group reaches the precision; nothing if none does."""
    candidates = np.unique(np.concatenate([scores for scores, _ in groups]))
    candidates = np.append(at_least, candidates[candidates > at_least])
    for threshold in candidates.tolist():
        flagged = [(scores >= threshold, labels) for scores, labels in groups]
        if all(chosen.any() and labels[chosen].mean() >= precision for chosen, labels in flagged):
            return float(threshold)
    return None


def _steps(scores: Scores, labels: Labels) -> tuple[Scores, Scores, Scores]:
    """Distinct scores, falling, with the duplicates and the pairs at or above each."""
    if not len(scores):
        raise errors.ConfigurationError("There are no pairs to measure on.")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return ranked[last], np.cumsum(labels[order]).astype(np.float64)[last], (last + 1).astype(np.float64)


def _between(values: Scores, place: int) -> float:
    # On the score itself, a rounding in the last digit would decide its pair.
    lower = values[place + 1] if place + 1 < len(values) else values[place]
    return float((values[place] + lower) / 2)
