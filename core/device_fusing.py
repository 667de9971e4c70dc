"""What `fusing.Fusion` does, by torch on the backbone's device.

On a GPU an embedding leaves the device in place of the thirteen times larger cells; on a CPU numpy's own threads would
spin beside the forward passes' and take a tenth of their time.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from core import fusing


class DeviceFusion:
    """A fusion with its parts on one device. Gives what `fusing.Fusion` gives, to rounding."""

    def __init__(self, fusion: fusing.Fusion, device: torch.device) -> None:
        def there(values: fusing.Vectors) -> torch.Tensor:
            return torch.from_numpy(np.array(values, dtype=np.float32)).to(device)

        self._layout = fusion.layout
        self._mean, self._std = there(fusion.mean), there(fusion.std)
        self._projections = {level: there(values) for level, values in fusion.projections.items()}
        self._cell_mean, self._cell_projection = there(fusion.cell_mean), there(fusion.cell_projection)
        self._weight, self._bias = there(fusion.drawing_weight), there(fusion.drawing_bias)

    def drawings(self, levels: torch.Tensor) -> torch.Tensor:
        """(n,) bool, as `fusing.Fusion.drawings` says."""
        return self._standard(levels) @ self._weight + self._bias > 0

    def fuse(self, levels: torch.Tensor, cells: torch.Tensor, drawings: torch.Tensor) -> torch.Tensor:
        """(n, dims) float32, as `fusing.Fusion.fuse` says, of (n, 3904) levels and (n, 1024, GRID, GRID) cells."""
        standard = self._standard(levels)
        places = fusing.slices()
        parts = [_unit(standard[:, places[level]] @ values) for level, values in self._projections.items()]
        # Rounded as `fusing.Pooled` keeps them.
        by_cell = cells.flatten(2).transpose(1, 2).half().float()
        projected = _unit((by_cell - self._cell_mean) @ self._cell_projection)
        parts.append(projected.flatten(1) / math.sqrt(fusing.CELLS))
        share = math.sqrt(len(self._layout.levels) + 1)
        sign = torch.where(drawings, fusing.DRAWING, -fusing.DRAWING).to(levels.dtype)
        return torch.cat([torch.cat(parts, dim=1) / share, sign.unsqueeze(1)], dim=1)

    def _standard(self, levels: torch.Tensor) -> torch.Tensor:
        return (levels - self._mean) / self._std


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)
