"""How the pooled levels of a backbone become one fused embedding. Plain numpy: who decides pairs needs no torch.

Source: Panchenko, Bozhok, Kubytskyi, *Multi-Level CNN Feature Fusion from ResNet50 for Near-Duplicate
Image Detection in Real Estate Imagery*, 2026.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from core import errors

LEVELS: dict[str, int] = {"stem": 64, "layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}
"""The taps of the backbone and their channels; all together 3,904."""

Vectors = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Fusion:
    """How pooled levels become one vector: which levels, and each channel's mean and standard deviation.

    `mean` and `std` are (dims,) float32, in the order of `levels`.
    """

    levels: tuple[str, ...]
    mean: Vectors
    std: Vectors

    def __post_init__(self) -> None:
        unknown = [level for level in self.levels if level not in LEVELS]
        if unknown or not self.levels:
            raise errors.ConfigurationError(f"Unknown levels {unknown}; known: {', '.join(LEVELS)}.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values.shape != (self.dims,):
                raise errors.ConfigurationError(
                    f"Fusion.{name}: expected {self.dims} values, found {values.shape}."
                )

    @property
    def dims(self) -> int:
        """Length of the fused embedding."""
        return sum(LEVELS[level] for level in self.levels)

    @property
    def slices(self) -> dict[str, slice]:
        """Where each level stands in the fused embedding."""
        return slices(self.levels)

    def fuse(self, pooled: Vectors) -> Vectors:
        """Standardise each channel, L2-normalise each level, concatenate, scale to norm 1.

        Args:
            pooled: (n, dims) float32, the levels' global averages side by side.

        Returns:
            (n, dims) float32; each row of norm 1, each level with an equal share of it.
        """
        standard = (pooled - self.mean) / self.std
        fused = np.empty_like(standard)
        for part in self.slices.values():
            norm = np.linalg.norm(standard[:, part], axis=1, keepdims=True)
            fused[:, part] = standard[:, part] / np.maximum(norm, 1e-12)
        fused /= np.float32(np.sqrt(len(self.levels)))
        return fused


def slices(levels: tuple[str, ...]) -> dict[str, slice]:
    """Where each of these levels stands when they are laid side by side."""
    ends = np.cumsum([LEVELS[level] for level in levels]).tolist()
    return {level: slice(end - LEVELS[level], end) for level, end in zip(levels, ends, strict=True)}
