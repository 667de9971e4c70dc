"""The pair classifier: the small decision network that says how probably two photos are duplicates.

It never sees single channels, which would teach it the houses it was trained on, but only how alike two photos
are: by level, in two metrics, and by how their cells find each other. Every input is the same whichever photo
comes first, so the score is too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from core import correspondence, errors, fusing

_TINY = 1e-12
_ROWS = 256

Tensors = Mapping[str, npt.NDArray[Any]]


def input_names(levels: Mapping[str, int] | tuple[str, ...]) -> tuple[str, ...]:
    """What the columns of `Inputs.of` are."""
    cosines = [f"{level}_{metric}" for level in levels for metric in ("whitened", "plain")]
    return (*cosines, *correspondence.NAMES, "drawings")


class Inputs:
    """What a pair is described by.

    Args:
        layout: of the fused embeddings.
        variance: (values of all levels,) float32: of each value before it was whitened. Weighted by it, a level's
            cosine is that of the kept directions as they were before.

    Raises:
        ConfigurationError: there are not as many variances as values, or one of them is negative.
    """

    def __init__(self, layout: fusing.Layout, variance: fusing.Vectors) -> None:
        self.layout = layout
        self.names = input_names(layout.levels)
        if variance.shape != (layout.cells.start,) or not (variance >= 0).all():
            raise errors.ConfigurationError(
                f"Pair classifier: expected {layout.cells.start} variances of at least 0, "
                f"found {variance.shape}, the least {variance.min(initial=np.inf)}."
            )
        self.variance = variance
        self._metrics = np.zeros((layout.cells.start, 2 * len(layout.levels)), dtype=np.float32)
        for number, place in enumerate(layout.slices.values()):
            self._metrics[place, 2 * number] = 1.0
            self._metrics[place, 2 * number + 1] = variance[place]

    def of(self, a: fusing.Vectors, b: fusing.Vectors) -> fusing.Vectors:
        """(n, inputs) of n pairs of (n, dims) embeddings; either may be (1, dims)."""
        levels, cells = slice(0, self.layout.cells.start), self.layout.cells
        left, right = a[:, levels], b[:, levels]
        norms = ((left * left) @ self._metrics) * ((right * right) @ self._metrics)
        cosines = ((left * right) @ self._metrics) / np.sqrt(np.maximum(norms, _TINY**2))
        found = correspondence.describe(self._cells(a[:, cells]), self._cells(b[:, cells]))
        drawings = (a[:, self.layout.drawing] > 0).astype(np.float32) + (b[:, self.layout.drawing] > 0)
        return np.concatenate([cosines, found, drawings[:, None] / 2], axis=1)

    def _cells(self, values: fusing.Vectors) -> fusing.Vectors:
        return values.reshape(len(values), fusing.CELLS, self.layout.cell) * np.float32(
            self.layout.cell_scale
        )


class PairClassifier:
    """Scores pairs of fused embeddings; made of the tensors of a bundle.

    Args:
        layout: of the fused embeddings.
        tensors: float16 or float32; with V values in all levels, F inputs (`input_names`) and H hidden units:
            variance (V,), input.mean and input.std (F,), hidden.weight (H, F), hidden.bias (H,), output.weight
            (1, H), output.bias (1,), calibration (2,): slope and offset that turn the network's logit into that of
            a probability (Platt, 1999).

    Raises:
        ConfigurationError: a tensor is missing or has another shape than the layout asks for.
    """

    def __init__(self, layout: fusing.Layout, tensors: Tensors) -> None:
        self.layout = layout
        self.tensors = dict(tensors)
        self._check()
        values = {key: value.astype(np.float32) for key, value in self.tensors.items()}
        self._inputs = Inputs(layout, values["variance"])
        hidden = values["hidden.weight"] / values["input.std"]
        self._hidden = np.ascontiguousarray(hidden.T)
        self._hidden_bias = values["hidden.bias"] - hidden @ values["input.mean"]
        slope, offset = values["calibration"]
        self._output = values["output.weight"][0] * slope
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
        hidden = np.tanh(self._inputs.of(a, b) @ self._hidden + self._hidden_bias)
        # Beyond ±80 the exponential leaves float32; the probability is 0 or 1 long before.
        logits = np.clip(hidden @ self._output + self._output_bias, -80, 80)
        scores: npt.NDArray[np.float32] = 1 / (1 + np.exp(-logits))
        return scores

    def _rows(self, vectors: fusing.Vectors) -> fusing.Vectors:
        if vectors.ndim != 2 or vectors.shape[1] != self.layout.dims:
            raise errors.ConfigurationError(
                f"PairClassifier.score: expected embeddings of shape (n, {self.layout.dims}), found {vectors.shape}; "
                "embed the photos with this classifier's own bundle."
            )
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _check(self) -> None:
        inputs = len(input_names(self.layout.levels))
        hidden = len(self.tensors.get("hidden.bias", ()))
        expected: dict[str, tuple[int, ...]] = {
            "variance": (self.layout.cells.start,),
            "input.mean": (inputs,),
            "input.std": (inputs,),
            "hidden.weight": (hidden, inputs),
            "hidden.bias": (hidden,),
            "output.weight": (1, hidden),
            "output.bias": (1,),
            "calibration": (2,),
        }
        missing = [key for key in expected if key not in self.tensors]
        if missing:
            raise errors.ConfigurationError(
                f"Pair classifier: expected tensors {', '.join(expected)}; missing {', '.join(missing)}."
            )
        for key, shape in expected.items():
            if self.tensors[key].shape != shape:
                raise errors.ConfigurationError(
                    f"Pair classifier tensor {key}: expected shape {shape} for {self.layout.dims} dims, "
                    f"found {self.tensors[key].shape}."
                )
            if not np.isfinite(self.tensors[key]).all():
                raise errors.ConfigurationError(
                    f"Pair classifier tensor {key}: expected finite values, found others."
                )
        if not (self.tensors["input.std"] > 0).all():
            raise errors.ConfigurationError("Pair classifier tensor input.std: expected positive values.")


def _part(rows: fusing.Vectors, start: int, stop: int) -> fusing.Vectors:
    return rows if len(rows) == 1 else rows[start:stop]
