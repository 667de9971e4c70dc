"""From the bytes of a photo to the pixels that the backbone sees: one path for training and serving."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pi_heif
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from core import budgets, errors

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
"""What is decoded, by Pillow's names; JPEG includes MPO, several of them in one file, as phones write it."""

pi_heif.register_heif_opener()
# Our own limit is checked before any pixel is decoded, with an error that names the setting.
Image.MAX_IMAGE_PIXELS = None

Pixels = npt.NDArray[np.uint8]
_Size = tuple[int, int]
"""Width and height."""

DECODING_BYTES, DECODING_BYTES_A_CORE = 130_000_000, 65_000_000
"""Memory that the pictures being decoded take together: so much, or for each core so much, a photo of 12 megapixels,
where that is more. A picture that needs more is decoded alone."""

_MEMORY = budgets.Budget(max(DECODING_BYTES, DECODING_BYTES_A_CORE * (os.cpu_count() or 1)))
_JPEG = {"JPEG", "MPO"}
"""Pillow's names for a JPEG: of one picture, and of several in one file, as phones write it."""
_SCAN = 0xDA
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
"""Markers in a JPEG (ITU T.81, table B.1): of a scan, and of frames that have no fraction of their size."""
_OWN_PICTURE = {"WEBP", "AVIF", "HEIF"}
"""Formats whose decoders keep pictures of their own beside Pillow's."""
_SCALED_TIMES = 6
"""What is decoded or reduced at a fraction of its size keeps so many times the input's on either side: its vectors stay
within a cosine of 0.999 of the full picture's (``python -m benchmarks.decode``)."""
_ORIENTATION = 0x0112  # Exif 2.32, tag Orientation; 5 to 8 lie on their side


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
    least = (_SCALED_TIMES * size, _SCALED_TIMES * size)
    with _classified(data), _opened(data, least, max_pixels) as (pixels, picture_format, (width, height)):
        return Picture(stretched(pixels, size), width, height, picture_format)


def stretched(pixels: Pixels, size: int) -> Pixels:
    """(3, size, size) of (height, width, 3).

    Raises:
        TransientError: no memory left for it now.
    """
    # Torch does what Pillow does, to one level of 255, in a fifth of the time. Who decodes embeds, and so has torch;
    # who only imports this module need not pay for it.
    import torch

    whole = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    try:
        resized = torch.nn.functional.interpolate(whole, (size, size), mode="bilinear", antialias=True)
    except RuntimeError as error:
        # What torch raises for want of memory.
        raise errors.TransientError(f"A picture of {pixels.shape} cannot be resized: {error}") from error
    return np.ascontiguousarray(resized[0].numpy())


def upright(data: bytes, size: int, max_pixels: int) -> Image.Image:
    """A photo as an upright RGB image of at most `size` × `size` pixels, in its own proportions. Raises as `decode`."""
    with _classified(data), _opened(data, (2 * size, 2 * size), max_pixels) as (pixels, _, _):
        image = Image.fromarray(pixels)
        image.thumbnail((size, size))
        return image


def thumbnail(data: bytes, size: int, max_pixels: int) -> bytes:
    """A photo as an upright JPEG of at most `size` × `size` pixels, for people's eyes. Raises as `decode`."""
    image = upright(data, size, max_pixels)
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


@contextlib.contextmanager
def _opened(data: bytes, least: _Size, max_pixels: int) -> Iterator[tuple[Pixels, str, _Size]]:
    """(height, width, 3) upright RGB, at least `least` in size if it was larger; its format, its full upright size.

    Its memory is held while the block runs.
    """
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
        is_jpeg = picture_format in _JPEG
        lossless, scan = _header(data) if is_jpeg else (False, 0)
        coefficients = _coefficients(image, scan) if is_jpeg else 0
        if is_jpeg and image.mode in {"RGB", "L"}:
            if not lossless:
                image.draft(image.mode, least)
            if image.size == (width, height):
                # Pixels, what turns them, and an image made of them.
                with _MEMORY.hold(8 * width * height + coefficients):
                    orientation = _orientation(image)
                    if (pixels := _turbo(data, image.size, orientation)) is not None:
                        yield pixels, picture_format, _turned(image.size, orientation)
                        return
        # A few large pictures at a time would take a worker's memory, and its other photos with it.
        with _MEMORY.hold(_bytes(image, least) + coefficients):
            image.load()
            # Only now: a PNG decodes all of itself to tell it.
            size = _turned((width, height), _orientation(image))
            # Once more for what has colours to be averaged only now, such as a palette's.
            rgb = _reduced(_rgb(_upright(_reduced(image, least))), least)
            yield np.array(rgb), picture_format, size


