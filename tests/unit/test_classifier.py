"""The pair classifier: symmetric, broadcast, deterministic, and the same arithmetic as while it learned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from core import classifier, embedding, errors
from core.learning import network

LEVELS = ("stem", "layer1")
DIMS = 320


def _fusion() -> embedding.Fusion:
    return embedding.Fusion(LEVELS, np.zeros(DIMS, np.float32), np.ones(DIMS, np.float32))


def _vectors(count: int, seed: int) -> embedding.Vectors:
    pooled = np.random.default_rng(seed).normal(size=(count, DIMS)).astype(np.float32)
    return _fusion().fuse(pooled)


def _network() -> network.Network:
    model = network.Network(
        _fusion(), network.Shape(projections=8, similarities=2, hidden=8), torch.Generator().manual_seed(0)
    )
    model.standardise(torch.from_numpy(_vectors(200, 1)), torch.from_numpy(_vectors(200, 2)))
    return model.eval()


@pytest.fixture(name="head")
def _head() -> classifier.PairClassifier:
    return classifier.PairClassifier(LEVELS, _network().tensors(1.5, -0.25))


def test_scores_are_probabilities_and_exactly_symmetric(head: classifier.PairClassifier) -> None:
    a, b = _vectors(700, 3), _vectors(700, 4)
    scores = head.score(a, b)
    assert scores.shape == (700,)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores.std() > 0
    np.testing.assert_array_equal(scores, head.score(b, a))
    np.testing.assert_array_equal(scores, head.score(a, b))


def test_one_embedding_is_compared_with_all(head: classifier.PairClassifier) -> None:
    a, b = _vectors(1, 5), _vectors(600, 6)
    repeated = head.score(np.repeat(a, 600, axis=0), b)
    np.testing.assert_allclose(head.score(a, b), repeated, atol=1e-6)
    np.testing.assert_array_equal(head.score(a, b), head.score(b, a))


def test_a_pair_scores_the_same_in_any_company(head: classifier.PairClassifier) -> None:
    a, b = _vectors(300, 7), _vectors(300, 8)
    alone = np.concatenate([head.score(a[row : row + 1], b[row : row + 1]) for row in range(300)])
    np.testing.assert_allclose(head.score(a, b), alone, atol=1e-6)


def test_no_pairs_give_no_scores(head: classifier.PairClassifier) -> None:
    assert head.score(_vectors(0, 0), _vectors(0, 0)).shape == (0,)
    assert head.score(_vectors(1, 0), _vectors(0, 0)).shape == (0,)


def test_score_is_the_calibrated_network() -> None:
    model = _network()
    head = classifier.PairClassifier(LEVELS, model.tensors(1.5, -0.25))
    a, b = _vectors(64, 9), _vectors(64, 10)
    with torch.no_grad():
        logits = model(torch.from_numpy(a), torch.from_numpy(b))
    expected = torch.sigmoid(1.5 * logits - 0.25).numpy()
    # The bundle keeps weights as float16.
    np.testing.assert_allclose(head.score(a, b), expected, atol=2e-3)


def test_a_level_of_zeros_gives_a_finite_score(head: classifier.PairClassifier) -> None:
    zeros = np.zeros((1, DIMS), np.float32)
    assert np.isfinite(head.score(zeros, zeros)).all()


@pytest.mark.parametrize("shape", [(3, DIMS + 1), (DIMS,), (3, 3904)])
def test_other_dims_are_refused(head: classifier.PairClassifier, shape: tuple[int, ...]) -> None:
    wrong: npt.NDArray[np.float32] = np.zeros(shape, np.float32)
    with pytest.raises(errors.ConfigurationError, match=r"expected embeddings of shape \(n, 320\), found"):
        head.score(wrong, _vectors(3, 0))


def test_unequal_numbers_are_refused(head: classifier.PairClassifier) -> None:
    with pytest.raises(errors.ConfigurationError, match="found 3 and 2"):
        head.score(_vectors(3, 0), _vectors(2, 0))


def test_tensors_of_other_levels_are_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"expected shape .* for 576 dims, found"):
        classifier.PairClassifier(("stem", "layer2"), _network().tensors(1.0, 0.0))


def test_a_missing_tensor_is_refused() -> None:
    tensors = _network().tensors(1.0, 0.0)
    del tensors["calibration"]
    with pytest.raises(errors.ConfigurationError, match="missing calibration"):
        classifier.PairClassifier(LEVELS, tensors)


def test_tensors_that_are_not_numbers_are_refused() -> None:
    tensors = _network().tensors(float("nan"), 0.0)
    with pytest.raises(errors.ConfigurationError, match="calibration: expected finite"):
        classifier.PairClassifier(LEVELS, tensors)
