"""What decoding takes of memory, kind by kind of picture: ``python -m tests.unit.decoding``, in a process of its own.

Prints JSON: by kind, the bytes at its peak and those that were held for it.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
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
    yield "JPEG of three scans", jpeg(*SIZE, scans=3)
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


def jpeg(
    width: int, height: int, *, samplings: tuple[int, int, int] = (0x11, 0x11, 0x11), scans: int = 1
) -> bytes:
    """A grey JPEG, in one scan or one for each of its three components; samplings as in its header (ITU T.81)."""
    frame = struct.pack(">BHHB", 8, height, width, 3)
    frame += b"".join(bytes([number, sampling, 0]) for number, sampling in enumerate(samplings, 1))
    table = bytes([1, *([0] * 15), 0])
    parts = [_segment(0xDB, b"\0" + b"\x10" * 64), _segment(0xC0, frame)]
    parts += [_segment(0xC4, bytes([kind]) + table) for kind in (0x00, 0x10)]
    across, down = max(sampling >> 4 for sampling in samplings), max(sampling & 15 for sampling in samplings)
    # Each block is two bits of the tables above: no difference of brightness, and no more.
    if scans == 1:
        blocks = -(-width // (8 * across)) * -(-height // (8 * down))
        blocks *= sum((sampling >> 4) * (sampling & 15) for sampling in samplings)
        parts += [_segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0])), bytes(-(-blocks // 4))]
    else:
        for number, sampling in enumerate(samplings, 1):
            own_width = -(-width * (sampling >> 4) // across)
            own_height = -(-height * (sampling & 15) // down)
            blocks = -(-own_width // 8) * -(-own_height // 8)
            parts += [_segment(0xDA, bytes([1, number, 0, 0, 63, 0])), bytes(-(-blocks // 4))]
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


def lossless_jpeg(width: int, height: int) -> bytes:
    """A lossless JPEG (SOF3 of ITU T.81) of three components, each pixel as predicted."""
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"".join(bytes([n, 0x11, 0]) for n in (1, 2, 3))
    table = _segment(0xC4, bytes([0, 1, *([0] * 15), 0]))
    scan = _segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 1, 0, 0])) + bytes(-(-3 * width * height // 8))
    return b"\xff\xd8" + _segment(0xC3, frame) + table + scan + b"\xff\xd9"


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


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