def _turbo(data: bytes, size: _Size, orientation: int) -> Pixels | None:
    """Bit for bit what Pillow's own libjpeg-turbo makes of a JPEG, sooner; None where Pillow is to judge it.

    Never at a fraction of its size: of a lossless JPEG, which has none, libjpeg-turbo writes all pixels, and simplejpeg
    has room for the fraction only.
    """
    try:
        # Of the size that the limit was checked for, or not at all.
        if simplejpeg.decode_jpeg_header(data)[:2] != size[::-1]:
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data)
    except (KeyError, RuntimeError, ValueError):
        # Damaged, be it so that Pillow only warns, or of a subsampling that it does not know.
        return None
    return np.ascontiguousarray(_TURNS[orientation](pixels)) if orientation in _TURNS else pixels


def _turned(size: _Size, orientation: int) -> _Size:
    return size[::-1] if orientation in {5, 6, 7, 8} else size


_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""What makes a picture upright, by its orientation."""


def _header(data: bytes) -> tuple[bool, int]:
    """Whether a JPEG is lossless, and how many components its first scan holds (ITU T.81, B.2); 0: not found."""
    place, lossless = 2, False
    while place + 4 < len(data) and data[place] == 0xFF and (marker := data[place + 1]) != _SCAN:
        if marker == 0xFF:
            place += 1  # may fill the space before a marker
        elif 0xD0 <= marker <= 0xD9:
            place += 2
        else:
            lossless = lossless or marker in _LOSSLESS
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return lossless, data[place + 4] if data[place : place + 2] == bytes([0xFF, _SCAN]) else 0


def _coefficients(image: Image.Image, scan: int) -> int:
    """What a JPEG keeps until its last scan, if it has several: coefficients of its full size, two bytes each."""
    bands = len(image.getbands())
    if scan == bands and not image.info.get("progressive"):
        return 0
    return 2 * bands * image.width * image.height


def _bytes(image: Image.Image, least: _Size) -> int:
    """About what decoding by Pillow takes at its peak, beside a JPEG's coefficients. Its size is that of its draft."""
    pixels = image.width * image.height
    if image.format in _JPEG:
        # Its picture, one that is upright or of other colours, and its copies for torch.
        return 21 * pixels
    decoders = 8 if image.format in _OWN_PICTURE else 0
    if _factor(image, least) < 2 and (image.has_transparency_data or image.mode in {"I", "F"}):
        # Upright, with its transparency as a channel, laid on paper, as RGB; or its numbers scaled as floats.
        return (decoders + 36) * pixels
    # Pillow's picture, two that are upright, smaller or of other colours, and its copies for torch.
    return (decoders + 22) * pixels


def _factor(image: Image.Image, least: _Size) -> int:
    """By how much a picture is reduced at once."""
    if image.mode not in {"L", "LA", "RGB", "RGBA", "CMYK"}:
        return 1
    return min(image.width // least[0], image.height // least[1])


def _reduced(image: Image.Image, least: _Size) -> Image.Image:
    """About `least` in size, before colours and orientation multiply a large picture's memory."""
    factor = _factor(image, least)
    if factor < 2:
        return image
    # What is reduced is a new image, without what the file says of it.
    smaller = image.reduce(factor)
    smaller.info = image.info
    smaller.getexif().update(image.getexif())
    return smaller


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a broken EXIF block says nothing of the pixels
        return 1


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
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8), "L")
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    else:
        scaled = values / 257.0
    return Image.fromarray(scaled.round().astype(np.uint8), "L")
