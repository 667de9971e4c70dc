"""ResNet50 as a chain of taps, in the forms that run fastest: the time of a photo is the time of this forward pass.

Three forms of the same network, whose results agree to rounding:

- ``plain``: torch's own layers, each batch normalisation folded into the convolution before it;
- ``fused``: on CPUs, oneDNN's convolutions that add the shortcut and apply ReLU while they write, on weights that are
  laid out for them once. These are the operators that torch.compile calls, without a compiler and its minutes;
- ``compiled``: torch.compile of the plain form, for GPUs.

Source of folding: Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference*, 2018, section 3.2; of fusing: oneDNN developer guide, *Primitive Attributes: Post-ops*.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.nn.utils import fusion

from core import errors, fusing, resnet50, weights

Form = Literal["plain", "fused", "compiled"]

_PACKED_FOR = (8, 224)
"""Photos and side of the passes that weights are laid out for; others are right, too, and as fast but for a little."""

_FINE = 2
"""So many parts, from the stem on, do not bear bfloat16."""


class Taps(torch.nn.Module):
    """The stem and the four layers one after the other, with the averages of what each gives."""

    def __init__(self, stem: torch.nn.Module, layers: list[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList([stem, *layers])
        self._types = [torch.float32] * len(self.parts)

    def cast(self, wanted: torch.dtype) -> Taps:
        """Compute in this precision from now on; of bfloat16, the stem and the first layer in float16.

        Their weights, rounded to bfloat16, are what made its vectors differ: whitening enlarges most what they give.
        """
        rounded = wanted == torch.bfloat16
        self._types = [
            torch.float16 if rounded and place < _FINE else wanted for place in range(len(self.parts))
        ]
        for part, own in zip(self.parts, self._types, strict=True):
            part.to(own)
        return self

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, 3904) averages of all levels and (n, 1024, GRID, GRID) of the cells, both float32.

        `features` is (n, 3, size, size), float32, normalised, channels last.
        """
        pooled: list[torch.Tensor] = []
        for name, part, own in zip(fusing.LEVELS, self.parts, self._types, strict=True):
            features = part(features.to(own))
            # Summed up in full precision: fp16 and bf16 would round a second time.
            pooled.append(features.mean(dim=(2, 3), dtype=torch.float32))
            if name == fusing.CELL_LEVEL:
                cells = torch.nn.functional.adaptive_avg_pool2d(features.float(), fusing.GRID)
        return torch.cat(pooled, dim=1), cells


def load(source: weights.Weights) -> torch.nn.Module:
    """ResNet50 with these weights, in evaluation mode.

    Raises:
        ConfigurationError: the weights are not those of a ResNet50.
    """
    network = resnet50.ResNet50()
    state = {key: value for key, value in source.state.items() if not key.startswith("fc.")}
    wrong = network.load_state_dict(state, strict=False)
    missing = [key for key in wrong.missing_keys if not key.startswith("fc.")]
    if missing or wrong.unexpected_keys:
        raise errors.ConfigurationError(
            f"Backbone weights {source.name} are not those of a ResNet50: "
            f"missing {missing[:3]}, unexpected {wrong.unexpected_keys[:3]}."
        )
    return network.eval().requires_grad_(False)


def unfolded(network: Any) -> Taps:
    """The network layer by layer, as torchvision runs its own: what the others are measured against."""
    stem = torch.nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    return _channels_last(Taps(stem, _layers(network)))


def plain(network: Any) -> Taps:
    """Batch normalisations folded into the convolutions. Takes the network's layers over: it is not to be used on."""
    stem = torch.nn.Sequential(_folded(network.conv1, network.bn1), network.relu, network.maxpool)
    for layer in _layers(network):
        for block in layer.children():
            _fold_block(block)
    return _channels_last(Taps(stem, _layers(network)))


