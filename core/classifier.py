"""The pair classifier: the small decision network that says how probably two photos are duplicates.

It sees a pair of fused embeddings in two ways. Learned projections of |a − b| and a · b let it weigh single
channels; similarities per level (the plain cosine and a few cosines with learned channel weights) carry over to
houses that it never saw. Every input is the same whichever photo comes first, so the score is too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from core import errors, fusing

TINY = 1e-12
"""Least product of squared norms in a similarity: a level of zeros is similar to nothing."""

_ROWS = 256
_REQUIRED = (
    "projection.weight",
    "projection.bias",
    "input.mean",
    "input.std",
    "similarity.weight",
    "similarity.mean",
    "similarity.std",
    "hidden.weight",
    "hidden.bias",
    "output.weight",
    "output.bias",
    "calibration",
)

Tensors = Mapping[str, npt.NDArray[Any]]


class PairClassifier:
    """Scores pairs of fused embeddings; made of the tensors of a bundle.

    Args:
        levels: the levels of the fused embedding, in order.
        tensors: float16 or float32; with D dims, L levels, P projections, K learned similarities a level and
            H hidden units: projection.weight (P, 2D), projection.bias (P,), input.mean and input.std (2D,),
            similarity.weight (K, D) ≥ 0, similarity.mean and similarity.std (L(K+1),), hidden.weight
            (H, P + L(K+1)), hidden.bias (H,), output.weight (1, H), output.bias (1,), calibration (2,): slope
            and offset that turn the network's logit into that of a probability (Platt, 1999).

    Raises:
        ConfigurationError: a tensor is missing or has another shape than the levels ask for.
    """

    def __init__(self, levels: tuple[str, ...], tensors: Tensors) -> None:
        self.levels = levels
        self.tensors = dict(tensors)
        self.dims = sum(fusing.LEVELS[level] for level in levels)
        self._check()
        values = {key: value.astype(np.float32) for key, value in self.tensors.items()}
        # The inputs' standardisation is folded into the projection: one multiplication a pair instead of two.
        projection = values["projection.weight"] / values["input.std"]
        self._projection = np.ascontiguousarray(projection.T)
        self._projection_bias = values["projection.bias"] - projection @ values["input.mean"]
        self._similarity = self._block_diagonal(values["similarity.weight"])
        self._similarity_mean, self._similarity_std = values["similarity.mean"], values["similarity.std"]
        self._hidden, self._hidden_bias = (
            np.ascontiguousarray(values["hidden.weight"].T),
            values["hidden.bias"],
        )
        slope, offset = values["calibration"]
        self._output = values["output.weight"].T * slope
        self._output_bias = values["output.bias"] * slope + offset

    def score(self, a: fusing.Vectors, b: fusing.Vectors) -> npt.NDArray[np.float32]:
        """Probability that the photos of each pair are duplicates.

        Args:
            a: (n, dims) float32 fused embeddings, or (1, dims) to compare one photo with all of `b`.
            b: likewise.

        Returns:
            (n,) float32 in 0…1, rounded to six decimals; exactly the same with `a` and `b` exchanged.

        Raises:
            ConfigurationError: the embeddings are of other dims than the classifier, or their numbers differ.
        """
        left, right = self._rows(a), self._rows(b)
        if len(left) != len(right) and 1 not in {len(left), len(right)}:
            raise errors.ConfigurationError(
                f"PairClassifier.score: expected as many left as right embeddings (or one), "
                f"found {len(left)} and {len(right)}."
            )
        count = 0 if 0 in {len(left), len(right)} else max(len(left), len(right))
        scores = np.empty(count, dtype=np.float32)
        for start in range(0, count, _ROWS):
            stop = min(start + _ROWS, count)
            scores[start:stop] = self._score(_part(left, start, stop), _part(right, start, stop))
        # Sums come out otherwise in the last digit when a pair travels in other company; nobody reads that digit.
        rounded: npt.NDArray[np.float32] = np.round(scores, 6)
        return rounded

    def _score(self, a: fusing.Vectors, b: fusing.Vectors) -> npt.NDArray[np.float32]:
        count = max(len(a), len(b))
        inputs = np.empty((count, 2 * self.dims), dtype=np.float32)
        difference, product = inputs[:, : self.dims], inputs[:, self.dims :]
        np.abs(np.subtract(a, b, out=difference), out=difference)
        np.multiply(a, b, out=product)
        projected = np.maximum(inputs @ self._projection + self._projection_bias, 0)
        norms = ((a * a) @ self._similarity) * ((b * b) @ self._similarity)
        similar = (product @ self._similarity) / np.sqrt(np.maximum(norms, TINY))
        similar = (similar - self._similarity_mean) / self._similarity_std
        inner = np.concatenate([projected, similar], axis=1)
        hidden = np.maximum(inner @ self._hidden + self._hidden_bias, 0)
        logits = (hidden @ self._output + self._output_bias)[:, 0]
        # Beyond ±80 the exponential leaves float32; the probability is 0 or 1 long before.
        scores: npt.NDArray[np.float32] = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
        return scores

    def _rows(self, vectors: fusing.Vectors) -> fusing.Vectors:
        if vectors.ndim != 2 or vectors.shape[1] != self.dims:
            raise errors.ConfigurationError(
                f"PairClassifier.score: expected embeddings of shape (n, {self.dims}), found {vectors.shape}; "
                "embed the photos with this classifier's own bundle."
            )
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _block_diagonal(self, weight: fusing.Vectors) -> fusing.Vectors:
        """(D, L(K+1)): per level a column of ones (its plain cosine) and its K learned columns."""
        count = len(weight) + 1
        result = np.zeros((self.dims, len(self.levels) * count), dtype=np.float32)
        for place, part in enumerate(fusing.slices(self.levels).values()):
            columns = result[part, place * count : (place + 1) * count]
            columns[:, 0] = 1.0
            columns[:, 1:] = weight[:, part].T
        return result

    def _check(self) -> None:
        missing = [key for key in _REQUIRED if key not in self.tensors]
        if missing:
            raise errors.ConfigurationError(
                f"Pair classifier: expected tensors {', '.join(_REQUIRED)}; missing {', '.join(missing)}."
            )
        projections = self.tensors["projection.weight"].shape[0]
        learned = self.tensors["similarity.weight"].shape[0]
        hidden = self.tensors["hidden.weight"].shape[0]
        similarities = len(self.levels) * (learned + 1)
        expected: dict[str, tuple[int, ...]] = {
            "projection.weight": (projections, 2 * self.dims),
            "projection.bias": (projections,),
            "input.mean": (2 * self.dims,),
            "input.std": (2 * self.dims,),
            "similarity.weight": (learned, self.dims),
            "similarity.mean": (similarities,),
            "similarity.std": (similarities,),
            "hidden.weight": (hidden, projections + similarities),
            "hidden.bias": (hidden,),
            "output.weight": (1, hidden),
            "output.bias": (1,),
            "calibration": (2,),
        }
        for key, shape in expected.items():
            if self.tensors[key].shape != shape:
                raise errors.ConfigurationError(
                    f"Pair classifier tensor {key}: expected shape {shape} for {self.dims} dims, "
                    f"found {self.tensors[key].shape}."
                )
            if not np.isfinite(self.tensors[key]).all():
                raise errors.ConfigurationError(
                    f"Pair classifier tensor {key}: expected finite values, found others."
                )


def _part(rows: fusing.Vectors, start: int, stop: int) -> fusing.Vectors:
    return rows if len(rows) == 1 else rows[start:stop]
