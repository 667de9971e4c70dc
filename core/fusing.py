"""How what a backbone sees becomes one fused embedding. Plain numpy: who decides pairs needs no torch.

The levels stand beside each other, never averaged together: each is projected, normalised and concatenated. After
them stand the cells, the regional averages of one level, so that a pair can be asked where things are, and last
whether the picture is a drawing.

Source of the fused levels: Panchenko, Bozhok, Kubytskyi, *Multi-Level CNN Feature Fusion from ResNet50 for
Near-Duplicate Image Detection in Real Estate Imagery*, 2026; of whitening them: Jégou and Chum, *Negative evidences
and co-occurences in image retrieval: the benefit of PCA and whitening*, 2012.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from core import errors

LEVELS: dict[str, int] = {"stem": 64, "layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}
"""The taps of the backbone and their channels; all together 3,904."""

CELL_LEVEL = "layer3"
"""The level whose regions are the cells: of the five the one that tells rooms and plans apart best."""

GRID = 7
CELLS = GRID * GRID

Vectors = npt.NDArray[np.float32]

DRAWING = 0.02
"""What a drawing has in its last value, other photos its negative: too little to change who is whose neighbour."""


@dataclasses.dataclass(frozen=True)
class Pooled:
    """What a backbone gives of n pictures: averages of whole levels, and of the regions of one.

    `levels` is (n, 3904) float32, all levels side by side; `cells` is (n, CELLS, 1024) float16, row by row.
    """

    levels: Vectors
    cells: npt.NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, rows: npt.NDArray[np.intp] | slice) -> Pooled:
        return Pooled(self.levels[rows], self.cells[rows])


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each part stands in a fused embedding. `levels` are the values of each, `cell` those of each cell."""

    levels: Mapping[str, int]
    cell: int

    @property
    def dims(self) -> int:
        """Length of the fused embedding."""
        return self.drawing + 1

    @property
    def slices(self) -> dict[str, slice]:
        """Where each level stands."""
        ends = np.cumsum(list(self.levels.values())).tolist()
        return {
            level: slice(end - size, end)
            for (level, size), end in zip(self.levels.items(), ends, strict=True)
        }

    @property
    def cells(self) -> slice:
        """Where the cells stand, one after the other."""
        start = sum(self.levels.values())
        return slice(start, start + CELLS * self.cell)

    @property
    def drawing(self) -> int:
        """Where the value stands that is above 0 for drawings."""
        return int(self.cells.stop)

    @property
    def cell_scale(self) -> float:
        """What a cell is multiplied by to have norm 1 again."""
        return float(np.sqrt(CELLS * (len(self.levels) + 1)))


@dataclasses.dataclass(frozen=True)
class Fusion:
    """How pooled levels and cells become one vector.

    Args:
        mean, std: (3904,) float32, of each channel of the pooled levels.
        projections: by level (channels, values) float32, applied to its standardised channels.
        cell_mean: (1024,) float32.
        cell_projection: (1024, values) float32.
        drawing_weight, drawing_bias: (3904,) and (1,) float32: above 0 says that the standardised levels are
            those of a drawing, such as a floor plan.

    Raises:
        ConfigurationError: a part has another shape than the levels ask for.
    """

    mean: Vectors
    std: Vectors
    projections: Mapping[str, Vectors]
    cell_mean: Vectors
    cell_projection: Vectors
    drawing_weight: Vectors
    drawing_bias: Vectors

    def __post_init__(self) -> None:
        if list(self.projections) != [level for level in LEVELS if level in self.projections]:
            raise errors.ConfigurationError(
                f"Fusion: expected levels out of {', '.join(LEVELS)} in this order, "
                f"found {', '.join(self.projections)}."
            )
        every, cells = sum(LEVELS.values()), LEVELS[CELL_LEVEL]
        parts = {
            "mean": (self.mean, (every,)),
            "std": (self.std, (every,)),
            "cell_mean": (self.cell_mean, (cells,)),
            "cell_projection": (self.cell_projection, (cells, self.cell_projection.shape[-1])),
            "drawing_weight": (self.drawing_weight, (every,)),
            "drawing_bias": (self.drawing_bias, (1,)),
        } | {
            f"projections.{level}": (values, (LEVELS[level], values.shape[-1]))
            for level, values in self.projections.items()
        }
        for name, (values, shape) in parts.items():
            if values.shape != shape:
                raise errors.ConfigurationError(
                    f"Fusion.{name}: expected shape {shape}, found {values.shape}."
                )

    @property
    def layout(self) -> Layout:
        """Where each part stands in the fused embedding."""
        sizes = {level: values.shape[1] for level, values in self.projections.items()}
        return Layout(sizes, self.cell_projection.shape[1])

    @property
    def dims(self) -> int:
        """Length of the fused embedding."""
        return self.layout.dims

    def drawings(self, levels: Vectors) -> npt.NDArray[np.bool_]:
        """(n,) whether pictures are drawings, by their (n, 3904) pooled levels, upright."""
        found: npt.NDArray[np.bool_] = self._standard(levels) @ self.drawing_weight + self.drawing_bias > 0
        return found

    def fuse(self, pooled: Pooled, drawings: npt.NDArray[np.bool_]) -> Vectors:
        """Standardise and project each level and cell, L2-normalise each, concatenate.

        Args:
            pooled: of n pictures; of drawings the average over their four quarter turns.
            drawings: (n,) which of them are drawings.

        Returns:
            (n, dims) float32; each row of norm 1 but for the last value, with an equal share of it for each level and
            for the cells together.
        """
        layout, standard = self.layout, self._standard(pooled.levels)
        fused = np.zeros((len(pooled), layout.dims), dtype=np.float32)
        for level, place in slices().items():
            if level in self.projections:
                fused[:, layout.slices[level]] = unit(standard[:, place] @ self.projections[level])
        cells = unit((pooled.cells.astype(np.float32) - self.cell_mean) @ self.cell_projection)
        fused[:, layout.cells] = cells.reshape(len(pooled), CELLS * layout.cell) / np.float32(np.sqrt(CELLS))
        fused /= np.float32(np.sqrt(len(layout.levels) + 1))
        fused[:, layout.drawing] = np.where(drawings, DRAWING, -DRAWING)
        return fused

    def _standard(self, levels: Vectors) -> Vectors:
        result: Vectors = (levels - self.mean) / self.std
        return result


def slices() -> dict[str, slice]:
    """Where each level stands in the (n, 3904) pooled ones."""
    return Layout(LEVELS, 0).slices


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    """The vectors along the last axis, each of norm 1, float32; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: Vectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32, copy=False)
    return result
