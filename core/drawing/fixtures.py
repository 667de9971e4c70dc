"""What is built into a room: windows, doors, pictures, and the units of kitchens and bathrooms.

The frame is that of `furniture`: back at y = 0, facing +y, centred on x = 0, metres.
"""

from __future__ import annotations

import dataclasses

import numpy

from core.drawing import furniture, materials, palettes

_PORCELAIN = materials.Material("plain", (0.95, 0.95, 0.95), (0.86, 0.87, 0.88))
_CHROME = materials.Material("plain", (0.74, 0.76, 0.79), (0.5, 0.5, 0.52))
_GLASS = materials.Material("plain", (0.60, 0.68, 0.70), (0.8, 0.85, 0.86))

box = furniture.box


def window(
    p: palettes.Palette, width: float, foot: float, head: float, panes: tuple[int, int], dressing: str
) -> furniture.Piece:
    """A window from `foot` to `head` with panes (across, up); `dressing`: curtains, blind or none."""
    height = head - foot
    glass = dataclasses.replace(box(0, 0, foot, width, 0.01, height, p.view), opaque=False)
    bar = 0.05
    parts = [glass, box(0, 0, foot - 0.05, width + 0.2, 0.16, 0.04, p.trim)]
    parts += [box(0, 0, z, width + 0.12, 0.05, 0.07, p.trim) for z in (foot - 0.02, head - 0.05)]
    parts += [box(x * width / 2, 0, foot, 0.07, 0.05, height, p.trim) for x in (-1, 1)]
    across, up = panes
    parts += [box((k / across - 0.5) * width, 0, foot, bar, 0.04, height, p.trim) for k in range(1, across)]
    parts += [box(0, 0, foot + k / up * height, width, 0.035, bar, p.trim) for k in range(1, up)]
    if dressing == "curtains":
        parts.append(box(0, 0.06, head + 0.12, width + 0.9, 0.03, 0.03, p.metal))
        low = 0.03 if foot < 0.95 else foot - 0.2
        parts += [
            box(x * (width / 2 + 0.17), 0.04, low, 0.42, 0.08, head + 0.12 - low, p.curtain) for x in (-1, 1)
        ]
    if dressing == "blind":
        parts.append(box(0, 0.05, head - height * 0.3, width + 0.04, 0.03, height * 0.33, p.second))
    return tuple(parts)


def door(rng: numpy.random.Generator, p: palettes.Palette) -> furniture.Piece:
    """A closed door in its frame, with two or four panels."""
    leaf = palettes.choose(rng, (p.trim, p.wood, p.front))
    rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    parts = [
        box(0, 0, 0, 0.86, 0.03, 2.04, leaf),
        *(box(x * 0.47, 0, 0, 0.09, 0.05, 2.1, p.trim) for x in (-1, 1)),
        box(0, 0, 2.03, 1.03, 0.05, 0.09, p.trim),
        box(0.34, 0.03, 1.0, 0.13, 0.05, 0.025, p.metal),
    ]
    wide, high = 0.74 / columns, 1.76 / rows
    for i in range(columns):
        for j in range(rows):
            x, z = (i - (columns - 1) / 2) * wide, 0.16 + j * high
            parts.append(box(x, 0.03, z, wide - 0.08, 0.015, high - 0.1, leaf))
    return tuple(parts)


def picture(rng: numpy.random.Generator, p: palettes.Palette, count: int) -> furniture.Piece:
    """`count` framed pictures in a row."""
    parts = []
    width, height = rng.uniform(0.35, 0.9), rng.uniform(0.4, 0.8)
    width = min(width, 1.6 / count)
    for k in range(count):
        x, z = (k - (count - 1) / 2) * (width + 0.12), 1.65 - height / 2
        ground, tone = (tuple(rng.uniform(0.1, 0.95, 3).tolist()) for _ in range(2))
        art = materials.Material("art", ground, tone, float(height / 1.2), int(rng.integers(1, 1 << 20)))
        parts.append(
            box(x, 0, z, width, 0.03, height, palettes.choose(rng, (p.wood, p.dark, p.trim, p.metal)))
        )
        parts.append(box(x, 0.03, z + 0.03, width - 0.06, 0.005, height - 0.06, art))
    return tuple(parts)


