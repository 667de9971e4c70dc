"""The pictures that benchmarks work on: JPEGs of rooms, about as hard to decode as photos of their size."""

from __future__ import annotations

import io
import pathlib

import numpy as np
from PIL import Image

from core.drawing import rooms

_DRAWN = (320, 240)
_NOISE = 3.0
"""Standard deviation, in levels of 255: what a sensor leaves, so that a JPEG has 0.2 to 0.3 bytes a pixel."""


def jpegs(
    count: int,
    size: tuple[int, int],
    photos: pathlib.Path | None = None,
    *,
    image_format: str = "JPEG",
    progressive: bool = False,
) -> list[bytes]:
    """So many different pictures of `size` (width, height): drawn, or the largest JPEGs below `photos`, stretched."""
    files = [] if photos is None else _largest(photos, count)
    coded = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        small = _drawn(rng) if photos is None else Image.open(files[seed])
        drawn = small.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        noise = rng.normal(0, _NOISE, (size[1], size[0], 1)).astype(np.float32)
        pixels = np.clip(np.asarray(drawn, np.float32) + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        options = {"quality": 85, "progressive": progressive} if image_format == "JPEG" else {}
        Image.fromarray(pixels).save(buffer, image_format, **options)
        coded.append(buffer.getvalue())
    return coded


def _drawn(rng: np.random.Generator) -> Image.Image:
    room = rooms.Room.random(rng, "living")
    return room.view(room.camera(rng), *_DRAWN)


def _largest(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    files = sorted(folder.rglob("*.jpg"), key=lambda file: (_area(file), file))
    if len(files) < count:
        raise ValueError(f"{folder} holds {len(files)} files *.jpg; {count} are needed.")
    return files[-count:]


def _area(file: pathlib.Path) -> int:
    with Image.open(file) as image:
        return image.width * image.height
