"""The four shapes that all furniture and houses are made of, and where rays meet them."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math

import numpy

from core.drawing import cameras, materials

_NEAR_METRES = 0.05
_CORNERS = numpy.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=numpy.float32)
_PAIRS = numpy.array([(a, b) for a in range(8) for b in range(a + 1, 8)])
_MISS = numpy.float32(numpy.inf)


@dataclasses.dataclass(frozen=True)
class Solid:
    """A shape (box, cylinder, ellipsoid or wedge) that fills the box `centre` plus or minus `half`.

    Metres; `turn` is in degrees, counter-clockwise seen from above. A wedge is a gable roof with its ridge along
    local y. What is not `opaque` to light (lamps, glass) throws no shadow.
    """

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    material: materials.Material
    shape: str = "box"
    turn: float = 0.0
    opaque: bool = True

    def moved(self, x: float, y: float, turn: float) -> Solid:
        """This solid with its surroundings turned about the origin by `turn` degrees, then moved to (x, y)."""
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        centre = (self.centre[0] * c - self.centre[1] * s + x, self.centre[0] * s + self.centre[1] * c + y)
        return dataclasses.replace(self, centre=(*centre, self.centre[2]), turn=self.turn + turn)

    @functools.cached_property
    def corners(self) -> materials.Array:
        """The corners (8, 3) of the box it fills."""
        return self._out(
            _CORNERS.T * numpy.asarray(self.half, dtype=numpy.float32)[:, None]
        ).T + numpy.asarray(self.centre, dtype=numpy.float32)

    def local(self, vectors: materials.Array) -> materials.Array:
        """World vectors (3, ...) in the frame where the solid fills [-1, 1] on each axis."""
        c, s = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        x, y, z = vectors
        if self.turn:
            x, y = x * c + y * s, y * c - x * s
        unit = numpy.empty_like(vectors)
        for axis, part in enumerate((x, y, z)):
            unit[axis] = part * (1 / self.half[axis])
        return unit

    def meet(self, origin: materials.Array, rays: materials.Array) -> materials.Array:
        """The ray parameter (...) at which rays (3, ...) from `origin` (3, ...) enter, infinite where they miss."""
        centre = numpy.asarray(self.centre, dtype=numpy.float32).reshape((3,) + (1,) * (origin.ndim - 1))
        return _SHAPES[self.shape](self.local(origin - centre), self.local(rays))

    def surface(self, points: materials.Array) -> tuple[materials.Array, materials.Array, materials.Array]:
        """At world points (3, n) on the solid: metres u (n,) and v (n,) along the surface, normals (3, n)."""
        centre = numpy.asarray(self.centre, dtype=numpy.float32)[:, None]
        unit = self.local(points - centre)
        half = numpy.asarray(self.half, dtype=numpy.float32)
        metres = unit * half[:, None]
        if self.shape == "box":
            face = numpy.abs(unit).argmax(axis=0)
            normal = numpy.sign(unit) * (numpy.arange(3)[:, None] == face)
            u = numpy.where(face == 0, metres[1], metres[0])
            v = numpy.where(face == 2, metres[1], metres[2])
            return u, v, self._out(normal.astype(numpy.float32))
        if self.shape == "wedge":
            gable = numpy.abs(unit[1]) > 0.999
            slope = numpy.stack([numpy.sign(unit[0]) * 2 / half[0], 0 * unit[1], 0 * unit[2] + 1 / half[2]])
            slope /= numpy.linalg.norm(slope, axis=0)
            end = numpy.stack([0 * unit[0], numpy.sign(unit[1]), 0 * unit[2]])
            u, v = numpy.where(gable, metres[0], metres[1]), metres[2]
            return u, v, self._out(numpy.where(gable, end, slope).astype(numpy.float32))
        around = numpy.arctan2(unit[1], unit[0]) * half[0]
        if self.shape == "cylinder":
            lid = numpy.abs(unit[2]) > 0.999
            side = numpy.stack([unit[0] / half[0], unit[1] / half[1], 0 * unit[2]])
            side /= numpy.maximum(numpy.linalg.norm(side, axis=0), 1e-6)
            cap = numpy.stack([0 * unit[0], 0 * unit[1], numpy.sign(unit[2])])
            normal = numpy.where(lid, cap, side)
            u, v = numpy.where(lid, metres[0], around), numpy.where(lid, metres[1], metres[2])
            return u, v, self._out(normal.astype(numpy.float32))
        normal = unit / half[:, None]
        normal /= numpy.maximum(numpy.linalg.norm(normal, axis=0), 1e-6)
        return around, metres[2], self._out(normal)

    def window(self, camera: cameras.Camera, width: int, height: int) -> tuple[slice, slice] | None:
        """Rows and columns of the picture that the solid may cover; None where it is out of sight."""
        seen = (self.corners - numpy.asarray(camera.position, dtype=numpy.float32)) @ camera.axes.T
        ahead = seen[:, 2] > _NEAR_METRES
        if not ahead.any():
            return None
        shown = seen[ahead]
        if not ahead.all():
            cut = _PAIRS[ahead[_PAIRS[:, 0]] != ahead[_PAIRS[:, 1]]]
            first, second = seen[cut[:, 0]], seen[cut[:, 1]]
            share = (_NEAR_METRES - first[:, 2]) / (second[:, 2] - first[:, 2])
            shown = numpy.concatenate([shown, first + share[:, None] * (second - first)])
        reach = math.tan(math.radians(camera.fov) / 2) / (width / 2)
        column = shown[:, 0] / shown[:, 2] / reach + width / 2
        row = height / 2 - shown[:, 1] / shown[:, 2] / reach
        left, right = max(int(column.min()) - 1, 0), min(int(column.max()) + 2, width)
        top, bottom = max(int(row.min()) - 1, 0), min(int(row.max()) + 2, height)
        if left >= right or top >= bottom:
            return None
        return slice(top, bottom), slice(left, right)

    def _out(self, vectors: materials.Array) -> materials.Array:
        c, s = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        x, y, z = vectors
        return numpy.stack([x * c - y * s, x * s + y * c, z]).astype(numpy.float32)


def _box(origin: materials.Array, rays: materials.Array) -> materials.Array:
    inverse = 1 / rays
    middle, spread = -origin * inverse, numpy.abs(inverse)
    enter = (middle - spread).max(axis=0)
    leave = (middle + spread).min(axis=0)
    return numpy.where((enter < leave) & (enter > 0), enter, _MISS)


def _round(a: materials.Array, b: materials.Array, c: materials.Array) -> materials.Array:
    """The smaller root of a t² + 2 b t + c, infinite where there is none."""
    discriminant = b * b - a * c
    root = (-b - numpy.sqrt(numpy.maximum(discriminant, 0))) / a
    return numpy.where((discriminant > 0) & (root > 0), root, _MISS)


def _ellipsoid(origin: materials.Array, rays: materials.Array) -> materials.Array:
    return _round((rays * rays).sum(0), (origin * rays).sum(0), (origin * origin).sum(0) - 1)


def _cylinder(origin: materials.Array, rays: materials.Array) -> materials.Array:
    flat_o, flat_r = origin[:2], rays[:2]
    side = _round((flat_r * flat_r).sum(0), (flat_o * flat_r).sum(0), (flat_o * flat_o).sum(0) - 1)
    reach = numpy.where(numpy.isfinite(side), side, 0)
    side = numpy.where(numpy.abs(origin[2] + reach * rays[2]) <= 1, side, _MISS)
    lid = (-numpy.sign(rays[2]) - origin[2]) / rays[2]
    across = flat_o + lid * flat_r
    lid = numpy.where(((across * across).sum(0) <= 1) & (lid > 0), lid, _MISS)
    return numpy.minimum(side, lid)


def _wedge(origin: materials.Array, rays: materials.Array) -> materials.Array:
    enter = numpy.full(rays.shape[1:], -_MISS)
    leave = numpy.full(rays.shape[1:], _MISS)
    # A convex solid is where all half-spaces n·p <= 1 meet: two slopes, two gables and the floor.
    for normal in ((2, 0, 1), (-2, 0, 1), (0, 1, 0), (0, -1, 0), (0, 0, -1)):
        along = sum(n * rays[k] for k, n in enumerate(normal) if n)
        gap = 1 - sum(n * origin[k] for k, n in enumerate(normal) if n)
        t = gap / along
        enter = numpy.where(along < 0, numpy.maximum(enter, t), enter)
        leave = numpy.where(along > 0, numpy.minimum(leave, t), leave)
    return numpy.where((enter < leave) & (enter > 0), enter, _MISS).astype(numpy.float32)


_SHAPES: dict[str, collections.abc.Callable[[materials.Array, materials.Array], materials.Array]] = {
    "box": _box,
    "cylinder": _cylinder,
    "ellipsoid": _ellipsoid,
    "wedge": _wedge,
}
