"""What agencies do to one picture before they post it again: their mark on it, and small edits."""

from __future__ import annotations

import dataclasses
import io

import numpy
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from core.drawing import palettes

MARKS = ("tiles", "logo", "banner", "frame", "badge", "caption", "centre")

_FIRST = (
    "Harbour",
    "Linden",
    "Norte",
    "Brick",
    "Alder",
    "Clair",
    "Tide",
    "Quill",
    "Marlow",
    "Sable",
    "Juniper",
)
_LAST = (" & Vane", " Homes", " Estates", "field", "well", " Living", " Property", " Keys", "moor", " House")
_CAPTIONS = (
    "Bright and spacious",
    "Viewing by appointment",
    "NEW",
    "Reduced",
    "Ref. {}",
    "Call 0{} 555 01",
    "Sold",
)


@dataclasses.dataclass(frozen=True)
class Agency:
    """An agency's house style: which marks (of MARKS) it puts on, in which colours."""

    name: str
    colour: tuple[int, int, int]
    second: tuple[int, int, int]
    marks: tuple[str, ...]

    @classmethod
    def random(cls, rng: numpy.random.Generator) -> Agency:
        """A fictional agency with one to three kinds of marks."""
        name = palettes.choose(rng, _FIRST) + palettes.choose(rng, _LAST)
        dark, light = rng.integers(0, 190, 3), rng.integers(190, 256, 3)
        count = int(rng.integers(1, 4))
        chosen = sorted(MARKS[k] for k in rng.choice(len(MARKS), count, replace=False))
        return cls(name, _ink(dark), _ink(light), tuple(chosen))


AGENCIES = (
    Agency("Harbour & Vane", (16, 52, 96), (240, 240, 240), ("logo", "tiles")),
    Agency("Linden Homes", (34, 110, 60), (250, 250, 240), ("banner",)),
    Agency("Casa Norte", (190, 60, 40), (255, 240, 220), ("centre", "badge")),
    Agency("Brickfield", (120, 40, 40), (250, 235, 225), ("frame", "caption")),
    Agency("Aldermoor Estates", (60, 60, 66), (230, 200, 120), ("banner", "logo")),
    Agency("Tidewell", (0, 130, 150), (235, 250, 252), ("tiles",)),
    Agency("Maison Clairval", (150, 110, 60), (255, 250, 238), ("frame", "centre")),
    Agency("Quill & Co", (40, 30, 90), (255, 255, 255), ("badge", "logo", "caption")),
)


def mark(image: Image.Image, agency: Agency, rng: numpy.random.Generator) -> Image.Image:
    """`image` (RGB) with the marks of `agency` on it, the same size."""
    result = image.convert("RGBA")
    for kind in agency.marks:
        layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
        if kind == "tiles":
            layer = _tiles(image.size, agency, rng)
        else:
            _stamp(ImageDraw.Draw(layer), kind, image.size, agency, rng)
        result = Image.alpha_composite(result, layer)
    return result.convert("RGB")


def edit(image: Image.Image, rng: numpy.random.Generator, strength: float = 1.0) -> Image.Image:
    """`image` (RGB) cropped by up to 12 %, toned, rescaled, softened and coded again as JPEG (quality 40 to 90).

    `strength` in 0…1 scales crop, tone and softening.
    """
    width, height = image.size
    across, down = strength * rng.uniform(0, 0.12, 2)
    left, top = rng.uniform(0, 1, 2) * (across * width, down * height)
    kept = image.crop((int(left), int(top), int(left + width * (1 - across)), int(top + height * (1 - down))))
    factor = float(rng.uniform(0.85, 1.1))
    edited = kept.resize(
        (round(width * factor), round(kept.height / kept.width * width * factor)), Image.Resampling.BICUBIC
    )
    for tone in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        edited = tone(edited).enhance(float(rng.uniform(0.8, 1.22)) ** strength)
    if rng.random() < 0.4:
        edited = edited.filter(ImageFilter.GaussianBlur(strength * float(rng.uniform(0.3, 1.1))))
    return recode(edited, int(rng.integers(40, 91)))


def recode(image: Image.Image, quality: int) -> Image.Image:
    """`image` after it was stored as a JPEG of `quality`."""
    coded = io.BytesIO()
    image.save(coded, "JPEG", quality=quality)
    with Image.open(coded) as again:
        return again.convert("RGB")


