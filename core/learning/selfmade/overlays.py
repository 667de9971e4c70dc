"""One photo as another agency posts it: marks of its house style over crops, turns, tone, blur and rescaling.

The marks of `core.drawing.overlays` are reused; the loud ones that listings carry as well (ribbons, headlines,
strips on top, large slanted watermarks, seals with initials) are added here, since adding them there would change
every picture that is drawn from a seed.
"""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from core.drawing import overlays, palettes

LOUD = ("ribbon", "headline", "strip", "slanted", "seal", "rows")

_HEADLINES = (
    "NEW PRICE",
    "VIRTUAL TOUR",
    "NO FEE",
    "SOLD",
    "OPEN HOUSE",
    "FOR RENT",
    "JUST LISTED",
    "2 BED / 1 BATH",
)
_CROP = 0.16
_TURN_DEGREES = 4.0
_MIRRORED = 0.05


@dataclasses.dataclass(frozen=True)
class House:
    """An agency's house style: its marks, and which of `LOUD` it adds."""

    agency: overlays.Agency
    loud: tuple[str, ...]

    @classmethod
    def random(cls, random: np.random.Generator) -> House:
        """A fictional agency with one to four marks in all; half of them in a bright colour."""
        agency = overlays.Agency.random(random)
        if random.random() < 0.5:
            bright = colorsys.hsv_to_rgb(random.random(), random.uniform(0.5, 1.0), random.uniform(0.5, 1.0))
            red, green, blue = (int(255 * value) for value in bright)
            agency = dataclasses.replace(agency, colour=(red, green, blue))
        agency = dataclasses.replace(agency, marks=agency.marks[: int(random.integers(0, 3))])
        fewest = 0 if agency.marks else 1
        chosen = random.choice(len(LOUD), int(random.integers(fewest, 3)), replace=False)
        return cls(agency, tuple(sorted(LOUD[k] for k in chosen)))


def marked(image: Image.Image, random: np.random.Generator, house: House) -> Image.Image:
    """`image` (RGB) with the marks of `house` on it, the same size."""
    result = overlays.mark(image, house.agency, random).convert("RGBA")
    for kind in house.loud:
        layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
        layer = _DRAWN[kind](layer, house.agency, random) or layer
        result = Image.alpha_composite(result, layer)
    return result.convert("RGB")


def edited(image: Image.Image, random: np.random.Generator, house: House) -> Image.Image:
    """`image` (RGB) edited and marked; its long side changes by at most a fifth.

    Crops take up to 16 % of each side, turns are up to 4 degrees, a few pictures are mirrored.
    """
    result = ImageOps.mirror(image) if random.random() < _MIRRORED else image
    # A picture that was posted before is cropped and turned with the marks that it had then.
    early = random.random() < 0.2
    if early:
        result = marked(result, random, house)
    if random.random() < 0.3:
        result = _turned(result, random, house)
    if random.random() < 0.75:
        result = _cropped(result, random)
    result = toned(result, random)
    if random.random() < 0.35:
        result = result.filter(ImageFilter.GaussianBlur(float(random.uniform(0.3, 1.6))))
    result = _rescaled(result, random)
    return result if early else marked(result, random, house)


def toned(image: Image.Image, random: np.random.Generator, strength: float = 1.0) -> Image.Image:
    """`image` under another exposure, contrast, saturation and white balance; `strength` scales all of it."""
    result = image
    for tone, widest in (
        (ImageEnhance.Brightness, 0.4),
        (ImageEnhance.Contrast, 0.35),
        (ImageEnhance.Color, 0.6),
    ):
        result = tone(result).enhance(float(np.exp(strength * random.normal(0, widest / 2))))
    gains = np.exp(strength * random.normal(0, 0.05, 3))
    tables = [np.clip(np.arange(256) * gain, 0, 255).astype(int).tolist() for gain in gains]
    return result.point([value for table in tables for value in table])


def _cropped(image: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = image.size
    across, down = random.uniform(0, _CROP, 2)
    left, top = random.uniform(0, 1, 2) * (across * width, down * height)
    box = (left, top, left + width * (1 - across), top + height * (1 - down))
    return image.crop((round(box[0]), round(box[1]), round(box[2]), round(box[3])))


def _turned(image: Image.Image, random: np.random.Generator, house: House) -> Image.Image:
    corners = palettes.choose(random, ((255, 255, 255), (0, 0, 0), house.agency.colour))
    degrees = float(random.uniform(-_TURN_DEGREES, _TURN_DEGREES))
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=corners)


def _rescaled(image: Image.Image, random: np.random.Generator) -> Image.Image:
    factor = float(random.uniform(0.8, 1.15))
    if random.random() < 0.25:
        # Small and large again: what a thumbnail loses.
        small = float(random.uniform(0.4, 0.8))
        image = image.resize(_scaled(image.size, small), Image.Resampling.BILINEAR)
        factor /= small
    return image.resize(_scaled(image.size, factor), Image.Resampling.BICUBIC)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(round(size[0] * factor), 8), max(round(size[1] * factor), 8)


