"""Tells drawings (floor plans, maps, sketches) from photos, without anybody's labels.

A picture that consists almost wholly of a few colours is a drawing, one that has many is a photo; what lies between
is not asked. From these sure cases the backbone's levels learn the rest: noise and blur cover up how few colours a
scanned plan has, but not what it shows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from core import fusing, images

_BITS = 4
_SURE, _SURELY_NOT = 0.9, 0.5
_LEAST = 8
_DECAY = 1e-2


def few_colours(pixels: images.Pixels) -> float:
    """Share of the pixels that have one of the four commonest of 4,096 colours.

    Args:
        pixels: (3, height, width) uint8 RGB.
    """
    red, green, blue = pixels.astype(np.int64) >> (8 - _BITS)
    colour = (red << 2 * _BITS) + (green << _BITS) + blue
    counts = np.sort(np.bincount(colour.ravel()))[::-1]
    return float(counts[:4].sum() / colour.size)


def fit(standard: fusing.Vectors, shares: npt.NDArray[np.float32]) -> tuple[fusing.Vectors, fusing.Vectors]:
    """A linear rule on levels that says which pictures are drawings.

    Args:
        standard: (n, 3904) float32, standardised pooled levels.
        shares: (n,) as `few_colours` gives them.

    Returns:
        Weight (3904,) and bias (1,), float32; with fewer than eight sure ones of either kind, one that calls
        nothing a drawing.
    """
    sure = shares > _SURE
    asked = sure | (shares < _SURELY_NOT)
    weight, bias = torch.zeros(standard.shape[1], requires_grad=True), torch.zeros(1, requires_grad=True)
    if min(int(sure.sum()), int((asked & ~sure).sum())) < _LEAST:
        return np.zeros(standard.shape[1], np.float32), np.full(1, -1.0, np.float32)
    inputs, target = torch.from_numpy(standard[asked]), torch.from_numpy(sure[asked].astype(np.float32))
    # Both kinds count alike, however rare drawings are.
    share = target.mean().clamp(1e-3, 1 - 1e-3)
    counts = torch.where(target > 0, 0.5 / share, 0.5 / (1 - share))
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            inputs @ weight + bias, target, weight=counts
        )
        loss = loss + _DECAY * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach().numpy(), bias.detach().numpy()