def _ink(values: numpy.typing.NDArray[numpy.int64]) -> tuple[int, int, int]:
    return int(values[0]), int(values[1]), int(values[2])


def _tiles(size: tuple[int, int], agency: Agency, rng: numpy.random.Generator) -> Image.Image:
    side = int(1.5 * max(size))
    sheet = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size[0] * float(rng.uniform(0.03, 0.05)))
    step = int(pen.textlength(agency.name, font=font) * 1.35)
    down = max(int(size[1] * float(rng.uniform(0.13, 0.2))), 8)
    alpha = int(rng.integers(70, 130))
    for row, y in enumerate(range(0, side, down)):
        for x in range(-(row % 2) * step // 2, side, step):
            pen.text((x, y), agency.name, fill=(*agency.second, alpha), font=font)
    turned = sheet.rotate(float(rng.uniform(25, 38)), Image.Resampling.BILINEAR)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    return turned.crop((left, top, left + size[0], top + size[1]))


def _stamp(
    pen: ImageDraw.ImageDraw, kind: str, size: tuple[int, int], agency: Agency, rng: numpy.random.Generator
) -> None:
    width, height = size
    strong, light = (*agency.colour, int(rng.integers(200, 256))), (*agency.second, 255)
    if kind == "logo":
        reach, edge = width * float(rng.uniform(0.11, 0.16)), 0.03 * width
        right, low = agency.colour[0] % 2 == 0, agency.colour[1] % 3 != 0
        x, y = width - reach - edge if right else edge, height - reach * 0.62 - edge if low else edge
        pen.rounded_rectangle((x, y, x + reach, y + reach * 0.62), radius=reach * 0.12, fill=strong)
        roof = [(x + reach * a, y + reach * b) for a, b in ((0.3, 0.3), (0.5, 0.1), (0.7, 0.3))]
        pen.polygon(roof, fill=light)
        _write(pen, agency.name, (x + reach / 2, y + reach * 0.44), reach * 0.86, light)
    elif kind == "banner":
        top = height * (1 - float(rng.uniform(0.08, 0.13)))
        pen.rectangle((0, top, width, height), fill=strong)
        _write(pen, agency.name, (width * 0.25, (top + height) / 2), width * 0.32, light)
        phone = f"0{int(rng.integers(100, 999))} 555 01{int(rng.integers(10, 99))}"
        _write(pen, phone, (width * 0.82, (top + height) / 2), width * 0.22, light)
    elif kind == "frame":
        thick = round(width * float(rng.uniform(0.012, 0.028)))
        pen.rectangle((0, 0, width - 1, height - 1), outline=strong, width=thick)
        _write(pen, agency.name, (width * 0.5, height - thick * 2.6), width * 0.2, light)
    elif kind == "badge":
        reach = width * float(rng.uniform(0.07, 0.1))
        x, y = reach * 1.3, reach * 1.3
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=strong, outline=light, width=3)
        _write(pen, palettes.choose(rng, ("NEW", "SOLD", "3D", "OPEN")), (x, y), reach * 1.2, light)
    elif kind == "caption":
        text = palettes.choose(rng, _CAPTIONS).format(int(rng.integers(100, 9999)))
        x, y, long = width * 0.26, height * float(rng.uniform(0.84, 0.92)), width * 0.42
        pen.rectangle(
            (x - long * 0.55, y - height * 0.04, x + long * 0.55, y + height * 0.04), fill=(0, 0, 0, 130)
        )
        _write(pen, text, (x, y), long, (255, 255, 255, 255), height * 0.055)
    else:
        faint = (*agency.second, int(rng.integers(70, 140)))
        _write(pen, agency.name, (width / 2, height / 2), width * float(rng.uniform(0.5, 0.75)), faint)


def _write(
    pen: ImageDraw.ImageDraw,
    text: str,
    middle: tuple[float, float],
    long: float,
    fill: tuple[int, int, int, int],
    tall: float = 1000.0,
) -> None:
    """Text centred on `middle`, as large as `long` pixels across and `tall` pixels up allow."""
    natural = pen.textlength(text, font=ImageFont.load_default(20))
    font = ImageFont.load_default(min(20 * long / natural, long * 0.4, tall))
    pen.text(middle, text, fill=fill, font=font, anchor="mm")
