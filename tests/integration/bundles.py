"""A second bundle for a test: the shipped untrained one, turned a little, by the project's own functions."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from core import bundle, fusing, weights


def second(
    folder: pathlib.Path,
    *,
    name: str = "second",
    duplicate: float = 0.9,
    input_size: int = 224,
    weights_sha256: str = weights.UNTRAINED_SHA256,
) -> bundle.Bundle:
    """Another bundle for the untrained backbone.

    Its fusion has the values of the last level in another order, so that vectors of the two show which is whose.
    """
    first = bundle.for_backbone(weights.UNTRAINED_SHA256)
    projections = dict(first.fusion.projections)
    last = next(reversed(projections))
    projections[last] = projections[last][:, ::-1].copy()
    return bundle.save(
        folder,
        name=name,
        fusion=dataclasses.replace(first.fusion, projections=projections),
        classifier=first.classifier,
        backbone=dataclasses.replace(first.backbone, weights_sha256=weights_sha256),
        input_size=input_size,
        duplicate=duplicate,
        decision=min(duplicate, first.decision),
        review=first.review,
        training=first.training,
    )


def with_bias(fusion: fusing.Fusion, bias: float) -> fusing.Fusion:
    """A fusion that takes more pictures for drawings, or fewer."""
    return dataclasses.replace(fusion, drawing_bias=np.array([bias], np.float32))
