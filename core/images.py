"""From the bytes of a photo to the pixels that the backbone sees: one path for training and serving."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pi_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from core import errors

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
"""What is decoded, by Pillow's names; JPEG includes MPO, several of them in one file, as phones write it."""

pi_heif.register_heif_opener()
# Our own limit is checked before any pixel is decoded, with an error that names the setting.
Image.MAX_IMAGE_PIXELS = None

Pixels = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded photo. `pixels` is (3, size, size) uint8 RGB; width and height are the original's, upright."""

    pixels: Pixels
    width: int
    height: int
    format: str


def decode(data: bytes, *, size: int, max_pixels: int) -> Picture:
    """Decode a photo, turn it upright, lay it on white, and stretch it to `size` × `size` pixels.

    The whole picture is kept (stretched, not cropped): what an agency adds stands at the edges.
    Resampling is antialiased bilinear.

    Raises:
        PermanentError: ``empty``, ``unsupported`` (not a picture, or a format that is not in `FORMATS`),
            ``too_many_pixels`` (before decoding), ``corrupt`` (truncated or broken).
        TransientError: no memory left to decode it now.
    """
    with _classified(data):
        # Twice the target at least, so that the antialiased resize still decides every pixel.
        image, picture_format, (width, height) = _open(data, (2 * size, 2 * size), max_pixels)
        resized = image.resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))
        return Picture(pixels=pixels, width=width, height=height, format=picture_format)


def thumbnail(data: bytes, size: int, max_pixels: int) -> bytes:
    """A photo as an upright JPEG of at most `size` × `size` pixels, for people's eyes. Raises as `decode`."""
    with _classified(data):
        image, _, _ = _open(data, (size, size), max_pixels)
        image.thumbnail((size, size))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        return buffer.getvalue()


@contextlib.contextmanager
def _classified(data: bytes) -> Iterator[None]:
    if not data:
        raise errors.PermanentError("empty", "The object has 0 bytes; upload the photo again.")
    try:
        yield
    except errors.DedupError:
        raise
    except MemoryError as error:
        raise errors.TransientError(f"No memory to decode a photo of {len(data)} bytes.") from error
    except Exception as error:
        # Decoders raise whatever their format's parser met (OSError, SyntaxError, struct.error, KeyError …);
        # the same bytes fail the same way again, so all of it is this photo's fault.
        raise errors.PermanentError(
            "corrupt", f"The photo cannot be decoded ({type(error).__name__}: {error}); upload it again."
        ) from error


def _open(data: bytes, least: tuple[int, int], max_pixels: int) -> tuple[Image.Image, str, tuple[int, int]]:
    """An upright RGB image, at least `least` in size if it was larger; its format, its full upright size."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise errors.PermanentError(
            "unsupported",
            f"Not a picture in a supported format; its first bytes are {data[:8]!r}. "
            f"Supported: {', '.join(FORMATS)}.",
        ) from error
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise errors.PermanentError(
                "too_many_pixels",
                f"{width}×{height} pixels are more than DEDUP_MAX_PHOTO_PIXELS={max_pixels}; "
                "upload a smaller photo or raise the limit.",
            )
        picture_format = image.format or "unknown"
        if picture_format == "JPEG" and image.mode in {"RGB", "L"}:
            image.draft(image.mode, least)
        image.load()
        upright = _upright(image)
        if (upright.width > upright.height) != (image.width > image.height):
            width, height = height, width
        return _rgb(upright), picture_format, (width, height)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - a broken EXIF block says nothing of the pixels
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}:
        return _eight_bit(image).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(paper, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    else:
        scaled = values / 257.0
    return Image.fromarray(scaled.round().astype(np.uint8), "L")