def mirror(rng: numpy.random.Generator, p: palettes.Palette) -> furniture.Piece:
    """A framed mirror, matt as seen from afar."""
    shape = palettes.choose(rng, ("box", "ellipsoid"))
    return (
        box(0, 0, 1.2, 0.66, 0.04, 0.86, p.metal, shape),
        box(0, 0.012, 1.23, 0.6, 0.04, 0.8, _GLASS, shape),
    )


def radiator(p: palettes.Palette, width: float = 0.9) -> furniture.Piece:
    """A panel radiator."""
    ribs = materials.Material("stripes", (0.94, 0.94, 0.93), (0.82, 0.82, 0.81), scale=0.06)
    return (
        box(0, 0.03, 0.15, width, 0.09, 0.5, ribs),
        box(width / 2 + 0.03, 0.05, 0, 0.03, 0.03, 0.2, p.metal),
    )


def kitchen(rng: numpy.random.Generator, p: palettes.Palette, width: float) -> furniture.Piece:
    """A run of units: base cabinets, worktop, splashback, hob with hood, sink, wall cabinets or shelves."""
    units = max(int(width / 0.6), 3)
    wide = units * 0.6
    base = furniture.raised(furniture.cabinet(wide, 0.6, 0.76, units, p.front, p.metal), 0.1)
    tiles = dataclasses.replace(p.feature, pattern="bricks" if rng.random() < 0.5 else "tiles", scale=0.16)
    hob = (rng.integers(1, units - 1) - (units - 1) / 2) * 0.6
    sink = -hob if abs(hob) > 0.4 else hob + 0.9
    parts = [
        box(0, 0, 0, wide, 0.52, 0.1, p.dark),
        *base,
        box(0, 0, 0.86, wide + 0.02, 0.63, 0.04, p.stone),
        box(0, 0, 0.9, wide, 0.012, 0.52, tiles),
        box(hob, 0.58, 0.2, 0.56, 0.045, 0.56, p.dark),
        box(hob, 0.62, 0.68, 0.44, 0.03, 0.02, _CHROME),
        box(hob, 0.07, 0.9, 0.56, 0.48, 0.008, p.dark),
        box(sink, 0.1, 0.9, 0.5, 0.4, 0.004, _CHROME),
        box(sink, 0.08, 0.9, 0.03, 0.03, 0.3, _CHROME, "cylinder"),
        box(sink, 0.08, 1.18, 0.03, 0.2, 0.025, _CHROME),
        box(wide / 2 - 0.3, 0.12, 0.9, 0.2, 0.2, 0.22, p.metal, "cylinder"),
    ]
    parts += [
        box(hob + dx, 0.15 + dy, 0.908, 0.18, 0.18, 0.004, p.metal, "cylinder")
        for dx in (-0.13, 0.13)
        for dy in (0.0, 0.2)
    ]
    hood = palettes.choose(rng, (_CHROME, p.front, p.dark))
    parts += [box(hob, 0, 1.55, 0.6, 0.48, 0.08, hood), box(hob, 0, 1.63, 0.3, 0.3, 0.7, hood)]
    shelves = rng.random() < 0.3
    for k in range(units):
        x = (k - (units - 1) / 2) * 0.6
        if abs(x - hob) < 0.5:
            continue
        if shelves:
            parts.append(box(x, 0, 1.55, 0.6, 0.26, 0.03, p.wood))
            parts.append(box(x, 0.06, 1.58, 0.12, 0.12, rng.uniform(0.1, 0.25), p.second, "cylinder"))
        else:
            unit = furniture.cabinet(0.6, 0.34, 0.72, 1, p.front, p.metal)
            parts += furniture.turned(furniture.raised(unit, 1.45), x, 0, 0)
    return tuple(parts)


def fridge(p: palettes.Palette) -> furniture.Piece:
    """A tall fridge."""
    steel = palettes.Palette.random(numpy.random.default_rng(p.wall.seed)).metal
    return (
        box(0, 0, 0.02, 0.6, 0.6, 1.8, _CHROME if p.front.seed % 2 else steel),
        box(0, 0.6, 0.03, 0.59, 0.03, 0.6, _CHROME),
        box(0, 0.6, 0.65, 0.59, 0.03, 1.16, _CHROME),
        *(box(-0.23, 0.63, z, 0.025, 0.04, 0.35, p.dark) for z in (0.24, 0.75)),
    )


