"""The comparison table: every method on every set, at thresholds that were chosen on val, with intervals."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from core import errors
from core.learning import bootstrap, evaluation, fitting, methods, pairs

MEAN = "mean of sets"
POOLED = "pooled pairs"

FIGURES = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "average_precision": "average precision",
    "recall_at_precision_99": "recall at precision 0.99",
    "calibration_error": "calibration error",
}
"""The figures by their column, and how tables call them."""

MethodProgress = Callable[[str, int, int], None]
"""Called with the method and set at work, the steps done and the steps in all."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One set: the pairs to measure on, and the val pairs that thresholds may be chosen on."""

    measured: pairs.PairSet
    val: pairs.PairSet | None = None

    @property
    def name(self) -> str:
        """The set's name."""
        return self.measured.name


@dataclasses.dataclass(frozen=True)
class Decision:
    """Where a method says "duplicate", and how its scores become probabilities.

    Args:
        thresholds: by set: the baselines get one for each, which spares them to be one model for all.
        common: the single threshold for pooled pairs and for whole properties.
        scale: mean, deviation, slope and offset of the logit; nothing where scores are probabilities already.
        band: where pairs are flagged without a person, if that is another threshold than the common one.
    """

    thresholds: Mapping[str, float]
    common: float
    scale: tuple[float, float, float, float] | None = None
    band: float | None = None

    @property
    def flags(self) -> float:
        """From where on pairs are flagged without a person."""
        return self.common if self.band is None else self.band

    def probabilities(self, scores: evaluation.Scores) -> evaluation.Scores:
        """(n,) in 0…1."""
        if self.scale is None:
            return scores
        mean, deviation, slope, offset = self.scale
        logits = slope * (scores - mean) / deviation + offset
        result: evaluation.Scores = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
        return result


@dataclasses.dataclass(frozen=True)
class Result:
    """What a method said of every task: (n,) scores by set."""

    method: str
    decision: Decision
    scores: Mapping[str, evaluation.Scores]


@dataclasses.dataclass(frozen=True)
class Row:
    """A method's figures on one set. `margin`: by how much the first method's F1 is above this one's."""

    method: str
    set: str
    pairs: int
    threshold: float | None
    figures: Mapping[str, bootstrap.Estimate]
    margin: bootstrap.Estimate | None


def fixed(threshold: float, tasks: Sequence[Task], band: float | None = None) -> Decision:
    """One threshold for all: how a bundle decides."""
    return Decision({task.name: threshold for task in tasks}, threshold, band=band)


def choose(val: Mapping[str, tuple[evaluation.Scores, evaluation.Labels]]) -> Decision:
    """The thresholds with the best F1 on val, and Platt's scaling fitted to it; the sets count alike."""
    scores = np.concatenate([part for part, _ in val.values()])
    labels = np.concatenate([part for _, part in val.values()])
    mean, deviation = float(scores.mean()), max(float(scores.std()), 1e-12)
    counts = np.concatenate(
        [np.full(len(part), len(scores) / len(val) / max(1, len(part))) for part, _ in val.values()]
    )
    slope, offset = fitting.calibrate((scores - mean) / deviation, labels, counts)
    return Decision(
        thresholds={name: evaluation.best_f1(*part)[0] for name, part in val.items()},
        common=evaluation.best_mean_f1(list(val.values()))[0],
        scale=(mean, deviation, slope, offset),
    )


def measure(
    method: methods.Method,
    tasks: Sequence[Task],
    decision: Decision | None = None,
    progress: MethodProgress | None = None,
) -> Result:
    """Score every task; without a decision, choose it on the tasks' val pairs.

    Raises:
        ConfigurationError: a task has no val pairs of both labels to choose on; a picture cannot be read.
    """

    def score(pair_set: pairs.PairSet) -> evaluation.Scores:
        label = f"{method.name}: {pair_set.name}"
        return method.scores(
            pair_set, None if progress is None else lambda done, total: progress(label, done, total)
        )

    if decision is None:
        val = {task.name: _val(task) for task in tasks}
        decision = choose({name: (score(part), methods.labels(part)) for name, part in val.items()})
    return Result(method.name, decision, {task.name: score(task.measured) for task in tasks})


