"""Pieces of furniture, each a handful of solids, with enough free choices that no two homes share one.

A piece stands with its back at y = 0, faces +y and is centred on x = 0 (metres, z up from the floor).
"""

from __future__ import annotations

import dataclasses
import typing

import numpy

from core.drawing import materials, palettes, solids

Piece: typing.TypeAlias = tuple[solids.Solid, ...]

_PORCELAIN = materials.Material("plain", (0.95, 0.95, 0.95), (0.86, 0.87, 0.88))
_CHROME = materials.Material("plain", (0.74, 0.76, 0.79), (0.5, 0.5, 0.52))
_PAPER = materials.Material("plain", (0.96, 0.95, 0.92), (0.9, 0.9, 0.88))
_SHADE = materials.Material("plain", (0.97, 0.90, 0.74), (0.97, 0.9, 0.74), emission=1.1)
_LEAVES = materials.Material("leaves", (0.10, 0.22, 0.09), (0.36, 0.52, 0.24))


def box(
    x: float, y: float, z: float, width: float, depth: float, height: float, material: materials.Material,
    shape: str = "box",
) -> solids.Solid:  # fmt: skip
    """A solid `width` x `depth` x `height`, centred at `x`, its back at `y` and its foot at `z`."""
    centre = (x, y + depth / 2, z + height / 2)
    return solids.Solid(centre, (width / 2, depth / 2, height / 2), material, shape)


def turned(piece: Piece, x: float, y: float, degrees: float) -> Piece:
    """`piece` turned counter-clockwise about its origin, then moved to (x, y)."""
    return tuple(solid.moved(x, y, degrees) for solid in piece)


def raised(piece: Piece, height: float) -> Piece:
    """`piece` lifted by `height` metres."""
    return tuple(
        dataclasses.replace(s, centre=(s.centre[0], s.centre[1], s.centre[2] + height)) for s in piece
    )


def _legs(
    width: float, depth: float, height: float, material: materials.Material, size: float = 0.05
) -> Piece:
    return tuple(
        box(x * (width / 2 - size), y, 0, size, size, height, material)
        for x in (-1, 1)
        for y in (size / 2, depth - 1.5 * size)
    )


def sofa(rng: numpy.random.Generator, p: palettes.Palette, seats: int | None = None) -> Piece:
    """A sofa, or an armchair with `seats` = 1."""
    seats = seats or int(rng.integers(2, 4))
    width, depth = 0.72 * seats + 0.35, rng.uniform(0.85, 1.0)
    arm, seat, back = rng.uniform(0.1, 0.24), rng.uniform(0.38, 0.46), rng.uniform(0.72, 0.95)
    foot = palettes.choose(rng, (0.03, 0.14))
    cloth = palettes.choose(rng, (p.fabric, p.second if p.second.pattern == "fabric" else p.fabric))
    parts = [
        box(0, 0, foot, width, depth, seat - 0.16 - foot, cloth),
        box(0, 0, foot, width, 0.2, back - foot, cloth),
        *_legs(width, depth, foot, p.wood),
    ]
    parts += [box(x * (width - arm) / 2, 0, foot, arm, depth, seat + 0.14 - foot, cloth) for x in (-1, 1)]
    inner = (width - 2 * arm) / seats
    parts += [
        box((k - (seats - 1) / 2) * inner, 0.18, seat - 0.15, inner - 0.025, depth - 0.17, 0.15, cloth)
        for k in range(seats)
    ]
    for side in (-1, 1):
        if rng.random() < 0.75:
            cushion = box(0, 0, seat, 0.42, 0.14, 0.4, p.second)
            parts += turned((cushion,), side * (width / 2 - arm - 0.26), 0.22, side * 12)
    return tuple(parts)


