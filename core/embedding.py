"""The backbone: a ResNet50 tapped at several levels, and with a fusion what makes pixels a fused embedding.

Source: He et al., *Deep Residual Learning for Image Recognition*, 2015; for the fusion see `core.fusing`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torchvision

from core import errors, weights
from core.fusing import LEVELS, Fusion, Vectors

__all__ = ["LEVELS", "Backbone", "Embedder", "Fusion", "Vectors", "choose_device"]

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
    def pool(self, pixels: npt.NDArray[np.uint8], levels: tuple[str, ...] = tuple(LEVELS)) -> Vectors:
        """Global averages of the levels' feature maps.

        Args:
            pixels: (n, 3, height, width) uint8 RGB.
            levels: which taps to return, in the backbone's order.

        Returns:
            (n, dims) float32, the levels side by side.
        """
        batch = torch.from_numpy(pixels).to(self.device, non_blocking=True)
        features = (batch.float().div_(255.0) - self._mean) / self._std
        features = features.contiguous(memory_format=torch.channels_last)
        pooled: list[torch.Tensor] = []
        for name, tap in zip(LEVELS, self._taps, strict=True):
            features = tap(features)
            if name in levels:
                pooled.append(features.mean(dim=(2, 3)))
        result: Vectors = torch.cat(pooled, dim=1).float().cpu().numpy()
        return result


class Embedder:
    """Backbone and fusion together: pixels in, fused embeddings out."""

    def __init__(self, backbone: Backbone, fusion: Fusion) -> None:
        self._backbone = backbone
        self._fusion = fusion

    @property
    def dims(self) -> int:
        """Length of the fused embedding."""
        return self._fusion.dims

    def embed(self, pixels: npt.NDArray[np.uint8]) -> Vectors:
        """Fused embeddings of a batch.

        A photo's vector does not depend on the batch that it travels in, to fp16 rounding.

        Args:
            pixels: (n, 3, size, size) uint8 RGB, as `images.decode` gives them.

        Returns:
            (n, dims) float32, each row of norm 1.
        """
        return self._fusion.fuse(self._backbone.pool(pixels, self._fusion.levels))


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
