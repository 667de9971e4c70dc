"""The decision network: learns what carries over to other houses, repeats, and is one network in the end."""

from __future__ import annotations

import numpy as np
import pytest

from core import errors
from core.learning import evaluation, fitting


def examples(count: int, houses: int, seed: int = 0) -> fitting.Examples:
    """Duplicate where two inputs agree; a third input is the house, which tells nothing of other houses."""
    random = np.random.default_rng(seed)
    house = random.integers(0, houses, count)
    inputs = random.normal(size=(count, 3)).astype(np.float32)
    inputs[:, 2] = house
    duplicate = inputs[:, 0] * inputs[:, 1] > 0
    return fitting.Examples(
        inputs, duplicate, np.ones(count, np.float32), np.stack([house, house], axis=1).astype(np.int64)
    )


def test_every_pair_is_scored_by_a_network_that_did_not_see_its_house() -> None:
    known = examples(600, 20)
    network, logits = fitting.leave_houses_out(known, fitting.Recipe(hidden=8), seed=0)
    assert evaluation.average_precision(logits, known.duplicate) > 0.95
    # Labels that only the house decides cannot be learned from other houses, though every house is told.
    random = np.random.default_rng(5)
    told = np.eye(20, dtype=np.float32)[known.houses[:, 0]]
    by_house = fitting.Examples(
        told, (random.random(20) < 0.5)[known.houses[:, 0]], known.counts, known.houses
    )
    seen, blind = fitting.leave_houses_out(by_house, fitting.Recipe(hidden=8), seed=0)
    assert evaluation.average_precision(seen.logits(told), by_house.duplicate) > 0.95
    assert evaluation.average_precision(blind, by_house.duplicate) < 0.75
    assert network.hidden.shape == (8 * 10, 3)


def test_the_mean_of_the_networks_decides() -> None:
    known = examples(400, 12)
    network, _ = fitting.leave_houses_out(known, fitting.Recipe(hidden=8, folds=3), seed=0)
    unseen = examples(300, 12, seed=1)
    assert evaluation.average_precision(network.logits(unseen.inputs), unseen.duplicate) > 0.95
    parts = [
        fitting.Network(
            network.mean, network.std, network.hidden[rows], network.hidden_bias[rows],
            network.output[:, rows] * 3, network.output_bias,
        )
        for rows in (slice(0, 8), slice(8, 16), slice(16, 24))
    ]  # fmt: skip
    mean = np.mean([part.logits(unseen.inputs) for part in parts], axis=0)
    np.testing.assert_allclose(network.logits(unseen.inputs), mean, rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same_network() -> None:
    known = examples(200, 10)
    recipe = fitting.Recipe(hidden=4, rounds=5)
    first, again, other = (fitting.leave_houses_out(known, recipe, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.hidden, again.hidden)
    assert not np.array_equal(first.hidden, other.hidden)


def test_calibration_undoes_a_known_distortion() -> None:
    random = np.random.default_rng(0)
    true = random.normal(0, 2, 20_000)
    duplicate = random.random(20_000) < 1 / (1 + np.exp(-true))
    slope, offset = fitting.calibrate(3 * true + 1, duplicate)
    assert slope == pytest.approx(1 / 3, abs=0.02)
    assert offset == pytest.approx(-1 / 3, abs=0.05)


def test_too_few_houses_are_refused() -> None:
    few = examples(40, 2)
    across = fitting.Examples(few.inputs, few.duplicate, few.counts, np.tile(np.array([[0, 1]]), (40, 1)))
    with pytest.raises(errors.ConfigurationError, match="0 pairs are left, 0 of them duplicates"):
        fitting.leave_houses_out(across, fitting.Recipe(), seed=0)


def test_houses_of_second_photos_alone_make_no_empty_fold() -> None:
    known = examples(200, 4)
    mixed = np.stack([known.houses[:, 0], known.houses[:, 0] + 10], axis=1)
    network, logits = fitting.leave_houses_out(
        fitting.Examples(known.inputs, known.duplicate, known.counts, mixed), fitting.Recipe(hidden=4), seed=0
    )
    assert network.hidden.shape == (4 * 4, 3)
    assert evaluation.average_precision(logits, known.duplicate) > 0.9
