"""The photo of the house from the street: a listing nearly always has one, and it has no duplicate here."""

from __future__ import annotations

import dataclasses
import math

import numpy
from PIL import Image

from core.drawing import cameras, furniture, materials, palettes, scenes, solids

_SIDE_METRES = 240.0
_GROUND = (
    ((0.28, 0.42, 0.20), (0.40, 0.52, 0.26)),
    ((0.40, 0.46, 0.24), (0.56, 0.56, 0.32)),
    ((0.52, 0.50, 0.47), (0.62, 0.60, 0.56)),
)
_WALLS = (
    ("bricks", (0.58, 0.32, 0.24), (0.74, 0.70, 0.66)),
    ("plain", (0.92, 0.90, 0.84), (0.8, 0.78, 0.72)),
    ("plain", (0.84, 0.74, 0.58), (0.74, 0.64, 0.5)),
    ("planks", (0.40, 0.48, 0.52), (0.34, 0.42, 0.46)),
    ("planks", (0.58, 0.26, 0.20), (0.50, 0.21, 0.17)),
    ("bricks", (0.70, 0.62, 0.48), (0.82, 0.78, 0.7)),
)
_ROOFS = ((0.32, 0.32, 0.35), (0.52, 0.27, 0.20), (0.24, 0.22, 0.22), (0.45, 0.40, 0.34))


@dataclasses.dataclass(frozen=True)
class Exterior:
    """A house in its garden; `front` is the middle of its street side, (x, y) in metres."""

    scene: scenes.Scene
    front: tuple[float, float]

    @classmethod
    def random(cls, rng: numpy.random.Generator) -> Exterior:
        """A house of one to three floors with its own walls, roof and windows."""
        p = palettes.Palette.random(rng)
        seed = int(rng.integers(1, 5000))
        middle = _SIDE_METRES / 2
        pattern, base, accent = palettes.choose(rng, _WALLS)
        wall = materials.Material(pattern, base, accent, 0.24, seed)
        ground = materials.Material("carpet", *palettes.choose(rng, _GROUND), seed=seed)
        sky = dataclasses.replace(p.view, emission=0.9)
        parts = furniture.turned(_house(rng, p, wall), middle, middle, 0) + furniture.turned(
            _garden(rng, p), middle, middle, 0
        )
        sun = float(rng.uniform(1.0, 1.9))
        side = palettes.choose(rng, (-1, 1))
        light = scenes.Light(
            (middle + side * 45, middle - 55, 70), (sun, sun * 0.97, sun * 0.9), 200, (1.5, 1.5, 1.5)
        )
        size = (_SIDE_METRES, _SIDE_METRES, _SIDE_METRES)
        shell = (sky, sky, sky, sky, ground, sky)
        return cls(scenes.Scene(size, shell, parts, (light,), (0.42, 0.44, 0.5)), (middle, middle))

    def view(self, camera: cameras.Camera, width: int = 640, height: int = 480) -> Image.Image:
        """The RGB photo of `width` x `height` pixels that `camera` takes."""
        return scenes.render(self.scene, camera, width, height)

    def camera(self, rng: numpy.random.Generator) -> cameras.Camera:
        """A camera on the pavement across the street."""
        away, aside = float(rng.uniform(12, 17)), float(rng.uniform(-8, 8))
        return cameras.Camera(
            position=(self.front[0] + aside, self.front[1] - away, float(rng.uniform(1.5, 2.2))),
            heading=-math.degrees(math.atan2(aside, away + 3)),
            pitch=float(rng.uniform(4, 9)),
            fov=float(rng.uniform(58, 68)),
            exposure=float(rng.uniform(0.9, 1.2)),
            warmth=float(rng.uniform(-0.3, 0.4)),
        )