def _ribbon(layer: Image.Image, agency: overlays.Agency, random: np.random.Generator) -> None:
    width, height = layer.size
    far, near = (min(layer.size) * share for share in (random.uniform(0.4, 0.6), random.uniform(0.15, 0.3)))
    points = [(near, 0.0), (far, 0.0), (0.0, far), (0.0, near)]
    # The same corner for all pictures of an agency.
    if agency.colour[2] % 2:
        points = [(width - x, y) for x, y in points]
    if agency.colour[0] % 4 == 0:
        points = [(x, height - y) for x, y in points]
    ImageDraw.Draw(layer).polygon(points, fill=(*agency.colour, int(random.integers(180, 256))))


def _headline(layer: Image.Image, agency: overlays.Agency, random: np.random.Generator) -> None:
    width, height = layer.size
    text = palettes.choose(random, _HEADLINES)
    font = _font(text, width * float(random.uniform(0.4, 0.65)))
    low = agency.colour[1] % 2 == 0
    where = (width * 0.04, height * float(random.uniform(0.76, 0.86) if low else random.uniform(0.04, 0.1)))
    inner, outer = (agency.second, agency.colour) if random.random() < 0.5 else (agency.colour, agency.second)
    ImageDraw.Draw(layer).text(
        where, text, fill=(*inner, 255), font=font, stroke_width=2, stroke_fill=(*outer, 255)
    )


def _strip(layer: Image.Image, agency: overlays.Agency, random: np.random.Generator) -> None:
    width, height = layer.size
    deep = height * float(random.uniform(0.08, 0.14))
    pen = ImageDraw.Draw(layer)
    pen.rectangle((0, 0, width, deep), fill=(*agency.colour, int(random.integers(190, 256))))
    text = f"{agency.name}  +{int(random.integers(20, 90))} {int(random.integers(200, 999))} 555 01"
    font = _font(text, width * float(random.uniform(0.6, 0.85)), deep * 0.7)
    pen.text((width / 2, deep / 2), text, fill=(*agency.second, 255), font=font, anchor="mm")


def _slanted(layer: Image.Image, agency: overlays.Agency, random: np.random.Generator) -> Image.Image:
    light = agency.colour[0] % 2 == 0
    ink = agency.second if light else (20, 20, 20)
    long = float(np.hypot(*layer.size)) * float(random.uniform(0.6, 0.85))
    font = _font(agency.name, long, layer.height * 0.25)
    middle = (layer.width / 2, layer.height / 2)
    pen = ImageDraw.Draw(layer)
    pen.text(middle, agency.name, fill=(*ink, int(random.integers(70, 170))), font=font, anchor="mm")
    return layer.rotate(float(random.uniform(22, 50)), Image.Resampling.BILINEAR)


def _seal(layer: Image.Image, agency: overlays.Agency, random: np.random.Generator) -> None:
    width, height = layer.size
    reach = width * float(random.uniform(0.06, 0.1))
    x = reach * 1.2 if agency.colour[1] % 2 else width - reach * 1.2
    y = reach * 1.2 if agency.colour[2] % 3 == 0 else height - reach * 1.2
    pen = ImageDraw.Draw(layer)
    pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=(*agency.colour, 255))
    initials = agency.name[:2].upper()
    pen.text((x, y), initials, fill=(*agency.second, 255), font=_font(initials, reach), anchor="mm")


def _rows(layer: Image.Image, agency: overlays.Agency, random: np.random.Generator) -> None:
    width, height = layer.size
    font = ImageFont.load_default(width * float(random.uniform(0.045, 0.075)))
    pen = ImageDraw.Draw(layer)
    step = max(pen.textlength(agency.name, font=font) * float(random.uniform(1.15, 1.5)), 8.0)
    down = height * float(random.uniform(0.17, 0.28))
    ink = (*agency.second, int(random.integers(80, 200)))
    for y in np.arange(down * float(random.uniform(0.1, 0.9)), height, down):
        for x in np.arange(-step * float(random.random()), width, step):
            pen.text((float(x), float(y)), agency.name, fill=ink, font=font)


_DRAWN: dict[str, Callable[[Image.Image, overlays.Agency, np.random.Generator], Image.Image | None]] = {
    "ribbon": _ribbon,
    "headline": _headline,
    "strip": _strip,
    "slanted": _slanted,
    "seal": _seal,
    "rows": _rows,
}


def _font(text: str, long: float, tall: float = 1000.0) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font in which `text` is `long` pixels across, at most `tall` pixels high."""
    natural = ImageDraw.Draw(Image.new("L", (1, 1))).textlength(text, font=ImageFont.load_default(20))
    return ImageFont.load_default(max(min(20 * long / natural, tall), 4.0))
