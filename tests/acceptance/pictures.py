"""Photos for the tests, as bytes: a house, rooms and a floor plan that nobody takes for each other."""

from __future__ import annotations

import functools
import io
import zlib

import numpy as np
from PIL import Image

from core.drawing import exteriors, plans, rooms, styles

_SEEDS = {"bedroom": 78, "bathroom": 77, "dining": 77, "exterior": 77, "plan": 79}
# Chosen so that every shipped bundle tells them apart by far; these tests are not about its quality.

SUBJECTS = tuple(_SEEDS)
"""What is in the pictures; equal subjects are duplicates, others are not."""

_SIZE = (480, 360)


def jpeg(subject: str, quality: int = 90) -> bytes:
    """The picture of one of `SUBJECTS`; of another quality it is the same picture in other bytes."""
    coded = io.BytesIO()
    _draw(subject).save(coded, "JPEG", quality=quality)
    return coded.getvalue()


def corrupt_png() -> bytes:
    """A PNG whose header is right and whose pixels are noise."""
    coded = io.BytesIO()
    Image.new("RGB", _SIZE, "white").save(coded, "PNG")
    data = bytearray(coded.getvalue())
    start = data.index(b"IDAT") + 4
    data[start : start + 64] = bytes(range(64))
    return bytes(data)


def blank_png(width: int, height: int) -> bytes:
    """A black picture of a few kilobytes, whatever its size, without ever holding its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    # PNG (RFC 2083): 1 bit greyscale, so a row is its filter byte and an eighth of its width.
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@functools.cache
def _draw(subject: str) -> Image.Image:
    rng = np.random.default_rng(_SEEDS[subject])
    if subject == "plan":
        return plans.draw(plans.Plan.random(rng), styles.STYLES[0], *_SIZE)
    place = exteriors.Exterior.random(rng) if subject == "exterior" else rooms.Room.random(rng, subject)
    return place.view(place.camera(rng), *_SIZE)
