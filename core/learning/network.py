"""The decision network while it learns: the same arithmetic as `classifier.PairClassifier`, with dropout.

Dropping a large part of the inputs is what makes it carry over: the train splits hold few houses, and a network
that may lean on any single channel learns those houses instead of what makes a duplicate.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from core import classifier, embedding

_LEAST_STD = 0.2
"""Least deviation of an input, as a share of the median one of those that vary at all."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of the network and the shares of its inputs and inner values dropped while learning."""

    projections: int = 32
    similarities: int = 3
    hidden: int = 32
    input_dropout: float = 0.3
    inner_dropout: float = 0.2


class Network(torch.nn.Module):
    """Logits of pairs of fused embeddings; the inputs are standardised by those given at the start."""

    def __init__(self, fusion: embedding.Fusion, shape: Shape, generator: torch.Generator) -> None:
        super().__init__()
        self._parts = list(fusion.slices.values())
        self._shape = shape
        dims, count = fusion.dims, len(self._parts) * (shape.similarities + 1)
        self.projection = _linear(2 * dims, shape.projections, generator)
        self.similarity = torch.nn.Parameter(torch.randn(shape.similarities, dims, generator=generator) * 0.3)
        self.hidden = _linear(shape.projections + count, shape.hidden, generator)
        self.output = _linear(shape.hidden, 1, generator)
        self.input_mean, self.input_std = torch.zeros(2 * dims), torch.ones(2 * dims)
        self.similarity_mean, self.similarity_std = torch.zeros(count), torch.ones(count)
        self._generator = generator

    @torch.no_grad()
    def standardise(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Take the inputs' means and deviations from these pairs, each (n, dims)."""
        inputs = self._inputs(a, b)
        self.input_mean = inputs.mean(0)
        # A channel that hardly varies in these pairs may do so in an unseen house, and would then drown all else.
        self.input_std = torch.cat([_floored(half) for half in inputs.std(0).chunk(2)])
        similar = self._similarities(a, b, None)
        self.similarity_mean, self.similarity_std = similar.mean(0), similar.std(0) + 1e-3

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """(n,) logits of pairs of (n, dims) embeddings."""
        inputs = self._drop(
            (self._inputs(a, b) - self.input_mean) / self.input_std, self._shape.input_dropout
        )
        kept = self._drop(torch.ones(a.shape[1]), self._shape.input_dropout) if self.training else None
        similar = (self._similarities(a, b, kept) - self.similarity_mean) / self.similarity_std
        inner = torch.cat([self.projection(inputs).relu(), similar], dim=1)
        logits: torch.Tensor = self.output(self.hidden(self._drop(inner, self._shape.inner_dropout)).relu())
        return logits.squeeze(1)

    def tensors(self, slope: float, offset: float) -> dict[str, npt.NDArray[np.generic]]:
        """What `classifier.PairClassifier` is made of: weights as float16, statistics as float32."""
        half = {
            "projection.weight": self.projection.weight,
            "similarity.weight": torch.nn.functional.softplus(self.similarity),
            "hidden.weight": self.hidden.weight,
            "output.weight": self.output.weight,
        }
        single = {
            "projection.bias": self.projection.bias,
            "input.mean": self.input_mean,
            "input.std": self.input_std,
            "similarity.mean": self.similarity_mean,
            "similarity.std": self.similarity_std,
            "hidden.bias": self.hidden.bias,
            "output.bias": self.output.bias,
            "calibration": torch.tensor([slope, offset]),
        }
        result: dict[str, npt.NDArray[np.generic]] = {
            key: _array(value.half()) for key, value in half.items()
        }
        return result | {key: _array(value.float()) for key, value in single.items()}

    def _inputs(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cat([(a - b).abs(), a * b], dim=1)

    def _similarities(self, a: torch.Tensor, b: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """(n, L(K+1)): per level the plain cosine and the learned ones, over the channels kept."""
        learned = torch.nn.functional.softplus(self.similarity)
        weight = torch.cat([torch.ones(1, learned.shape[1]), learned])
        if kept is not None:
            weight = weight * kept
        result = []
        for part in self._parts:
            columns = weight[:, part].T
            left, right = a[:, part], b[:, part]
            norms = ((left * left) @ columns) * ((right * right) @ columns)
            result.append(((left * right) @ columns) / norms.clamp_min(classifier.TINY).sqrt())
        return torch.cat(result, dim=1)

    def _drop(self, values: torch.Tensor, share: float) -> torch.Tensor:
        # torch's own dropout draws from the global generator, which a seed given here would not fix.
        if not self.training or share == 0.0:
            return values
        kept = torch.rand(values.shape, generator=self._generator) >= share
        return values * kept / (1.0 - share)


def _floored(std: torch.Tensor) -> torch.Tensor:
    living = std[std > 0]
    return std.clamp_min(_LEAST_STD * float(living.median()) if len(living) else 1.0)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> torch.nn.Linear:
    # Made empty and drawn here, for the same reason: nothing comes from the global generator.
    layer = torch.nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    bound = inputs**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def _array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    result: npt.NDArray[np.generic] = tensor.detach().contiguous().numpy().copy()
    return result
