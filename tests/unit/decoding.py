"""What decoding takes of memory, kind by kind of picture: ``python -m tests.unit.decoding``, in a process of its own.

Prints JSON: by kind, the bytes at its peak and those that were held for it.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from core import images
from tests import memory

SIZE = (800, 2500)
INPUT = 224
"""What is wanted of it: it is too narrow to be reduced at once, which is when it takes the most."""


def _kinds() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    blocks = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    rgb = blocks.resize(SIZE, Image.Resampling.NEAREST)
    grey, palette, alpha = rgb.convert("L"), rgb.quantize(200), rgb.copy()
    alpha.putalpha(128)
    numbers = np.asarray(grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    several: dict[str, Any] = {"save_all": True, "append_images": [blocks.resize(SIZE)]}
    chosen: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", rgb, {}),
        ("JPEG", rgb, {"exif": exif}),
        ("JPEG", rgb, {"progressive": True, "subsampling": 0, "exif": exif}),
        ("JPEG", rgb.convert("CMYK"), {}),
        ("JPEG", rgb.convert("CMYK"), {"progressive": True}),
        ("MPO", rgb, several),
        ("PNG", rgb, {"exif": exif}),
        ("PNG", alpha, {"exif": exif}),
        ("PNG", palette, {}),
        ("PNG", palette, {"transparency": 3}),
        ("PNG", grey, {"transparency": 3}),
        ("PNG", grey.convert("LA"), {}),
        ("PNG", Image.fromarray(numbers.astype(np.uint16)), {}),
        ("GIF", palette, {"transparency": 3}),
        ("TIFF", Image.fromarray(numbers.astype(np.int32) - 3), {}),
        ("TIFF", Image.fromarray(numbers.astype(np.float32)), {}),
        ("TIFF", Image.fromarray(numbers.astype(np.float32)), {"compression": "tiff_lzw"}),
        ("TIFF", rgb.convert("CMYK"), {}),
        ("TIFF", Image.merge("LAB", rgb.split()), {}),
        ("BMP", rgb, {}),
        ("WEBP", rgb, {"method": 0}),
        ("WEBP", alpha, {"method": 0}),
        ("WEBP", alpha, {"method": 0, **several}),
        ("AVIF", rgb, {"speed": 10, "subsampling": "4:4:4"}),
        ("AVIF", alpha, {"speed": 10}),
    ]
    for format_name, image, options in chosen:
        buffer = io.BytesIO()
        image.save(buffer, format_name, **options)
        yield f"{format_name} {image.mode} {' '.join(options)}".rstrip(), buffer.getvalue()
        if (format_name, image.mode) == ("JPEG", "RGB"):
            yield f"JPEG RGB damaged {' '.join(options)}".rstrip(), damaged(buffer.getvalue())


def damaged(jpeg: bytes) -> bytes:
    """A JPEG with a marker amid its data: libjpeg warns, and Pillow takes it."""
    middle = len(jpeg) // 2
    return jpeg[:middle] + b"\xff\xd3" + jpeg[middle:]


def _measure(data: bytes) -> dict[str, int]:
    held: list[int] = []

    def hold(amount: int) -> contextlib.nullcontext[None]:
        held.append(amount)
        return contextlib.nullcontext()

    with mock.patch.object(images._MEMORY, "hold", hold):
        peak = memory.Peak()
        images.decode(data, size=INPUT, max_pixels=10**8)
        return {"peak": peak.bytes(), "held": held[-1]}


def main() -> None:
    """Measure every kind."""
    found = {}
    for kind, data in _kinds():
        # A format's first picture pays for its plugin, too.
        images.decode(data, size=INPUT, max_pixels=10**8)
        found[kind] = _measure(data)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