def coffee_table(rng: numpy.random.Generator, p: palettes.Palette) -> Piece:
    """A low table, oblong or round, with something lying on it."""
    height = rng.uniform(0.34, 0.45)
    top = palettes.choose(rng, (p.wood, p.stone, p.front))
    things = (
        box(0.12, 0.2, height + 0.04, 0.28, 0.2, 0.04, p.second),
        box(-0.2, 0.25, height + 0.04, 0.11, 0.11, 0.2, p.fabric, "cylinder"),
    )
    if rng.random() < 0.4:
        size = rng.uniform(0.75, 1.0)
        return (
            box(0, 0, height, size, size, 0.04, top, "cylinder"),
            box(0, size / 2 - 0.12, 0, 0.24, 0.24, height, p.metal, "cylinder"),
            *things,
        )
    width = rng.uniform(0.9, 1.3)
    shelf = box(0, 0.04, 0.12, width - 0.1, 0.5, 0.03, top)
    return (box(0, 0, height, width, 0.6, 0.04, top), *_legs(width, 0.6, height, p.wood), shelf, *things)


def television(rng: numpy.random.Generator, p: palettes.Palette) -> Piece:
    """A low cabinet with drawers and a screen."""
    width, screen = rng.uniform(1.3, 2.0), rng.uniform(0.95, 1.3)
    height = rng.uniform(0.35, 0.55)
    return (
        *cabinet(width, 0.42, height, int(rng.integers(2, 5)), p.front, p.metal),
        box(0, 0.14, height + 0.05, screen, 0.05, screen * 0.57, p.dark),
        box(0, 0.12, height, 0.3, 0.15, 0.05, p.dark),
        *((raised(plant(rng, p, 0.35), height)) if rng.random() < 0.3 else ()),
    )


def cabinet(
    width: float,
    depth: float,
    height: float,
    doors: int,
    front: materials.Material,
    metal: materials.Material,
) -> Piece:
    """A closed cabinet with `doors` doors side by side, their gaps and handles."""
    each = width / doors
    parts = [box(0, 0, 0, width, depth - 0.02, height, front)]
    for k in range(doors):
        x = (k - (doors - 1) / 2) * each
        parts.append(box(x, depth - 0.02, 0.03, each - 0.018, 0.02, height - 0.045, front))
        side = 1 if k % 2 == 0 else -1
        reach = x + side * (each / 2 - 0.07)
        parts.append(box(reach, depth, height * 0.5 - 0.06, 0.015, 0.025, min(0.28, height * 0.3), metal))
    return tuple(parts)


def drawers(width: float, depth: float, height: float, rows: int, p: palettes.Palette) -> Piece:
    """A chest with `rows` drawers."""
    each = height / rows
    parts = [box(0, 0, 0, width, depth - 0.02, height, p.wood)]
    for k in range(rows):
        parts.append(box(0, depth - 0.02, k * each + 0.01, width - 0.03, 0.02, each - 0.02, p.front))
        parts.append(box(0, depth, (k + 0.55) * each, width * 0.3, 0.02, 0.018, p.metal))
    return tuple(parts)


def wardrobe(rng: numpy.random.Generator, p: palettes.Palette) -> Piece:
    """A tall wardrobe."""
    doors = int(rng.integers(2, 5))
    return cabinet(doors * rng.uniform(0.45, 0.6), 0.6, rng.uniform(1.95, 2.3), doors, p.front, p.metal)


def bookcase(rng: numpy.random.Generator, p: palettes.Palette) -> Piece:
    """Open shelves with books."""
    width, height, rows = rng.uniform(0.8, 1.6), rng.uniform(1.5, 2.2), int(rng.integers(4, 6))
    each = (height - 0.08) / rows
    parts = [box(0, 0, 0, width, 0.03, height, p.wood), box(0, 0, height - 0.03, width, 0.32, 0.03, p.wood)]
    parts += [box(x * (width - 0.03) / 2, 0, 0, 0.03, 0.32, height, p.wood) for x in (-1, 1)]
    for k in range(rows):
        z = 0.05 + k * each
        parts.append(box(0, 0, z, width, 0.3, 0.025, p.wood))
        tomes = materials.Material("books", (0, 0, 0), seed=int(rng.integers(1, 4000)))
        filled = rng.uniform(0.35, 0.95) * (width - 0.08)
        left = rng.uniform(0, width - 0.08 - filled) - width / 2 + 0.04
        parts.append(
            box(left + filled / 2, 0.04, z + 0.025, filled, 0.2, each * rng.uniform(0.6, 0.85), tomes)
        )
    return tuple(parts)


