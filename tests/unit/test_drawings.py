"""Drawings are told from photos without labels."""

from __future__ import annotations

import numpy as np

from core import fusing
from core.learning import drawings
from tests.unit import fusions


def test_a_plan_has_few_colours_and_a_photo_many() -> None:
    random = np.random.default_rng(0)
    plan = np.full((3, 64, 64), 250, np.uint8)
    plan[:, 10:12] = 20
    photo = random.integers(0, 256, (3, 64, 64), dtype=np.uint8)
    assert drawings.few_colours(plan) == 1.0
    assert drawings.few_colours(photo) < 0.05


def test_what_lies_between_is_learned_from_the_sure_ones() -> None:
    random = np.random.default_rng(1)
    truth = random.random(400) < 0.3
    levels = random.normal(size=(400, fusions.EVERY)).astype(np.float32)
    levels[:, :40] += np.where(truth, 1.5, -1.5)[:, None]
    # Half of the drawings are too noisy to be told by their colours, and so are some photos too plain.
    shares = np.where(truth, random.choice([0.95, 0.7], 400), random.choice([0.3, 0.6], 400)).astype(
        np.float32
    )
    weight, bias = drawings.fit(levels, shares)
    assert weight.dtype == bias.dtype == np.float32
    np.testing.assert_array_equal(levels @ weight + bias > 0, truth)


def test_where_only_one_kind_is_seen_nothing_is_called_a_drawing() -> None:
    levels = np.random.default_rng(2).normal(size=(50, fusions.EVERY)).astype(np.float32)
    for share in (0.3, 0.95):
        weight, bias = drawings.fit(levels, np.full(50, share, np.float32))
        assert not (levels @ weight + bias > 0).any()
    assert weight.shape == (sum(fusing.LEVELS.values()),)