def _house(rng: numpy.random.Generator, p: palettes.Palette, wall: materials.Material) -> furniture.Piece:
    wide, deep = float(rng.uniform(7, 13)), float(rng.uniform(6, 9))
    floors = int(rng.integers(1, 4))
    height = 2.9 * floors
    roof = materials.Material("bricks", palettes.choose(rng, _ROOFS), (0.2, 0.2, 0.2), 0.4, wall.seed)
    parts = [furniture.box(0, 0, 0, wide, deep, height, wall)]
    parts += _roof(rng, roof, wide, deep, height, p)
    columns = int(rng.integers(2, 5))
    entrance = int(rng.integers(columns))
    pane, tall = float(rng.uniform(0.9, 1.6)), float(rng.uniform(1.1, 1.7))
    bars = int(rng.integers(1, 4))
    shutters = rng.random() < 0.4
    glass = materials.Material("view", (0.35, 0.45, 0.55), (0.3, 0.3, 0.3), seed=wall.seed, emission=0.0)
    for floor in range(floors):
        for column in range(columns):
            x, z = (column - (columns - 1) / 2) * wide / columns, floor * 2.9 + 0.9
            if floor == 0 and column == entrance:
                parts += [
                    furniture.box(x, -0.06, 0.15, 1.2, 0.06, 2.3, p.trim),
                    furniture.box(x, -0.09, 0.2, 1.0, 0.04, 2.1, p.front),
                    furniture.box(x, -1.1, 0, 1.8, 1.1, 0.15, p.stone),
                    furniture.box(x, -0.9, 2.6, 1.9, 0.9, 0.12, p.trim),
                ]
                continue
            parts += [
                furniture.box(x, -0.05, z - 0.08, pane + 0.16, 0.05, tall + 0.16, p.trim),
                furniture.box(x, -0.06, z, pane, 0.02, tall, glass),
                furniture.box(x, -0.14, z - 0.14, pane + 0.3, 0.14, 0.07, p.trim),
                furniture.box(x, -0.08, z + tall * 0.6, pane, 0.03, 0.05, p.trim),
            ]
            parts += [
                furniture.box(x + (k / bars - 0.5) * pane, -0.08, z, 0.05, 0.03, tall, p.trim)
                for k in range(1, bars)
            ]
            if shutters:
                leaf = dataclasses.replace(p.fabric, pattern="stripes", scale=0.1, turned=True)
                parts += [
                    furniture.box(x + s * (pane / 2 + 0.3), -0.05, z, 0.44, 0.05, tall, leaf) for s in (-1, 1)
                ]
    return tuple(parts)


def _roof(
    rng: numpy.random.Generator,
    roof: materials.Material,
    wide: float,
    deep: float,
    height: float,
    p: palettes.Palette,
) -> list[solids.Solid]:
    kind = palettes.choose(rng, ("gable", "street", "flat"))
    if kind == "flat":
        return [furniture.box(0, -0.3, height, wide + 0.6, deep + 0.6, 0.35, p.trim)]
    rise = float(rng.uniform(2.0, 3.6))
    if kind == "gable":
        shape = furniture.box(0, -0.4, height, wide + 0.8, deep + 0.8, rise, roof, "wedge")
    else:
        half = (deep / 2 + 0.4, wide / 2 + 0.4, rise / 2)
        shape = solids.Solid((0, deep / 2, height + rise / 2), half, roof, "wedge", turn=90)
    chimney = furniture.box(wide * 0.28, deep * 0.5, height + rise * 0.3, 0.7, 0.7, rise, roof)
    return [shape, chimney]


def _garden(rng: numpy.random.Generator, p: palettes.Palette) -> furniture.Piece:
    leaves = materials.Material("leaves", (0.12, 0.24, 0.10), (0.34, 0.48, 0.22), seed=int(rng.integers(99)))
    bark = materials.Material("grain", (0.36, 0.26, 0.18), (0.24, 0.17, 0.12))
    road = materials.Material("terrazzo", (0.33, 0.33, 0.34), (0.4, 0.4, 0.4))
    parts = [
        furniture.box(0, -22, 0, 200, 14, 0.03, road),
        furniture.box(0, -8, 0, 200, 1.8, 0.06, p.stone),
        furniture.box(float(rng.uniform(-4, 4)), -6.5, 0, 1.6, 6.5, 0.05, p.stone),
    ]
    for side in (-1, 1):
        for _ in range(int(rng.integers(1, 3))):
            x, y = side * float(rng.uniform(7.5, 15)), float(rng.uniform(-4, 9))
            high, size = float(rng.uniform(3, 6)), float(rng.uniform(2.4, 4.5))
            parts.append(furniture.box(x, y + size / 2, 0, 0.4, 0.4, high, bark, "cylinder"))
            parts.append(furniture.box(x, y, high * 0.6, size, size, size * 1.1, leaves, "ellipsoid"))
    for _ in range(int(rng.integers(2, 7))):
        x, size = float(rng.uniform(-8, 8)), float(rng.uniform(0.7, 1.5))
        parts.append(furniture.box(x, -1.0 - size, -0.1, size, size, size, leaves, "ellipsoid"))
    if rng.random() < 0.5:
        parts.append(furniture.box(0, -6.2, 0, 26, 0.6, float(rng.uniform(0.6, 1.0)), leaves))
    return tuple(parts)
