"""The choice of materials that makes one home look unlike the next."""

from __future__ import annotations

import collections.abc
import dataclasses
import typing

import numpy

from core.drawing import materials

_T = typing.TypeVar("_T")

_WALLS: tuple[materials.Colour, ...] = (
    (0.93, 0.92, 0.89), (0.90, 0.86, 0.77), (0.80, 0.84, 0.82), (0.74, 0.80, 0.86), (0.88, 0.78, 0.70),
    (0.70, 0.75, 0.66), (0.86, 0.74, 0.74), (0.60, 0.64, 0.68), (0.94, 0.88, 0.66), (0.50, 0.58, 0.56),
    (0.78, 0.70, 0.80), (0.86, 0.86, 0.86),
)  # fmt: skip
_ACCENTS: tuple[materials.Colour, ...] = (
    (0.20, 0.31, 0.42), (0.56, 0.24, 0.19), (0.25, 0.38, 0.28), (0.72, 0.55, 0.20), (0.40, 0.26, 0.40),
    (0.16, 0.42, 0.44), (0.75, 0.42, 0.28), (0.30, 0.30, 0.32), (0.70, 0.62, 0.52), (0.62, 0.36, 0.44),
    (0.46, 0.52, 0.62), (0.82, 0.78, 0.70),
)  # fmt: skip
_WOODS: tuple[tuple[materials.Colour, materials.Colour], ...] = (
    ((0.78, 0.62, 0.44), (0.64, 0.47, 0.30)),
    ((0.55, 0.36, 0.22), (0.40, 0.24, 0.14)),
    ((0.34, 0.23, 0.17), (0.24, 0.15, 0.10)),
    ((0.86, 0.78, 0.66), (0.76, 0.66, 0.52)),
    ((0.66, 0.60, 0.54), (0.52, 0.47, 0.42)),
    ((0.64, 0.36, 0.24), (0.48, 0.25, 0.15)),
    ((0.90, 0.89, 0.87), (0.82, 0.81, 0.79)),
)
_STONES: tuple[tuple[materials.Colour, materials.Colour], ...] = (
    ((0.88, 0.87, 0.85), (0.62, 0.61, 0.60)),
    ((0.34, 0.36, 0.38), (0.62, 0.62, 0.62)),
    ((0.76, 0.68, 0.58), (0.56, 0.48, 0.40)),
    ((0.60, 0.66, 0.68), (0.88, 0.88, 0.88)),
    ((0.66, 0.42, 0.32), (0.80, 0.74, 0.68)),
    ((0.24, 0.40, 0.42), (0.86, 0.86, 0.84)),
    ((0.90, 0.90, 0.92), (0.40, 0.46, 0.56)),
)


def choose(rng: numpy.random.Generator, options: collections.abc.Sequence[_T]) -> _T:
    """One of `options`, all as likely."""
    return options[int(rng.integers(len(options)))]


@dataclasses.dataclass(frozen=True)
class Palette:
    """The materials of one room: its shell, what its furniture is made of and what is seen from its window."""

    wall: materials.Material
    feature: materials.Material
    floor: materials.Material
    ceiling: materials.Material
    trim: materials.Material
    wood: materials.Material
    front: materials.Material
    fabric: materials.Material
    second: materials.Material
    metal: materials.Material
    stone: materials.Material
    rug: materials.Material
    curtain: materials.Material
    view: materials.Material
    dark: materials.Material

    @classmethod
    def random(cls, rng: numpy.random.Generator, wet: bool = False) -> Palette:
        """A palette; `wet` rooms (kitchens, bathrooms) get hard floors and may be tiled to the ceiling."""
        seed = int(rng.integers(1, 10_000))
        wall = _tinted(rng, choose(rng, _WALLS))
        accent, second = (_tinted(rng, choose(rng, _ACCENTS)) for _ in range(2))
        wood, boards, front = (choose(rng, _WOODS) for _ in range(3))
        stone = choose(rng, _STONES)
        white = (0.95, 0.95, 0.94)
        trim = choose(rng, (white, white, white, wood[1], (0.30, 0.31, 0.33)))
        plain = materials.Material("plain", wall, materials.shade(wall, 0.7), seed=seed)
        metals = ((0.72, 0.73, 0.75), (0.13, 0.13, 0.14), (0.72, 0.58, 0.34))
        fabrics = ("fabric", "fabric", "stripes", "dots", "damask")
        return cls(
            wall=_wall_tiles(rng, stone, seed) if wet and rng.random() < 0.5 else plain,
            feature=_feature(rng, wall, accent, stone, seed),
            floor=_floor(rng, boards, stone, accent, seed, wet),
            ceiling=materials.Material("plain", (0.95, 0.95, 0.94), (0.85, 0.85, 0.84), seed=seed),
            trim=materials.Material("plain", trim, materials.shade(trim, 0.8)),
            wood=materials.Material("grain", *wood, seed=seed + 3),
            front=_front(rng, front, accent, seed),
            fabric=materials.Material("fabric", accent, materials.shade(accent, 0.6), seed=seed + 5),
            second=materials.Material(
                choose(rng, fabrics), second, choose(rng, (white, materials.shade(second, 0.6))),
                scale=float(rng.uniform(0.08, 0.2)), seed=seed + 6,
            ),
            metal=materials.Material("plain", choose(rng, metals), (0.4, 0.4, 0.4)),
            stone=materials.Material(choose(rng, ("marble", "terrazzo", "plain")), *stone, seed=seed + 8),
            rug=materials.Material(
                choose(rng, ("rug", "rug", "carpet", "stripes", "checker")), second, choose(rng, (white, accent)),
                scale=float(rng.uniform(0.2, 0.45)), seed=seed + 9,
            ),
            curtain=materials.Material(
                "stripes", accent, materials.mix(accent, (0.0, 0.0, 0.0), 0.18), scale=0.11, seed=seed
            ),
            view=materials.Material(
                "view", (0.42, 0.62, float(rng.uniform(0.78, 0.95))), choose(rng, _WALLS + _ACCENTS[:4]),
                seed=int(rng.integers(1, 5000)), emission=1.5,
            ),
            dark=materials.Material("plain", (0.06, 0.06, 0.07), (0.16, 0.16, 0.17)),
        )  # fmt: skip


