"""The pinhole camera: two photos of one room from different angles differ in nothing but this."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy

from core.drawing import materials


@dataclasses.dataclass(frozen=True)
class Camera:
    """Where the photographer stands.

    `position`: metres (x east, y north, z up). `heading`: degrees clockwise from north; `pitch`: degrees above
    the horizon; `fov`: degrees across the width of the picture. `exposure` multiplies the light;
    `warmth` in [-1, 1] turns the white balance to red.
    """

    position: tuple[float, float, float]
    heading: float
    pitch: float = -4.0
    fov: float = 74.0
    exposure: float = 1.0
    warmth: float = 0.0

    @functools.cached_property
    def axes(self) -> materials.Array:
        """The rows right, up, forward, (3, 3), unit length."""
        heading, pitch = math.radians(self.heading), math.radians(self.pitch)
        right = numpy.array([math.cos(heading), -math.sin(heading), 0.0])
        forward = numpy.array(
            [math.sin(heading) * math.cos(pitch), math.cos(heading) * math.cos(pitch), math.sin(pitch)]
        )
        up = numpy.array(
            [-math.sin(heading) * math.sin(pitch), -math.cos(heading) * math.sin(pitch), math.cos(pitch)]
        )
        return numpy.stack([right, up, forward]).astype(numpy.float32)

    def rays(self, width: int, height: int) -> materials.Array:
        """Directions (3, height, width) whose part along the camera's axis is 1, so that t is depth."""
        right, up, forward = self.axes
        reach = math.tan(math.radians(self.fov) / 2)
        across = ((numpy.arange(width, dtype=numpy.float32) + 0.5) / width * 2 - 1) * reach
        down = (1 - (numpy.arange(height, dtype=numpy.float32) + 0.5) / height * 2) * (reach * height / width)
        flat = right[:, None, None] * across[None, None, :] + up[:, None, None] * down[None, :, None]
        return numpy.asarray(flat + forward[:, None, None], dtype=numpy.float32)
