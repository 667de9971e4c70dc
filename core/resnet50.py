"""ResNet50 as torchvision defines it: same layers, same key names, same random start.

Source: He et al., *Deep Residual Learning for Image Recognition*, 2016, with the stride in the 3x3 convolution
(ResNet V1.5); the key names and the order of the layers are those of torchvision.models.resnet50.
"""

from __future__ import annotations

import torch
from torch import nn

# torchvision's own takes four seconds and 180 MB more of an embed worker: it imports torch's compiler, and that sympy.

_BLOCKS = {64: 3, 128: 4, 256: 6, 512: 3}
"""Bottlenecks of each layer, by their width."""
_EXPANSION = 4
_CLASSES = 1000


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut around them."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        wide = width * _EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, channels, side, side) to (n, 4 · width, side / stride, side / stride)."""
        shortcut = features if self.downsample is None else self.downsample(features)
        result = self.relu(self.bn1(self.conv1(features)))
        result = self.relu(self.bn2(self.conv2(result)))
        result = self.bn3(self.conv3(result))
        result += shortcut
        return self.relu(result)  # type: ignore[no-any-return]


class ResNet50(nn.Module):
    """The layers, with random weights drawn as torchvision draws them. It is run tap by tap: `core.resnet.Taps`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for number, (width, blocks) in enumerate(_BLOCKS.items(), start=1):
            strides = [1 if number == 1 else 2] + [1] * (blocks - 1)
            made = []
            for stride in strides:
                made.append(Bottleneck(channels, width, stride))
                channels = width * _EXPANSION
            self.add_module(f"layer{number}", nn.Sequential(*made))
        # Nobody asks for its classes; weight files have them, and the random start draws them before the rest.
        self.fc = nn.Linear(channels, _CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
