"""The pair classifier: symmetric, broadcast, deterministic, and the same arithmetic as while it learned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from core import classifier, correspondence, errors, fusing
from tests.unit import fusions

DIMS = fusions.fusion().dims
LAYOUT = fusions.fusion().layout
_vectors = fusions.vectors


@pytest.fixture(name="head")
def _head() -> classifier.PairClassifier:
    return classifier.PairClassifier(LAYOUT, fusions.head())


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


def test_score_is_the_calibrated_network(head: classifier.PairClassifier) -> None:
    tensors = fusions.head()
    a, b = _vectors(64, 9), _vectors(64, 10)
    inputs = classifier.Inputs(LAYOUT, tensors["variance"]).of(a, b)
    standard = (inputs - tensors["input.mean"]) / tensors["input.std"]
    hidden = np.tanh(standard @ tensors["hidden.weight"].T + tensors["hidden.bias"])
    logits = hidden @ tensors["output.weight"][0] + tensors["output.bias"]
    expected = 1 / (1 + np.exp(-(1.5 * logits - 0.25)))
    np.testing.assert_allclose(head.score(a, b), expected, atol=1e-5)


def test_inputs_are_the_cosines_the_correspondences_and_the_drawings() -> None:
    variance = fusions.head()["variance"]
    inputs = classifier.Inputs(LAYOUT, variance)
    a, b = _vectors(6, 11), _vectors(6, 12)
    found = dict(zip(inputs.names, inputs.of(a, b).T, strict=True))
    place = LAYOUT.slices["layer1"]
    left, right = a[:, place], b[:, place]
    cosines = (fusing.unit(left) * fusing.unit(right)).sum(axis=1)
    np.testing.assert_allclose(found["layer1_whitened"], cosines, rtol=1e-3, atol=1e-5)
    deviations = np.sqrt(variance[place])
    plain = (fusing.unit(left * deviations) * fusing.unit(right * deviations)).sum(axis=1)
    np.testing.assert_allclose(found["layer1_plain"], plain, rtol=1e-3, atol=1e-5)
    cells = [fusing.unit(side[:, LAYOUT.cells].reshape(6, fusing.CELLS, -1)) for side in (a, b)]
    expected = correspondence.describe(*cells)[:, correspondence.NAMES.index("mutual")]
    np.testing.assert_allclose(found["mutual"], expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found["drawings"], [1, 0, 0, 1, 0, 0])


def test_variances_that_do_not_fit_are_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match="expected 14 variances of at least 0"):
        classifier.Inputs(LAYOUT, np.ones(3, np.float32))
    with pytest.raises(errors.ConfigurationError, match="the least -1"):
        classifier.Inputs(LAYOUT, np.full(14, -1, np.float32))


def test_a_level_of_zeros_gives_a_finite_score(head: classifier.PairClassifier) -> None:
    zeros = np.zeros((1, DIMS), np.float32)
    assert np.isfinite(head.score(zeros, zeros)).all()


@pytest.mark.parametrize("shape", [(3, DIMS + 1), (DIMS,), (3, 3904)])
def test_other_dims_are_refused(head: classifier.PairClassifier, shape: tuple[int, ...]) -> None:
    wrong: npt.NDArray[np.float32] = np.zeros(shape, np.float32)
    with pytest.raises(
        errors.ConfigurationError, match=rf"expected embeddings of shape \(n, {DIMS}\), found"
    ):
        head.score(wrong, _vectors(3, 0))


def test_unequal_numbers_are_refused(head: classifier.PairClassifier) -> None:
    with pytest.raises(errors.ConfigurationError, match="found 3 and 2"):
        head.score(_vectors(3, 0), _vectors(2, 0))


def test_tensors_of_other_levels_are_refused() -> None:
    other = fusions.fusion({"stem": 8, "layer1": 6, "layer2": 4}).layout
    with pytest.raises(errors.ConfigurationError, match=rf"expected shape .* for {other.dims} dims, found"):
        classifier.PairClassifier(other, fusions.head())


def test_a_missing_tensor_is_refused() -> None:
    tensors = fusions.head()
    del tensors["calibration"]
    with pytest.raises(errors.ConfigurationError, match="missing calibration"):
        classifier.PairClassifier(LAYOUT, tensors)


def test_tensors_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match="calibration: expected finite"):
        classifier.PairClassifier(LAYOUT, fusions.head(float("nan")))


def test_deviations_of_zero_are_refused() -> None:
    tensors = fusions.head()
    tensors["input.std"][3] = 0
    with pytest.raises(errors.ConfigurationError, match=r"input.std: expected positive"):
        classifier.PairClassifier(LAYOUT, tensors)