def fused(folded: Taps) -> Taps:
    """The plain form's convolutions by oneDNN, for float32 on a CPU. Takes no weights over.

    Raises:
        RuntimeError: this build of torch has not these operators.
    """
    if not (torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
        raise RuntimeError("this build of torch has no fused convolutions of oneDNN")
    stem: Any = folded.parts[0]
    photos, side = _PACKED_FOR
    layers: list[torch.nn.Module] = []
    first = _Convolution(stem[0], photos, side)
    side //= 4
    for layer in list(folded.parts)[1:]:
        blocks = []
        for block in layer.children():
            blocks.append(_Bottleneck(block, photos, side))
            side //= blocks[-1].stride
        layers.append(torch.nn.Sequential(*blocks))
    result = Taps(torch.nn.Sequential(first, stem[2]), layers)
    _check(result, folded)
    return result


def compiled(folded: Taps) -> Taps:
    """The plain form through torch.compile. Every batch size is compiled at its first call, for up to a minute.

    Raises at its first call whatever torch.compile does, such as for want of a C++ compiler.
    """
    return torch.compile(folded, dynamic=False)  # type: ignore[return-value]


class _Convolution(torch.nn.Module):
    """A convolution with its bias and, by default, ReLU; its weight laid out for passes of `photos` of this `side`."""

    def __init__(self, source: Any, photos: int, side: int, *, relu: bool = True) -> None:
        super().__init__()
        self._place = (source.padding, source.stride, source.dilation, source.groups)
        self._relu = "relu" if relu else "none"
        self.register_buffer("bias", source.bias.detach())
        self.register_buffer(
            "weight",
            torch.ops.mkldnn._reorder_convolution_weight(
                source.weight.detach(), *self._place, [photos, source.in_channels, side, side]
            ),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            features, self.weight, self.bias, *self._place, self._relu, [], ""
        )
        return result

    def onto(self, shortcut: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """ReLU of the convolution and `shortcut` together, written over `shortcut`."""
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise_(
            shortcut, features, self.weight, self.bias, *self._place, "add", 1.0, "relu", [], ""
        )
        return result


class _Bottleneck(torch.nn.Module):
    def __init__(self, source: Any, photos: int, side: int) -> None:
        super().__init__()
        self.stride = source.conv2.stride[0]
        self.first = _Convolution(source.conv1, photos, side)
        self.second = _Convolution(source.conv2, photos, side)
        self.third = _Convolution(source.conv3, photos, side // self.stride)
        self.shortcut = (
            None
            if source.downsample is None
            else _Convolution(source.downsample[0], photos, side, relu=False)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # Nobody reads a block's input after it, so the sum may be written there.
        shortcut = features if self.shortcut is None else self.shortcut(features)
        return self.third.onto(shortcut, self.second(self.first(features)))


def _check(fast: Taps, folded: Taps) -> None:
    """These operators are torch's own, not its public ones: another version might mean something else by them."""
    probe = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 4 - 2
    probe = probe.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for found, expected in zip(fast(probe), folded(probe), strict=True):
            if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
                raise RuntimeError("the fused convolutions of this build of torch give other results")


def _layers(network: Any) -> list[torch.nn.Module]:
    return [network.layer1, network.layer2, network.layer3, network.layer4]


def _fold_block(block: Any) -> None:
    for number in (1, 2, 3):
        convolution, norm = getattr(block, f"conv{number}"), getattr(block, f"bn{number}")
        setattr(block, f"conv{number}", _folded(convolution, norm))
        setattr(block, f"bn{number}", torch.nn.Identity())
    if block.downsample is not None:
        block.downsample = torch.nn.Sequential(_folded(*block.downsample))


def _folded(convolution: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> torch.nn.Conv2d:
    return fusion.fuse_conv_bn_eval(convolution, norm)


def _channels_last(taps: Taps) -> Taps:
    taps = taps.eval().requires_grad_(False)
    return taps.to(memory_format=torch.channels_last)