def bed(rng: numpy.random.Generator, p: palettes.Palette) -> Piece:
    """A bed with headboard, pillows, duvet and throw, and a table with a lamp on one side or both."""
    width, seat = palettes.choose(rng, (0.95, 1.45, 1.65, 1.85)), rng.uniform(0.42, 0.58)
    head = rng.uniform(0.85, 1.35)
    board = palettes.choose(rng, (p.wood, p.fabric, p.front))
    linen = palettes.choose(rng, (_PAPER, _PAPER, p.second, p.fabric))
    parts = [
        box(0, 0, 0.1, width + 0.1, 0.08, head - 0.1, board),
        box(0, 0.05, 0.12, width + 0.06, 2.02, 0.2, board),
        box(0, 0.08, 0.3, width, 1.95, seat - 0.3, _PAPER),
        box(0, 0.62, seat - 0.2, width + 0.06, 1.45, 0.25, linen),
        *_legs(width, 2.0, 0.14, p.wood, 0.07),
    ]
    throw = p.second if linen is p.fabric else p.fabric
    parts.append(box(0, 1.4, seat - 0.19, width + 0.08, 0.5, 0.255, throw))
    for k in range(1 if width < 1 else 2):
        x = 0.0 if width < 1 else (k - 0.5) * width * 0.5
        parts.append(box(x, 0.14, seat, 0.62, 0.4, 0.17, _PAPER, "ellipsoid"))
        parts.append(box(x, 0.34, seat + 0.02, 0.4, 0.2, 0.26, throw, "ellipsoid"))
    sides = palettes.choose(rng, ((-1,), (1,), (-1, 1)))
    for side in sides:
        stand = (*drawers(0.45, 0.4, 0.48, 2, p), *raised(table_lamp(rng, p), 0.48))
        parts += turned(stand, side * (width / 2 + 0.33), 0.02, 0)
    return tuple(parts)


def table_lamp(rng: numpy.random.Generator, p: palettes.Palette) -> Piece:
    """A small lamp that glows."""
    base = palettes.choose(rng, (p.metal, p.fabric, p.stone))
    shade = dataclasses.replace(box(0, 0.1, 0.22, 0.26, 0.26, 0.2, _SHADE, "cylinder"), opaque=False)
    return (box(0, 0.17, 0, 0.12, 0.12, 0.22, base, palettes.choose(rng, ("cylinder", "ellipsoid"))), shade)


def floor_lamp(rng: numpy.random.Generator, p: palettes.Palette) -> Piece:
    """A standing lamp."""
    height, size = rng.uniform(1.3, 1.7), rng.uniform(0.3, 0.5)
    shade = box(0, 0.05, height, size, size, 0.3, _SHADE, palettes.choose(rng, ("cylinder", "ellipsoid")))
    return (
        box(0, 0.05 + size / 2 - 0.13, 0, 0.26, 0.26, 0.03, p.metal, "cylinder"),
        box(0, 0.05 + size / 2 - 0.015, 0, 0.03, 0.03, height, p.metal, "cylinder"),
        dataclasses.replace(shade, opaque=False),
    )


def plant(rng: numpy.random.Generator, p: palettes.Palette, size: float = 1.0) -> Piece:
    """A pot plant `size` times as high as a person's waist."""
    pot = palettes.choose(rng, (p.second, p.stone, p.fabric, p.wood))
    parts = [box(0, 0.1 * size, 0, 0.34 * size, 0.34 * size, 0.34 * size, pot, "cylinder")]
    for _ in range(int(rng.integers(4, 8))):
        x, y = rng.uniform(-0.16, 0.16) * size, rng.uniform(0.0, 0.2) * size
        wide, high = rng.uniform(0.14, 0.3) * size, rng.uniform(0.35, 0.7) * size
        leaf = box(x, y, rng.uniform(0.32, 0.7) * size, wide, wide * 0.6, high, _LEAVES, "ellipsoid")
        parts.append(dataclasses.replace(leaf, turn=float(rng.uniform(0, 180))))
    return tuple(parts)