def compare(
    results: Sequence[Result], tasks: Sequence[Task], seed: int = 0, replicates: int = bootstrap.REPLICATES
) -> list[Row]:
    """Rows of all methods for each set, then for the mean of the sets and their pairs pooled.

    Args:
        results: the first one is what the others' margins refer to.
        seed: of the bootstrap's draws; the same for all methods.
    """
    labels = {task.name: methods.labels(task.measured) for task in tasks}
    draws = {
        task.name: bootstrap.draws(task.measured, seed + place, replicates)
        for place, task in enumerate(tasks)
    }
    tables = [_tables(result, labels, draws) for result in results]
    rows = []
    for name in tables[0]:
        first = tables[0][name][1]["f1"]
        for place, (result, table) in enumerate(zip(results, tables, strict=True)):
            threshold, values = table[name]
            rows.append(
                Row(
                    method=result.method,
                    set=name,
                    pairs=len(labels[name]) if name in labels else sum(map(len, labels.values())),
                    threshold=threshold,
                    figures={key: bootstrap.estimate(value) for key, value in values.items()},
                    margin=bootstrap.estimate(first - values["f1"]) if place else None,
                )
            )
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """One table a set; each cell a figure and its 95 % interval."""
    parts = []
    for name in dict.fromkeys(row.set for row in rows):
        here = [row for row in rows if row.set == name]
        heads = ["method", "threshold", *FIGURES.values(), f"F1 of {here[0].method} above it"]
        parts += [f"### {name} ({here[0].pairs} pairs)", "", _line(heads), _line(["---"] * len(heads))]
        for row in here:
            shown = "own of each" if row.threshold is None else f"{row.threshold:.4g}"
            margin = "" if row.margin is None else str(row.margin)
            parts.append(_line([row.method, shown, *(str(row.figures[key]) for key in FIGURES), margin]))
        parts.append("")
    return "\n".join(parts)


def table_csv(rows: Sequence[Row]) -> str:
    """All rows with value, low and high of each figure as columns of their own."""
    columns = [f"{key}{end}" for key in [*FIGURES, "margin"] for end in ("", "_low", "_high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "set", "pairs", "threshold", *columns])
    for row in rows:
        cells: list[str] = []
        for estimate in (*(row.figures[key] for key in FIGURES), row.margin):
            shown = (estimate.value, estimate.low, estimate.high) if estimate else None
            cells += [f"{value:.4f}" for value in shown] if shown else [""] * 3
        threshold = "" if row.threshold is None else f"{row.threshold:.6g}"
        writer.writerow([row.method, row.set, row.pairs, threshold, *cells])
    return text.getvalue()


def _tables(
    result: Result, labels: Mapping[str, evaluation.Labels], draws: Mapping[str, bootstrap.Values]
) -> dict[str, tuple[float | None, dict[str, bootstrap.Values]]]:
    decision = result.decision
    table: dict[str, tuple[float | None, dict[str, bootstrap.Values]]] = {}
    for name, duplicate in labels.items():
        scores, threshold = result.scores[name], decision.thresholds[name]
        table[name] = (
            threshold,
            bootstrap.figures(
                scores, duplicate, scores >= threshold, decision.probabilities(scores), draws[name]
            ),
        )
    if len(labels) > 1:
        mean = {key: np.mean([values[key] for _, values in table.values()], axis=0) for key in FIGURES}
        every = np.concatenate([result.scores[name] for name in labels])
        pooled = bootstrap.figures(
            every,
            np.concatenate(list(labels.values())),
            every >= decision.common,
            decision.probabilities(every),
            np.concatenate([draws[name] for name in labels], axis=1),
        )
        table |= {MEAN: (None, mean), POOLED: (decision.common, pooled)}
    return table


def _val(task: Task) -> pairs.PairSet:
    if task.val is None or {pair.duplicate for pair in task.val.pairs} != {True, False}:
        raise errors.ConfigurationError(
            f"Pair set {task.name}: a baseline's threshold is chosen on val, and there are no val pairs of both "
            "labels; put pairs*.csv with val rows into the same folder."
        )
    return task.val


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
