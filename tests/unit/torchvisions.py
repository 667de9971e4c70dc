"""Torchvision's own network, which ours is measured against."""

from __future__ import annotations

import torchvision

from core import embedding, resnet, weights


def backbone(source: weights.Weights) -> embedding.Backbone:
    """A backbone in fp32 that runs torchvision's network layer by layer."""
    network = torchvision.models.resnet50(weights=None)
    network.load_state_dict(source.state)
    made = embedding.Backbone(source, "cpu", "plain", "fp32")
    made._taps = resnet.unfolded(network)
    return made