def bath(rng: numpy.random.Generator, p: palettes.Palette) -> furniture.Piece:
    """A panelled bath along the wall, with a screen and taps."""
    panel = palettes.choose(rng, (_PORCELAIN, p.front, dataclasses.replace(p.feature, scale=0.2)))
    end = palettes.choose(rng, (-1, 1))
    rim = [box(0, y, 0.5, 1.7, 0.07, 0.06, _PORCELAIN) for y in (0, 0.68)]
    rim += [box(x * 0.815, 0, 0.5, 0.07, 0.75, 0.06, _PORCELAIN) for x in (-1, 1)]
    return (
        *rim,
        box(0, 0, 0, 1.68, 0.74, 0.3, _PORCELAIN),
        box(0, 0.71, 0, 1.68, 0.03, 0.5, panel),
        *(box(x * 0.83, 0, 0, 0.03, 0.74, 0.5, panel) for x in (-1, 1)),
        box(end * 0.6, 0, 0.7, 0.2, 0.08, 0.05, _CHROME),
        box(end * 0.6, 0.02, 0.75, 0.025, 0.025, 1.25, _CHROME, "cylinder"),
        box(end * 0.6, 0.02, 1.98, 0.22, 0.22, 0.03, _CHROME, "cylinder"),
    )


def toilet() -> furniture.Piece:
    """A toilet with cistern."""
    return (
        box(0, 0, 0.38, 0.4, 0.18, 0.42, _PORCELAIN),
        box(0, 0.1, 0, 0.24, 0.42, 0.34, _PORCELAIN, "cylinder"),
        box(0, 0.14, 0.32, 0.38, 0.52, 0.09, _PORCELAIN, "cylinder"),
        box(0, 0.05, 0.8, 0.06, 0.06, 0.015, _CHROME, "cylinder"),
    )


def basin(rng: numpy.random.Generator, p: palettes.Palette) -> furniture.Piece:
    """A basin on a unit, with mirror and light above it."""
    wide = rng.uniform(0.6, 1.2)
    light = materials.Material("plain", (0.98, 0.96, 0.9), (0.9, 0.9, 0.9), emission=1.2)
    lamp = dataclasses.replace(box(0, 0.02, 2.12, 0.5, 0.07, 0.06, light), opaque=False)
    return (
        *furniture.raised(furniture.cabinet(wide, 0.46, 0.5, 2, p.front, p.metal), 0.28),
        box(0, 0, 0.78, wide + 0.02, 0.48, 0.04, p.stone),
        box(0, 0.08, 0.82, 0.46, 0.34, 0.12, _PORCELAIN, palettes.choose(rng, ("box", "cylinder"))),
        box(0, 0.03, 0.82, 0.03, 0.03, 0.26, _CHROME, "cylinder"),
        box(0, 0.03, 1.06, 0.03, 0.16, 0.025, _CHROME),
        *mirror(rng, p),
        lamp,
    )


def shower(p: palettes.Palette) -> furniture.Piece:
    """A walk-in shower: tray, tiled back, glass marked by its frame."""
    bars = [box(x * 0.44, y, 0.08, 0.03, 0.03, 1.95, _CHROME) for x in (-1, 1) for y in (0.0, 0.87)]
    return (
        box(0, 0, 0, 0.9, 0.9, 0.08, _PORCELAIN),
        box(0, 0, 0.08, 0.86, 0.02, 2.0, dataclasses.replace(p.feature, pattern="tiles", scale=0.15)),
        *bars,
        box(0, 0.87, 2.0, 0.9, 0.03, 0.03, _CHROME),
        *(box(x * 0.44, 0, 2.0, 0.03, 0.9, 0.03, _CHROME) for x in (-1, 1)),
        box(0.1, 0.03, 0.9, 0.03, 0.03, 1.1, _CHROME, "cylinder"),
        box(0.1, 0.06, 1.95, 0.2, 0.2, 0.03, _CHROME, "cylinder"),
    )


def towels(p: palettes.Palette) -> furniture.Piece:
    """A towel on a rail."""
    return (box(0, 0.02, 1.4, 0.6, 0.03, 0.03, _CHROME), box(0, 0.015, 0.75, 0.42, 0.06, 0.66, p.second))