def chair(rng: numpy.random.Generator, p: palettes.Palette, upholstered: bool) -> Piece:
    """A dining chair that looks to +y."""
    seat = p.second if upholstered else p.wood
    frame = palettes.choose(rng, (p.wood, p.metal))
    high = rng.uniform(0.8, 1.0)
    return (
        *_legs(0.44, 0.46, 0.44, frame, 0.04),
        box(0, 0, 0.44, 0.44, 0.46, 0.05, seat),
        *(box(x * 0.19, 0, 0.49, 0.04, 0.04, high - 0.49, frame) for x in (-1, 1)),
        box(0, 0, high - 0.3, 0.42, 0.035, 0.3, seat),
    )


def dining_set(rng: numpy.random.Generator, p: palettes.Palette) -> Piece:
    """A table with chairs around it."""
    top, upholstered = palettes.choose(rng, (p.wood, p.stone, p.front)), bool(rng.integers(2))
    style = int(rng.integers(1 << 30))
    vase = box(0, 0.85, 0.76, 0.14, 0.14, 0.26, p.fabric, "cylinder")
    flowers = box(0, 0.76, 0.98, 0.32, 0.32, 0.28, _LEAVES, "ellipsoid")
    if rng.random() < 0.35:
        size = rng.uniform(1.0, 1.25)
        parts = [
            box(0, 0.92 - size / 2, 0.72, size, size, 0.04, top, "cylinder"),
            box(0, 0.8, 0.03, 0.2, 0.24, 0.7, p.metal, "cylinder"),
            box(0, 0.62, 0, 0.6, 0.6, 0.03, p.metal, "cylinder"),
        ]
        seats = [(size * 0.62, angle) for angle in (20.0, 110.0, 200.0, 290.0)]
        for reach, angle in seats:
            one = turned(chair(numpy.random.default_rng(style), p, upholstered), 0, -reach - 0.1, 0)
            parts += turned(one, 0, 0.92, angle)
        return (*parts, vase, flowers)
    width = rng.uniform(1.3, 2.0)
    parts = [box(0, 0.5, 0.72, width, 0.85, 0.04, top)]
    parts += turned(_legs(width - 0.1, 0.75, 0.72, p.wood, 0.07), 0, 0.55, 0)
    across = 2 if width < 1.6 else 3
    for k in range(across):
        x = (k - (across - 1) / 2) * width / across
        for y, angle in ((0.18, 0.0), (1.67, 180.0)):
            one = chair(numpy.random.default_rng(style), p, upholstered)
            parts += turned(one, x, y, angle + float(rng.uniform(-8, 8)))
    return (*parts, vase, flowers)


def desk(rng: numpy.random.Generator, p: palettes.Palette) -> Piece:
    """A desk with a screen, a lamp and a chair drawn up to it."""
    width = rng.uniform(1.1, 1.7)
    side = palettes.choose(rng, (-1, 1))
    return (
        box(0, 0, 0.71, width, 0.65, 0.035, p.wood),
        *_legs(width, 0.65, 0.71, palettes.choose(rng, (p.metal, p.wood))),
        *turned(drawers(0.4, 0.55, 0.66, 3, p), side * (width / 2 - 0.25), 0.05, 0),
        box(0, 0.12, 0.85, 0.6, 0.04, 0.36, p.dark),
        box(0, 0.08, 0.745, 0.2, 0.15, 0.11, p.dark),
        box(0, 0.36, 0.745, 0.42, 0.14, 0.02, _PAPER),
        *raised(turned(table_lamp(rng, p), -side * (width / 2 - 0.2), 0.05, 0), 0.745),
        *turned(chair(rng, p, True), -side * 0.15, 1.05, 180 + float(rng.uniform(-25, 25))),
    )