def _tinted(rng: numpy.random.Generator, tone: materials.Colour) -> materials.Colour:
    red, green, blue = (float(numpy.clip(c + rng.normal(0, 0.025), 0.03, 0.97)) for c in tone)
    return red, green, blue


def _wall_tiles(
    rng: numpy.random.Generator, stone: tuple[materials.Colour, materials.Colour], seed: int
) -> materials.Material:
    pattern = choose(rng, ("tiles", "bricks", "tiles"))
    return materials.Material(pattern, *stone, scale=float(rng.uniform(0.12, 0.45)), seed=seed)


def _feature(
    rng: numpy.random.Generator,
    wall: materials.Colour,
    accent: materials.Colour,
    stone: tuple[materials.Colour, materials.Colour],
    seed: int,
) -> materials.Material:
    pattern = choose(rng, ("plain", "plain", "stripes", "damask", "bricks", "dots", "grain", "checker"))
    scale = float(rng.uniform(0.12, 0.4))
    if pattern == "bricks":
        return materials.Material("bricks", choose(rng, (stone[0], (0.60, 0.34, 0.26))), stone[1], 0.24, seed)
    if pattern in {"plain", "grain"}:
        return materials.Material(pattern, accent, materials.shade(accent, 0.75), scale, seed, turned=True)
    return materials.Material(pattern, wall, materials.mix(wall, accent, 0.45), scale, seed)


def _floor(
    rng: numpy.random.Generator,
    boards: tuple[materials.Colour, materials.Colour],
    stone: tuple[materials.Colour, materials.Colour],
    accent: materials.Colour,
    seed: int,
    wet: bool,
) -> materials.Material:
    soft = ("planks", "planks", "parquet", "carpet")
    pattern = choose(rng, ("tiles", "checker", "terrazzo", "planks", "tiles") if wet else soft)
    turned = bool(rng.integers(2))
    if pattern == "planks":
        return materials.Material(pattern, *boards, float(rng.uniform(0.09, 0.2)), seed, turned=turned)
    if pattern == "parquet":
        return materials.Material(pattern, *boards, float(rng.uniform(0.3, 0.5)), seed)
    if pattern == "carpet":
        tone = materials.mix(accent, (0.78, 0.74, 0.68), float(rng.uniform(0.3, 0.9)))
        return materials.Material(pattern, tone, materials.shade(tone, 0.72), seed=seed)
    return materials.Material(pattern, *stone, float(rng.uniform(0.2, 0.6)), seed)


def _front(
    rng: numpy.random.Generator,
    wood: tuple[materials.Colour, materials.Colour],
    accent: materials.Colour,
    seed: int,
) -> materials.Material:
    if rng.random() < 0.5:
        return materials.Material("grain", *wood, seed=seed + 4, turned=True)
    tone = choose(rng, (accent, materials.mix(accent, (0.95, 0.95, 0.93), 0.6), (0.93, 0.93, 0.91)))
    return materials.Material("plain", tone, materials.shade(tone, 0.75), seed=seed + 4)
