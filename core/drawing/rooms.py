"""Furnished rooms that can be photographed from any angle: the duplicates that no hash of pixels can find."""

from __future__ import annotations

import collections.abc
import dataclasses
import math

import numpy
from PIL import Image

from core.drawing import cameras, fixtures, furniture, layouts, materials, palettes, scenes, solids

KINDS = ("living", "bedroom", "kitchen", "bathroom", "dining", "study")

_SIZES = {
    "living": (4.4, 6.2), "bedroom": (3.6, 4.8), "kitchen": (3.4, 4.6), "bathroom": (2.7, 3.5),
    "dining": (3.8, 5.2), "study": (3.2, 4.2),
}  # fmt: skip
_WET = ("kitchen", "bathroom")
_EYE_MARGIN_METRES = 0.3


@dataclasses.dataclass(frozen=True)
class Room:
    """One furnished room; `size` is width, depth and height in metres."""

    kind: str
    size: tuple[float, float, float]
    scene: scenes.Scene

    @classmethod
    def random(cls, rng: numpy.random.Generator, kind: str | None = None) -> Room:
        """A room of `kind` (one of KINDS, or any), its materials, furniture and windows drawn from `rng`."""
        kind = kind or palettes.choose(rng, KINDS)
        low, high = _SIZES[kind]
        size = (float(rng.uniform(low, high)), float(rng.uniform(low, high)), float(rng.uniform(2.4, 3.1)))
        palette = palettes.Palette.random(rng, kind in _WET)
        layout = layouts.Layout(size)
        walls = [layouts.WALLS[k] for k in rng.permutation(4)]
        pieces = _furnish(rng, palette, kind, size)
        # The piece that the room is named for comes first, or a door could leave a bedroom without a bed.
        layout.put(rng, pieces[0][0], walls[0] if pieces[0][1] >= 0 else None)
        windows = _open(rng, palette, layout, walls, kind)
        for piece, wall in pieces[1:]:
            layout.put(rng, piece, walls[wall] if wall >= 0 else None)
        _finish(rng, palette, layout, kind)
        shell = [palette.wall] * 4 + [palette.floor, palette.ceiling]
        if rng.random() < 0.7:
            shell[layouts.WALLS.index(walls[0])] = palette.feature
        lights, lamp = _light(rng, palette, layout, windows)
        sky = float(rng.uniform(0.42, 0.6))
        scene = scenes.Scene(
            size,
            tuple(shell),
            (*layout.parts, *_skirting(palette, size), *lamp),
            lights,
            (sky, sky, sky * 1.02),
        )
        return cls(kind, size, scene)

    def view(self, camera: cameras.Camera, width: int = 640, height: int = 480) -> Image.Image:
        """The RGB photo of `width` x `height` pixels that `camera` takes."""
        return scenes.render(self.scene, camera, width, height)

    def camera(self, rng: numpy.random.Generator) -> cameras.Camera:
        """A camera where an agent would stand: in a corner or by a wall, with the most of the room in sight."""
        width, depth, _ = self.size
        best: tuple[float, cameras.Camera] | None = None
        for corner in range(4):
            x = width * float(rng.uniform(0.05, 0.22))
            y = depth * float(rng.uniform(0.05, 0.22))
            x, y = (width - x if corner % 2 else x), (depth - y if corner // 2 else y)
            heading = math.degrees(math.atan2(width / 2 - x, depth / 2 - y)) + float(rng.uniform(-8, 8))
            camera = cameras.Camera(
                position=self._kept((x, y, float(rng.uniform(1.35, 1.65)))),
                heading=heading,
                pitch=float(rng.uniform(-11, -3)),
                fov=float(rng.uniform(72, 86)),
                exposure=float(rng.uniform(0.9, 1.2)),
                warmth=float(rng.uniform(-0.4, 0.6)),
            )
            worth = self._worth(camera) + float(rng.uniform(0, 4))
            if best is None or worth > best[0]:
                best = worth, camera
        if best is None:
            raise ValueError("no corner was tried")
        return best[1]

    def other_angle(
        self, rng: numpy.random.Generator, camera: cameras.Camera, strength: float = 1.0
    ) -> cameras.Camera:
        """A second camera, turned 15 to 40 degrees from `camera`, elsewhere and exposed otherwise.

        `strength` in 0…1 scales all of these differences.
        """
        best: tuple[float, cameras.Camera] | None = None
        for attempt in range(4):
            side = 1 if attempt % 2 else -1
            turn = side * strength * float(rng.uniform(15, 40))
            # Stepping aside against the turn keeps the middle of the room in the picture.
            step = -side * strength * float(rng.uniform(0.3, 1.3))
            angle = math.radians(camera.heading)
            x = camera.position[0] + step * math.cos(angle)
            y = camera.position[1] - step * math.sin(angle)
            other = cameras.Camera(
                position=self._kept((x, y, camera.position[2] + strength * float(rng.uniform(-0.2, 0.2)))),
                heading=camera.heading + turn,
                pitch=camera.pitch + strength * float(rng.uniform(-3, 3)),
                fov=float(numpy.clip(camera.fov + strength * rng.uniform(-5, 5), 62, 88)),
                exposure=camera.exposure * float(rng.uniform(0.8, 1.25)) ** strength,
                warmth=camera.warmth + strength * float(rng.uniform(-0.4, 0.4)),
            )
            worth = self._worth(other)
            if best is None or worth > best[0]:
                best = worth, other
        if best is None:
            raise ValueError("no angle was tried")
        return best[1]

    def _kept(self, position: tuple[float, float, float]) -> tuple[float, float, float]:
        width, depth, height = self.size
        margin = _EYE_MARGIN_METRES
        x = min(max(position[0], margin), width - margin)
        y = min(max(position[1], margin), depth - margin)
        return x, y, min(max(position[2], 1.1), height - 0.4)

    def _worth(self, camera: cameras.Camera) -> float:
        # What stands right before the lens spoils a photo; what is seen many times over adds nothing.
        depth, seen = scenes.cast(self.scene, camera, 48, 36)
        inside = any((numpy.abs(s.local(_offset(camera, s))) < 1.15).all() for s in self.scene.solids)
        shown = numpy.unique(seen, return_counts=True)[1]
        return float(
            (shown > 4).sum()
            + 30 * (seen >= 0).mean()
            - 90 * (depth < 0.9).mean()
            - 25 * (depth < 1.5).mean()
            - 500 * inside
        )


def _offset(camera: cameras.Camera, solid: solids.Solid) -> materials.Array:
    return numpy.asarray(camera.position, dtype=numpy.float32) - numpy.asarray(
        solid.centre, dtype=numpy.float32
    )


def _open(
    rng: numpy.random.Generator,
    p: palettes.Palette,
    layout: layouts.Layout,
    walls: collections.abc.Sequence[str],
    kind: str,
) -> list[tuple[float, float]]:
    """Puts in the windows and the door; where the windows are, (x, y) each."""
    foot = 1.15 if kind in _WET else palettes.choose(rng, (0.12, 0.5, 0.85, 0.9))
    head = min(layout.size[2] - 0.25, float(rng.uniform(1.95, 2.4)))
    panes = (int(rng.integers(1, 5)), int(rng.integers(1, 4)))
    dressing = palettes.choose(rng, ("curtains", "curtains", "blind", "none"))
    if kind in _WET:
        dressing = palettes.choose(rng, ("blind", "none"))
    places = []
    for wall in (walls[1], palettes.choose(rng, (walls[1], walls[2])))[: int(rng.integers(1, 3))]:
        wide = float(rng.uniform(0.8, 1.2 if kind in _WET else 2.2))
        place = layout.put(rng, fixtures.window(p, wide, foot, head, panes, dressing), wall)
        if place:
            places.append(place)
    layout.put(rng, fixtures.door(rng, p), walls[3], clearance=0.25)
    return places


def _furnish(
    rng: numpy.random.Generator, p: palettes.Palette, kind: str, size: tuple[float, float, float]
) -> list[tuple[furniture.Piece, int]]:
    """Pieces with the number of the wall they want, or -1 for the middle of the room."""
    maybe = float(rng.random())
    if kind == "living":
        return [
            (furniture.sofa(rng, p), 0),
            (furniture.television(rng, p), 3),
            (furniture.coffee_table(rng, p), -1),
            (furniture.sofa(rng, p, 1 if maybe < 0.6 else 2), 2),
            (furniture.bookcase(rng, p), 2) if maybe > 0.3 else (furniture.drawers(1.4, 0.4, 0.8, 3, p), 1),
            (furniture.floor_lamp(rng, p), 0),
        ]
    if kind == "bedroom":
        return [
            (furniture.bed(rng, p), 0),
            (furniture.wardrobe(rng, p), 2),
            (furniture.drawers(float(rng.uniform(0.7, 1.3)), 0.45, 0.85, 3, p), 3),
            (furniture.sofa(rng, p, 1), 1) if maybe < 0.4 else (furniture.floor_lamp(rng, p), 1),
        ]
    if kind == "kitchen":
        length = min(size[0], size[1]) - 0.3
        return [
            (fixtures.kitchen(rng, p, float(rng.uniform(0.7, 1.0)) * length), 0),
            (fixtures.fridge(p), 2),
            (furniture.dining_set(rng, p), -1) if maybe < 0.6 else (_island(rng, p), -1),
            (furniture.cabinet(1.2, 0.45, 0.9, 3, p.front, p.metal), 3),
        ]
    if kind == "bathroom":
        return [
            (fixtures.bath(rng, p), 0) if maybe < 0.6 else (fixtures.shower(p), 0),
            (fixtures.basin(rng, p), 2),
            (fixtures.toilet(), 3),
            (fixtures.towels(p), 1),
            (furniture.cabinet(0.4, 0.3, 1.7, 1, p.front, p.metal), 2),
        ]
    if kind == "dining":
        return [
            (furniture.dining_set(rng, p), -1),
            (furniture.cabinet(float(rng.uniform(1.2, 2.0)), 0.45, 0.85, 4, p.front, p.metal), 0),
            (furniture.bookcase(rng, p), 2),
            (furniture.sofa(rng, p, 1), 3),
        ]
    return [
        (furniture.desk(rng, p), 1 if maybe < 0.5 else 0),
        (furniture.bookcase(rng, p), 2),
        (furniture.sofa(rng, p, 1 if maybe < 0.5 else 2), 3),
        (furniture.bookcase(rng, p), 0),
    ]


def _island(rng: numpy.random.Generator, p: palettes.Palette) -> furniture.Piece:
    stools = [
        part
        for x in (-0.45, 0.1, 0.55)
        for part in (
            furniture.box(x, 0.95, 0.62, 0.36, 0.36, 0.06, p.fabric, "cylinder"),
            furniture.box(x, 1.11, 0, 0.05, 0.05, 0.62, p.metal, "cylinder"),
            furniture.box(x, 0.98, 0, 0.3, 0.3, 0.02, p.metal, "cylinder"),
        )
    ]
    wide = float(rng.uniform(1.3, 1.8))
    body = furniture.cabinet(wide, 0.7, 0.88, 3, p.front, p.metal)
    return (*body, furniture.box(0, -0.05, 0.88, wide + 0.1, 0.95, 0.05, p.stone), *stools)


def _finish(rng: numpy.random.Generator, p: palettes.Palette, layout: layouts.Layout, kind: str) -> None:
    """Pictures, plants, radiator and rug: what makes a room look lived in."""
    if kind != "bathroom":
        for _ in range(int(rng.integers(2, 5))):
            layout.put(
                rng, fixtures.picture(rng, p, int(rng.integers(1, 4))), palettes.choose(rng, layouts.WALLS)
            )
        for _ in range(int(rng.integers(1, 3))):
            layout.put(
                rng,
                furniture.plant(rng, p, float(rng.uniform(0.7, 1.2))),
                palettes.choose(rng, layouts.WALLS),
            )
    layout.put(rng, fixtures.radiator(p, float(rng.uniform(0.6, 1.2))), palettes.choose(rng, layouts.WALLS))
    if rng.random() < (0.75 if kind not in _WET else 0.35):
        reach = 0.32 if kind != "bathroom" else 0.22
        width, depth = (float(rng.uniform(0.8, 1.2)) * reach * side * 2 for side in layout.size[:2])
        x, y = layout.size[0] / 2, layout.size[1] / 2 - depth / 2
        shape = palettes.choose(rng, ("box", "box", "cylinder"))
        layout.parts.append(furniture.box(x, y, 0, width * 0.8, depth * 0.8, 0.012, p.rug, shape))


def _skirting(p: palettes.Palette, size: tuple[float, float, float]) -> furniture.Piece:
    width, depth, height = size
    parts = []
    for z, high, thick in ((0.0, 0.1, 0.018), (height - 0.07, 0.07, 0.04)):
        parts += [furniture.box(width / 2, y, z, width, thick, high, p.trim) for y in (0, depth - thick)]
        parts += [furniture.box(x, 0, z, thick, depth, high, p.trim) for x in (thick / 2, width - thick / 2)]
    # Too thin to throw a shadow that shows, and there are eight of them to test.
    return tuple(dataclasses.replace(part, opaque=False) for part in parts)


def _light(
    rng: numpy.random.Generator,
    p: palettes.Palette,
    layout: layouts.Layout,
    windows: collections.abc.Sequence[tuple[float, float]],
) -> tuple[tuple[scenes.Light, ...], furniture.Piece]:
    """The light of the windows and of the ceiling lamp, and the lamp itself."""
    width, depth, height = layout.size
    lights = []
    day = float(rng.uniform(1.3, 2.2)) / max(len(windows), 1)
    for x, y in windows:
        inward = (min(max(x, 0.25), width - 0.25), min(max(y, 0.25), depth - 0.25), 1.6)
        lights.append(scenes.Light(inward, (day, day, day * 1.06), 2.4, (0.22, 0.22, 0.4)))
    lamp = float(rng.uniform(0.5, 1.1))
    lights.append(
        scenes.Light(
            (width / 2, depth / 2, height - 0.5), (lamp, lamp * 0.9, lamp * 0.74), 2.5, (0.15, 0.15, 0.05)
        )
    )
    glow = materials.Material("plain", (0.99, 0.93, 0.8), (0.9, 0.85, 0.7), emission=1.6)
    drop, size = float(rng.uniform(0.1, 0.5)), float(rng.uniform(0.25, 0.5))
    shape = palettes.choose(rng, ("cylinder", "ellipsoid", "box"))
    fitting = (
        furniture.box(width / 2, depth / 2 - 0.01, height - drop, 0.02, 0.02, drop, p.metal),
        furniture.box(width / 2, depth / 2 - size / 2, height - drop - 0.2, size, size, 0.2, glow, shape),
    )
    return tuple(lights), tuple(dataclasses.replace(part, opaque=False) for part in fitting)
