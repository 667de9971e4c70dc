"""The tables' figures must be those of `evaluation`, and their intervals must mean something."""

from __future__ import annotations

import csv
import io
import pathlib

import numpy as np
import pytest

from core import errors
from core.learning import bootstrap, comparison, evaluation, methods, pairs


class Given:
    """A method whose scores are given by the name of the first picture."""

    def __init__(self, name: str, scores: dict[str, float]) -> None:
        self.name = name
        self._scores = scores

    def scores(self, pair_set: pairs.PairSet, progress: methods.Progress | None = None) -> evaluation.Scores:
        """(n,) as given."""
        return np.array([self._scores[pair.a] for pair in pair_set.pairs])


def _set(name: str, count: int, split: str, seed: int) -> pairs.PairSet:
    """Pairs of `count` properties, some with a picture of the next one."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        for pair in range(4):
            other = (number + (pair == 3)) % count
            label = bool(random.random() < 0.5) and other == number
            found.append(
                pairs.Pair(f"{name}-{number}-{pair}", "b", label, split, str(number), str(other), "k")
            )
    return pairs.PairSet(name, pathlib.Path("none"), tuple(found))


def _scored(sets: list[pairs.PairSet], noise: float, seed: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    return {
        pair.a: float(np.clip(0.2 + 0.6 * pair.duplicate + noise * random.normal(), 0, 1))
        for part in sets
        for pair in part.pairs
    }


@pytest.fixture(scope="module")
def tasks() -> list[comparison.Task]:
    return [
        comparison.Task(_set(name, count, "test", seed), _set(f"{name}-val", count, "val", seed + 10))
        for seed, (name, count) in enumerate([("one", 30), ("two", 12)])
    ]


@pytest.fixture(scope="module")
def results(tasks: list[comparison.Task]) -> list[comparison.Result]:
    parts = [part for task in tasks for part in (task.measured, task.val) if part is not None]
    ours = Given("ours", _scored(parts, 0.12, 1))
    weak = Given("weak", {name: 40 * score for name, score in _scored(parts, 0.5, 2).items()})
    return [
        comparison.measure(ours, tasks, comparison.fixed(0.5, tasks)),
        comparison.measure(weak, tasks),
    ]


def test_figures_are_those_of_evaluation_and_lie_in_their_intervals(
    tasks: list[comparison.Task], results: list[comparison.Result]
) -> None:
    rows = comparison.compare(results, tasks, replicates=200)
    assert [(row.set, row.method) for row in rows] == [
        (name, method)
        for name in ("one", "two", comparison.MEAN, comparison.POOLED)
        for method in ("ours", "weak")
    ]
    for row in rows:
        for estimate in row.figures.values():
            assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0
    ours = results[0]
    for task, row in zip(tasks, rows[::2], strict=False):
        expected = evaluation.report(ours.scores[task.name], methods.labels(task.measured), 0.5)
        for key in ("f1", "precision", "recall", "average_precision", "calibration_error"):
            assert row.figures[key].value == pytest.approx(getattr(expected, key), abs=1e-9), key
    by_set = {row.set: row for row in rows[::2]}
    assert by_set[comparison.MEAN].figures["f1"].value == pytest.approx(
        (by_set["one"].figures["f1"].value + by_set["two"].figures["f1"].value) / 2
    )
    every = np.concatenate(list(ours.scores.values()))
    labels = np.concatenate([methods.labels(task.measured) for task in tasks])
    assert by_set[comparison.POOLED].figures["f1"].value == pytest.approx(
        evaluation.report(every, labels, 0.5).f1
    )
    assert by_set[comparison.POOLED].pairs == len(labels)


def test_the_same_seed_draws_the_same_and_more_properties_narrow_the_interval(
    tasks: list[comparison.Task], results: list[comparison.Result]
) -> None:
    first, again, other = (comparison.compare(results, tasks, seed, 200) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    width = {row.set: row.figures["f1"].high - row.figures["f1"].low for row in first if row.method == "weak"}
    assert width["one"] < width["two"]


def test_the_margin_over_a_weak_method_is_positive(
    tasks: list[comparison.Task], results: list[comparison.Result]
) -> None:
    rows = comparison.compare(results, tasks, replicates=200)
    for ours, weak in zip(rows[::2], rows[1::2], strict=True):
        assert ours.margin is None
        assert weak.margin is not None
        assert weak.margin.value == pytest.approx(ours.figures["f1"].value - weak.figures["f1"].value)
        assert weak.margin.low > 0


def test_draws_take_whole_properties() -> None:
    pair_set = _set("one", 20, "test", 0)
    draws = bootstrap.draws(pair_set, seed=0, replicates=50)
    assert draws.shape == (51, 80)
    np.testing.assert_array_equal(draws[0], 1)
    own = [row for row, pair in enumerate(pair_set.pairs) if pair.property_a == pair.property_b]
    np.testing.assert_array_equal(draws[:, own[0::3]], draws[:, own[1::3]])
    np.testing.assert_allclose(draws[1:, own[0::3]].sum(axis=1), 20)
    across = np.flatnonzero([pair.property_a != pair.property_b for pair in pair_set.pairs])
    np.testing.assert_array_equal(draws[:, across], draws[:, across - 1] * draws[:, (across + 1) % 80])


def test_recall_at_precision_99_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.6])
    labels = np.array([True, True, False, True, True])
    found = bootstrap.figures(scores, labels, scores > 0.5, scores, np.ones((1, 5)))
    assert found["recall_at_precision_99"].tolist() == [0.5]
    assert found["average_precision"][0] == pytest.approx(evaluation.average_precision(scores, labels))


def test_choosing_scales_scores_to_probabilities(tasks: list[comparison.Task]) -> None:
    random = np.random.default_rng(0)
    counts = random.integers(0, 60, 4000).astype(float)
    labels = random.random(4000) < 1 / (1 + np.exp(-(counts - 30) / 5))
    decision = comparison.choose({"inliers": (counts, labels)})
    assert decision.common == pytest.approx(30, abs=6)
    assert decision.thresholds["inliers"] == pytest.approx(decision.common, abs=3)
    assert evaluation.calibration_error(decision.probabilities(counts), labels) < 0.03
    assert comparison.fixed(0.5, tasks).probabilities(counts) is counts


def test_a_baseline_without_val_is_refused(tasks: list[comparison.Task]) -> None:
    bare = [comparison.Task(tasks[0].measured)]
    with pytest.raises(errors.ConfigurationError, match=r"Pair set one: .*no val pairs"):
        comparison.measure(Given("weak", {}), bare)


def test_tables_hold_every_row(tasks: list[comparison.Task], results: list[comparison.Result]) -> None:
    rows = comparison.compare(results, tasks, replicates=20)
    text = comparison.markdown(rows)
    assert "### one (120 pairs)" in text
    assert text.count("| weak |") == 4
    table = list(csv.DictReader(io.StringIO(comparison.table_csv(rows))))
    assert len(table) == len(rows)
    assert float(table[0]["f1"]) == pytest.approx(rows[0].figures["f1"].value, abs=1e-4)
    assert (table[0]["margin"], table[0]["threshold"]) == ("", "0.5")
    assert table[1]["margin"]
