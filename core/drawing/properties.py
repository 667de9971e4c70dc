"""Whole fictional properties with their true duplicates: the demo shows them, the tests count with them."""

from __future__ import annotations

import collections.abc
import dataclasses
import io
import itertools
import zlib

import numpy
from PIL import Image

from core.drawing import exteriors, overlays, palettes, plans, rooms, styles

_SIZES = ((640, 480), (640, 480), (720, 480), (600, 450), (800, 600))


@dataclasses.dataclass(frozen=True)
class DrawnPhoto:
    """One photo as it would be uploaded; photos of the same property and `subject` are duplicates.

    `jpeg` is the coded file, `width` x `height` pixels.
    """

    property_id: str
    name: str
    jpeg: bytes
    subject: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class KnownPair:
    """Two photos, by name, known to be duplicates; `kind`: overlay, angle or plan."""

    property_id: str
    a: str
    b: str
    kind: str


@dataclasses.dataclass(frozen=True)
class _Shot:
    """A picture before it has a name; shots of one `viewpoint` differ by overlays and edits only."""

    subject: str
    viewpoint: int
    image: Image.Image


def draw_property(
    property_id: str, seed: int, strength: float = 1.0
) -> tuple[list[DrawnPhoto], list[KnownPair]]:
    """The photos of one property, in order of their names, and every pair of them that is a duplicate.

    The same arguments give the same bytes. Each kind of duplicate occurs. `strength` in 0…1 scales how far an
    edited photo and another angle are from the first one.
    """
    rng = numpy.random.default_rng((seed, zlib.crc32(property_id.encode())))
    agencies = [overlays.AGENCIES[k] for k in rng.permutation(len(overlays.AGENCIES))[:3]]
    shots = [*_rooms(rng, agencies, strength), *_plans(rng, agencies)]
    if rng.random() < 0.6:
        house = exteriors.Exterior.random(rng)
        image = house.view(house.camera(rng), *palettes.choose(rng, _SIZES))
        shots.append(_Shot("exterior", 0, _posted(rng, image, agencies[0])))
    shuffled = [shots[k] for k in rng.permutation(len(shots))]
    photos = [
        _photo(property_id, f"{number:02d}.jpg", shot, int(rng.integers(78, 93)))
        for number, shot in enumerate(shuffled, start=1)
    ]
    pairs = [
        KnownPair(property_id, photos[i].name, photos[j].name, _kind(shuffled[i], shuffled[j]))
        for i, j in itertools.combinations(range(len(photos)), 2)
        if shuffled[i].subject == shuffled[j].subject
    ]
    return photos, pairs


def draw_properties(
    count: int, seed: int = 20260101, strength: float = 1.0
) -> collections.abc.Iterator[tuple[list[DrawnPhoto], list[KnownPair]]]:
    """`count` properties named demo-001 and on, drawn one by one as they are asked for."""
    for number in range(1, count + 1):
        yield draw_property(f"demo-{number:03d}", seed, strength)


def _rooms(rng: numpy.random.Generator, agencies: list[overlays.Agency], strength: float) -> list[_Shot]:
    kinds = ["living", "bedroom", "kitchen", "bathroom"]
    # A second room of a kind is the hardest negative: alike in furniture, yet another room.
    kinds += [palettes.choose(rng, ("bedroom", "dining", "study"))] if rng.random() < 0.5 else []
    order = [int(k) for k in rng.permutation(len(kinds))]
    both = rng.random() < 0.3
    marked, turned = order[0], order[0] if both else order[1]
    shots = []
    for number, kind in enumerate(kinds):
        room = rooms.Room.random(rng, kind)
        camera = room.camera(rng)
        size = palettes.choose(rng, _SIZES)
        image = room.view(camera, *size)
        subject = f"{kind}-{number + 1}"
        shots.append(_Shot(subject, 0, _posted(rng, image, agencies[0])))
        if number == marked:
            again = overlays.mark(overlays.edit(image, rng, strength), agencies[1], rng)
            shots.append(_Shot(subject, 0, again))
        if number == turned:
            other = room.view(room.other_angle(rng, camera, strength), *palettes.choose(rng, _SIZES))
            shots.append(_Shot(subject, 1, _posted(rng, other, palettes.choose(rng, agencies))))
    return shots


def _plans(rng: numpy.random.Generator, agencies: list[overlays.Agency]) -> list[_Shot]:
    plan = plans.Plan.random(rng)
    first, second = (styles.STYLES[k] for k in rng.permutation(len(styles.STYLES))[:2])
    drawn = plans.draw(plan, first, *palettes.choose(rng, _SIZES))
    how = rng.random()
    again = drawn if how < 0.35 else plans.draw(plan, second, *palettes.choose(rng, _SIZES))
    if how < 0.35 or how > 0.8:
        again = plans.rescan(again, rng)
    if rng.random() < 0.3:
        again = overlays.mark(again, agencies[1], rng)
    return [_Shot("plan", 0, drawn), _Shot("plan", 1, again)]


def _posted(rng: numpy.random.Generator, image: Image.Image, agency: overlays.Agency) -> Image.Image:
    # Most, not all, photos of a listing carry its agency's mark: a shared mark must never mean duplicate.
    grain = rng.normal(0, 1.6, (image.height, image.width, 1))
    noisy = numpy.clip(numpy.asarray(image, dtype=numpy.float32) + grain, 0, 255).astype(numpy.uint8)
    photo = Image.fromarray(noisy)
    return overlays.mark(photo, agency, rng) if rng.random() < 0.65 else photo


def _kind(a: _Shot, b: _Shot) -> str:
    if a.subject == "plan":
        return "plan"
    return "overlay" if a.viewpoint == b.viewpoint else "angle"


def _photo(property_id: str, name: str, shot: _Shot, quality: int) -> DrawnPhoto:
    coded = io.BytesIO()
    shot.image.save(coded, "JPEG", quality=quality)
    return DrawnPhoto(property_id, name, coded.getvalue(), shot.subject, *shot.image.size)
