"""The backbone: a ResNet50 tapped at several levels, and with a fusion what makes pixels a fused embedding.

Source: He et al., *Deep Residual Learning for Image Recognition*, 2015; for the fusion see `core.fusing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torchvision

from core import errors, fusing, weights

TURNS = 4
"""Quarter turns that a drawing's embedding is averaged over."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone:
    """A ResNet50 in evaluation mode on one device, tapped after the stem and each of its four layers."""

    def __init__(self, source: weights.Weights, device: str = "cpu") -> None:
        network = torchvision.models.resnet50(weights=None)
        state = {key: value for key, value in source.state.items() if not key.startswith("fc.")}
        wrong = network.load_state_dict(state, strict=False)
        missing = [key for key in wrong.missing_keys if not key.startswith("fc.")]
        if missing or wrong.unexpected_keys:
            raise errors.ConfigurationError(
                f"Backbone weights {source.name} are not those of a ResNet50: "
                f"missing {missing[:3]}, unexpected {wrong.unexpected_keys[:3]}."
            )
        self.weights_name = source.name
        self.weights_sha256 = source.sha256
        self.untrained = source.untrained
        self.device = torch.device(device)
        stem = torch.nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        taps = torch.nn.ModuleList([stem, network.layer1, network.layer2, network.layer3, network.layer4])
        self._taps = taps.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self._mean = torch.tensor(_IMAGENET_MEAN, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(_IMAGENET_STD, device=self.device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def pool(self, pixels: npt.NDArray[np.uint8], turns: int = 1) -> fusing.Pooled:
        """Averages of the levels' feature maps, of the whole and by region.

        Args:
            pixels: (n, 3, size, size) uint8 RGB.
            turns: 4 for the average over the quarter turns of each picture, its regions turned back into place: what
                a picture scanned on its side has in common with itself. It costs four passes.
        """
        batch = torch.from_numpy(pixels).to(self.device, non_blocking=True)
        upright = (batch.float().div_(255.0) - self._mean) / self._std
        levels, cells = self._pass(upright)
        for turn in range(1, turns):
            turned_levels, turned_cells = self._pass(torch.rot90(upright, turn, dims=(2, 3)))
            levels += turned_levels
            cells += torch.rot90(turned_cells, -turn, dims=(2, 3))
        return fusing.Pooled(
            levels=(levels / turns).cpu().numpy(),
            cells=(cells / turns).flatten(2).transpose(1, 2).half().cpu().numpy(),
        )

    def _pass(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = features.contiguous(memory_format=torch.channels_last)
        pooled: list[torch.Tensor] = []
        for name, tap in zip(fusing.LEVELS, self._taps, strict=True):
            features = tap(features)
            pooled.append(features.mean(dim=(2, 3)).float())
            if name == fusing.CELL_LEVEL:
                cells = torch.nn.functional.adaptive_avg_pool2d(features.float(), fusing.GRID)
        return torch.cat(pooled, dim=1), cells


class Embedder:
    """Backbone and fusion together: pixels in, fused embeddings out."""

    def __init__(self, backbone: Backbone, fusion: fusing.Fusion) -> None:
        self._backbone = backbone
        self._fusion = fusion

    @property
    def dims(self) -> int:
        """Length of the fused embedding."""
        return self._fusion.dims

    def embed(self, pixels: npt.NDArray[np.uint8]) -> fusing.Vectors:
        """Fused embeddings of a batch.

        A photo's vector does not depend on the batch that it travels in, to fp16 rounding. Drawings, such as floor
        plans, take four passes more, since they are scanned on their side.

        Args:
            pixels: (n, 3, size, size) uint8 RGB, as `images.decode` gives them.

        Returns:
            (n, dims) float32, as `fusing.Fusion.fuse` says.
        """
        return embed_by(self._backbone, [self._fusion], pixels)


def embed_by(
    backbone: Backbone, fusions: Sequence[fusing.Fusion], pixels: npt.NDArray[np.uint8]
) -> fusing.Vectors:
    """Fused embeddings of a batch by several fusions, which share the passes through the backbone.

    Returns:
        (n, sum of the fusions' dims) float32: each one's embeddings, side by side, as it alone would give them.
    """
    pooled = backbone.pool(pixels)
    drawings = [fusion.drawings(pooled.levels) for fusion in fusions]
    turned_rows = np.flatnonzero(np.logical_or.reduce(drawings))
    if not len(turned_rows):
        fused = [fusion.fuse(pooled, own) for fusion, own in zip(fusions, drawings, strict=True)]
        return np.concatenate(fused, axis=1)
    turned = backbone.pool(np.ascontiguousarray(pixels[turned_rows]), turns=TURNS)
    fused = []
    for fusion, own in zip(fusions, drawings, strict=True):
        # What is a drawing to one fusion need not be one to another.
        levels, cells, chosen = pooled.levels.copy(), pooled.cells.copy(), own[turned_rows]
        levels[own], cells[own] = turned.levels[chosen], turned.cells[chosen]
        fused.append(fusion.fuse(fusing.Pooled(levels, cells), own))
    return np.concatenate(fused, axis=1)


def choose_device(wanted: str) -> str:
    """``auto`` becomes ``cuda`` where there is a usable one, else ``cpu``; other names are checked.

    Raises:
        ConfigurationError: the named device cannot be used on this machine.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise errors.ConfigurationError(
            f"DEDUP_DEVICE={wanted} cannot be used here ({error}); set DEDUP_DEVICE=auto or cpu."
        ) from error
    return wanted
