from __future__ import annotations

import contextlib
import io
import json
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from core import errors, images
from tests.unit import decoding

SIZE = 32
LIMIT = 1_000_000
RED, BLUE = (200, 30, 40), (20, 60, 220)


def half_and_half(width: int = 96, height: int = 64) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def encode(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def decode(data: bytes, max_pixels: int = LIMIT) -> images.Picture:
    return images.decode(data, size=SIZE, max_pixels=max_pixels)


def assert_half_and_half(picture: images.Picture, tolerance: int = 12) -> None:
    assert picture.pixels.shape == (3, SIZE, SIZE)
    assert picture.pixels.dtype == np.uint8
    for column, expected in ((SIZE // 4, RED), (3 * SIZE // 4, BLUE)):
        assert np.abs(picture.pixels[:, SIZE // 2, column].astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_formats(format_name: str) -> None:
    picture = decode(encode(half_and_half(), format_name))
    assert_half_and_half(picture)
    assert (picture.width, picture.height, picture.format) == (96, 64, format_name)


def test_heic() -> None:
    # Made once by pillow-heif, whose encoder is under the GPL and therefore no dependency.
    data = (pathlib.Path(__file__).parent / "data" / "half_red_half_blue.heic").read_bytes()
    picture = decode(data)
    assert_half_and_half(picture)
    assert (picture.width, picture.height, picture.format) == (96, 64, "HEIF")


def test_animated_gif_gives_its_first_frame() -> None:
    frames = [half_and_half(), Image.new("RGB", (96, 64), "white")]
    assert_half_and_half(decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])))


def test_mpo_gives_its_first_picture() -> None:
    other = Image.new("RGB", (96, 64), "white")
    picture = decode(encode(half_and_half(), "MPO", save_all=True, append_images=[other], quality=95))
    assert_half_and_half(picture)
    assert picture.format == "MPO"


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = half_and_half().transpose(Image.Transpose.ROTATE_90)
    picture = decode(encode(turned, "JPEG", exif=exif, quality=95))
    assert (picture.width, picture.height) == (96, 64)
    assert_half_and_half(picture)


def test_a_large_picture_on_its_side_is_turned_before_it_is_shrunk() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = half_and_half(641, 639).transpose(Image.Transpose.ROTATE_90)
    for format_name in ("JPEG", "PNG"):
        picture = decode(encode(turned, format_name, exif=exif))
        assert (picture.width, picture.height) == (641, 639)
        assert_half_and_half(picture)


def test_alpha_lies_on_white() -> None:
    image = half_and_half().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 48, 64))
    picture = decode(encode(image, "PNG"))
    assert picture.pixels[:, SIZE // 2, SIZE // 4].min() == 255


def test_palette_with_transparency() -> None:
    image = half_and_half().quantize(4)
    background = image.getpixel((0, 0))
    assert decode(encode(image, "PNG", transparency=background)).pixels[:, 5, 3].min() == 255
    assert_half_and_half(decode(encode(image, "PNG")))


def test_cmyk() -> None:
    assert_half_and_half(decode(encode(half_and_half().convert("CMYK"), "JPEG", quality=95)), tolerance=25)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey(mode: str) -> None:
    image = Image.new("L", (64, 64), 0)
    image.paste(255, (32, 0, 64, 64))
    pixels = decode(encode(image.convert(mode), "PNG")).pixels
    assert (pixels[:, 16, 4] == 0).all()
    assert (pixels[:, 16, -4] == 255).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.full((64, 64), 32768, dtype=np.uint16)
    pixels = decode(encode(Image.fromarray(values), "PNG")).pixels
    assert set(np.unique(pixels)) <= {127, 128}


def test_floating_point_tiff() -> None:
    values = np.tile(np.linspace(-3.0, 9.0, 64, dtype=np.float32), (64, 1))
    pixels = decode(encode(Image.fromarray(values), "TIFF")).pixels
    assert pixels[0, 0, 0] < 20
    assert pixels[0, 0, -1] > 235


@pytest.mark.parametrize("size", [(61, 40), (333, 251), (1203, 801)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_have_the_pixels_that_pillow_gives_them(
    size: tuple[int, int], subsampling: int, mode: str
) -> None:
    image = noise(size).convert(mode)
    for options in ({}, {"progressive": True}, {"quality": 60}, {"keep_rgb": True}):
        data = encode(image, "JPEG", subsampling=0 if options.get("keep_rgb") else subsampling, **options)
        assert images._turbo(data, size, 1) is not None
        with images._opened(data, (5000, 5000), LIMIT) as (pixels, _, full):
            assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
            assert full == size


def noise(size: tuple[int, int]) -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("orientation", range(10))
def test_jpegs_are_turned_as_pillow_turns_them(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(noise((333, 251)), "JPEG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    with images._opened(data, (5000, 5000), LIMIT) as (pixels, _, size):
        assert np.array_equal(pixels, expected)
        assert size == expected.shape[1::-1]


def test_a_jpeg_that_is_merely_damaged_is_taken_as_pillow_takes_it() -> None:
    data = decoding.damaged(encode(noise((333, 251)), "JPEG"))
    assert images._turbo(data, (333, 251), 1) is None
    with images._opened(data, (5000, 5000), LIMIT) as (pixels, _, _):
        assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_a_subsampling_that_only_pillow_knows() -> None:
    data = decoding.jpeg(64, 64, samplings=(0x14, 0x11, 0x11))
    assert images._turbo(data, (64, 64), 1) is None
    assert decode(data).pixels.shape == (3, SIZE, SIZE)


def test_a_lossless_jpeg_is_decoded_whole() -> None:
    """It has no fraction of its size: libjpeg-turbo writes all pixels, whatever it was asked for."""
    code = (
        "from core import images; from tests.unit import decoding\n"
        "images.decode(decoding.lossless_jpeg(400, 400), size=32, max_pixels=10**6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("inserted", [b"", b"\xff", b"\xff\xd0"])
def test_coefficients_of_several_scans_are_counted_whatever_stands_between(inserted: bytes) -> None:
    for scans, expected in ((1, 0), (3, 2 * 3 * 400 * 400)):
        plain = decoding.jpeg(400, 400, scans=scans)
        data = plain[:2] + inserted + plain[2:]
        image = Image.open(io.BytesIO(data))
        lossless, scan = images._header(data)
        assert (lossless, images._coefficients(image, scan)) == (False, expected)
    lossless_jpeg = decoding.lossless_jpeg(400, 400)
    assert images._header(lossless_jpeg[:2] + inserted + lossless_jpeg[2:]) == (True, 3)


def test_png_data_is_decoded_within_the_memory_held_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    hold, load = images._MEMORY.hold, PngImagePlugin.PngImageFile.load

    def holding(amount: int) -> contextlib.AbstractContextManager[bool]:
        seen.append("hold")
        return hold(amount)

    def loading(self: PngImagePlugin.PngImageFile) -> object:
        seen.append("load")
        return load(self)

    monkeypatch.setattr(images._MEMORY, "hold", holding)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", loading)
    decode(encode(half_and_half(), "PNG"))
    assert seen[:2] == ["hold", "load"]


def test_a_png_that_breaks_off_amid_its_pixels_is_corrupt() -> None:
    data = bytearray(encode(noise((300, 200)), "PNG"))
    middle = len(data) // 2
    data[middle : middle + 500] = bytes(500)
    assert reason(bytes(data)) == "corrupt"


def test_a_jpeg_of_another_size_than_was_allowed_is_not_decoded() -> None:
    assert images._turbo(encode(noise((333, 251)), "JPEG"), (100, 100), 1) is None


def test_large_jpeg_is_decoded_close_to_the_full_decode() -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).resize((1200, 800))
    data = encode(smooth, "JPEG", quality=90)
    full = Image.open(io.BytesIO(data)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.abs(decode(data).pixels.transpose(1, 2, 0).astype(int) - np.asarray(full, dtype=int)).mean() < 3


def reason(data: bytes, max_pixels: int = LIMIT) -> str:
    with pytest.raises(errors.PermanentError) as caught:
        decode(data, max_pixels)
    return caught.value.reason


def test_bad_photos_have_their_reasons() -> None:
    jpeg = encode(half_and_half(640, 480), "JPEG")
    assert reason(b"") == "empty"
    assert reason(b"this is text, named .jpg") == "unsupported"
    assert reason(jpeg[: len(jpeg) // 2]) == "corrupt"
    assert reason(encode(half_and_half(), "PNG")[:-40]) == "corrupt"
    assert reason(b"%PDF-1.7 " + bytes(100)) == "unsupported"


def test_too_many_pixels_are_refused_before_decoding() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    # No pixel data at all: had it been decoded, the reason would be "corrupt".
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert reason(bomb, 100_000_000) == "too_many_pixels"


def test_the_limit_is_the_settings() -> None:
    data = encode(half_and_half(100, 100), "PNG")
    decode(data, 10_000)
    assert reason(data, 9_999) == "too_many_pixels"


def test_mutated_pictures_never_raise_anything_unclassified() -> None:
    rng = np.random.default_rng(1)
    sources = [
        encode(half_and_half(), name) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
    ]
    for data in sources:
        for _ in range(60):
            mutated = bytearray(data)
            for position in rng.integers(0, len(data), 5):
                mutated[position] = rng.integers(0, 256)
            with contextlib.suppress(errors.DedupError):
                decode(bytes(mutated))


def test_pixels_are_those_of_pillows_own_resize() -> None:
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (90, 70, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), dtype=int)
    found = decode(encode(image, "PNG")).pixels.transpose(1, 2, 0).astype(int)
    assert np.abs(found - expected).max() <= 1


def test_who_only_imports_it_needs_no_torch() -> None:
    code = "import sys; from core import images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("format_name", "options", "at_least", "at_most"),
    [
        ("JPEG", {}, 21 * 12, 21 * 12),  # a quarter of each side
        ("MPO", {"save_all": True, "append_images": [half_and_half()]}, 21 * 12, 21 * 12),
        ("JPEG", {"progressive": True}, 6 * 192, 8 * 192),
        ("PNG", {}, 22 * 192, 22 * 192),
    ],
)
def test_memory_is_taken_for_what_decoding_needs(
    monkeypatch: pytest.MonkeyPatch,
    format_name: str,
    options: dict[str, object],
    at_least: int,
    at_most: int,
) -> None:
    asked: list[int] = []

    hold = images._MEMORY.hold

    def watched(amount: int) -> contextlib.AbstractContextManager[bool]:
        asked.append(amount)
        return hold(amount)

    monkeypatch.setattr(images._MEMORY, "hold", watched)
    decode(encode(half_and_half(1600, 1200), format_name, **options), 10**7)
    assert at_least * 10_000 <= asked[0] <= at_most * 10_000


def test_no_picture_takes_more_memory_than_is_held_for_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.decoding"], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    assert len(found) > 20
    # Beside the pictures: the decoder's tables and buffers, what the allocator rounds up.
    assert {kind: told for kind, told in found.items() if told["peak"] > told["held"] + 1_000_000} == {}
