"""One floor plan as another office scans it (`rescanned`) or draws it anew (`redrawn`)."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from core.drawing import palettes, styles
from core.learning.selfmade import geometry, overlays

_ROOMS = ("Kitchen", "Bath", "Bedroom", "Living room", "Hall", "Lobby", "WC", "Study", "Dining", "Balcony")
_TITLES = (
    "Ground floor",
    "First floor",
    "PLAN 1:100",
    "2 ROOM FLAT",
    "Total area 84 m2",
    "For illustration only",
    "",
)
_SIDE_PIXELS = 560


@dataclasses.dataclass(frozen=True)
class Office:
    """How an office draws and which marks it puts on; `style` gives walls, ink, paper, fills and labels."""

    style: styles.Style
    house: overlays.House
    doors: bool

    @classmethod
    def random(cls, random: np.random.Generator) -> Office:
        """A fictional office: one in five draws light on dark, one in three on tinted paper."""
        style, how = styles.Style.random(random), random.random()
        if how < 0.2:
            dark, light = random.integers(5, 70, 3), random.integers(170, 256, 3)
            style = dataclasses.replace(style, paper=_colour(dark), ink=_colour(light), fills=())
        elif how < 0.53:
            style = dataclasses.replace(style, paper=_colour(random.integers(200, 256, 3)))
        if how >= 0.2 and random.random() < 0.4:
            fills = tuple(_colour(row) for row in random.integers(195, 253, (5, 3)))
            style = dataclasses.replace(style, fills=fills)
        style = dataclasses.replace(style, labels=bool(random.random() < 0.7))
        return cls(style, overlays.House.random(random), bool(random.random() < 0.6))


def rescanned(image: Image.Image, random: np.random.Generator, office: Office) -> Image.Image:
    """`image` (RGB) copied: in other colours and line weight, with blots, margins, turns, noise and blur."""
    result = image
    if random.random() < 0.35:
        result = _blotted(result, random)
    if random.random() < 0.5:
        heavier = ImageFilter.MinFilter(3) if random.random() < 0.6 else ImageFilter.MaxFilter(3)
        result = result.filter(heavier)
    if random.random() < 0.65:
        result = _recoloured(result, office.style)
    paper = _paper(result)
    result = _laid(result, random, paper)
    if random.random() < 0.4:
        result = overlays.marked(result, random, office.house)
    return _copied(result, random)


def redrawn(image: Image.Image, random: np.random.Generator, office: Office) -> Image.Image:
    """The plan of `image` (RGB) drawn anew: only its geometry is in both."""
    result = drawn(geometry.of(image), random, office)
    result = _laid(result, random, office.style.paper)
    if random.random() < 0.3:
        result = overlays.marked(result, random, office.house)
    if random.random() < 0.35:
        result = _copied(result, random)
    return result


def drawn(plan: geometry.Geometry, random: np.random.Generator, office: Office) -> Image.Image:
    """`plan` as `office` draws it, in the same place and size as it was read."""
    style = office.style
    walls = plan.walls
    change = palettes.choose(random, (-1, 0, 0, 1, 2))
    if change > 0:
        walls = geometry.dilated(walls, change)
    elif change < 0 and (thinner := geometry.eroded(walls, 1)).sum() > 0.4 * walls.sum():
        walls = thinner
    sheet = np.empty((*walls.shape, 3), dtype=np.uint8)
    sheet[:] = style.paper
    if style.fills:
        for number in range(1, int(plan.rooms.max()) + 1):
            sheet[plan.rooms == number] = style.fills[int(random.integers(len(style.fills)))]
    if office.doors:
        sheet[plan.details & ~walls] = style.ink
    sheet[walls] = style.ink
    core = geometry.eroded(walls, 1)
    if style.wall == "hollow" and core.any():
        sheet[core] = style.paper
    elif style.wall == "hatched" and core.any():
        rows, columns = np.mgrid[: walls.shape[0], : walls.shape[1]]
        sheet[core & ((rows + columns) % 6 >= 2)] = style.paper
    # Strokes found in a picture are jagged; a drawn line is not.
    image = Image.fromarray(sheet).filter(ImageFilter.GaussianBlur(0.6))
    _lettered(image, plan.rooms, random, office)
    return image


def _lettered(
    image: Image.Image, rooms: geometry.Labels, random: np.random.Generator, office: Office
) -> None:
    pen, style, long = ImageDraw.Draw(image), office.style, max(image.size)
    upper = random.random() < 0.3
    for number in range(1, int(rooms.max()) + 1):
        rows, columns = np.nonzero(rooms == number)
        if not len(rows):
            continue
        x, y, wide = float(np.median(columns)), float(np.median(rows)), float(np.ptp(columns))
        if style.furniture and random.random() < 0.6:
            across, down = random.uniform(0.02, 0.07, 2) * long
            left, top = x + random.uniform(-0.04, 0.04) * long, y + random.uniform(-0.04, 0.04) * long
            pen.rectangle((left, top, left + across, top + down), outline=style.ink)
        if style.labels:
            text = palettes.choose(random, _ROOMS)
            if style.areas:
                area = f"{random.uniform(3, 28):.1f} m2"
                text = area if random.random() < 0.5 else f"{text}\n{area}"
            size = min(random.uniform(0.016, 0.026) * long, wide / max(len(text.split("\n")[0]) * 0.6, 1))
            font = ImageFont.load_default(max(size, 5.0))
            words = text.upper() if upper else text
            pen.multiline_text((x, y), words, fill=style.ink, font=font, anchor="mm", align="center")


def _blotted(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Letters and other small things erased, or run together."""
    ink = geometry.inked(image)
    small = ink & ~geometry.dilated(geometry.walled(ink), 2)
    groups = geometry.dilated(small, 4)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(groups.astype(np.uint8), connectivity=8)
    values, paper = np.asarray(image).copy(), _paper(image)
    tone = values[ink].mean(axis=0) if ink.any() else np.zeros(3)
    erased, most = float(random.uniform(0.1, 0.9)), 0.25 * max(image.size)
    for number in range(1, count):
        left, top, width, height = stats[number, : cv2.CC_STAT_AREA]
        if max(width, height) > most:
            continue
        where = slice(top, top + height), slice(left, left + width)
        if random.random() < erased:
            values[where][labels[where] == number] = paper
        elif random.random() < 0.5:
            smeared = geometry.dilated(small[where] & (labels[where] == number), int(random.integers(1, 3)))
            values[where][smeared] = tone
    return Image.fromarray(values)


def _recoloured(image: Image.Image, style: styles.Style) -> Image.Image:
    """`image` between the ink and the paper of `style`, by how far each pixel is from its own paper."""
    tones = np.asarray(image.convert("L"), dtype=np.float32)
    paper = float(np.asarray(Image.new("RGB", (1, 1), _paper(image)).convert("L"))[0, 0])
    share = np.clip(np.abs(tones - paper) / max(paper, 255 - paper), 0, 1)[:, :, None]
    ground, ink = np.asarray(style.paper, dtype=np.float32), np.asarray(style.ink, dtype=np.float32)
    return Image.fromarray((ground + (ink - ground) * share).astype(np.uint8))


def _laid(image: Image.Image, random: np.random.Generator, paper: styles.Ink) -> Image.Image:
    """`image` on another sheet: cut or given margins, stretched a little, in a quarter turn, not quite straight."""
    result = image
    ink = geometry.inked(result)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if random.random() < 0.6 and len(rows) and len(columns):
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        if min(box[2] - box[0], box[3] - box[1]) > 0.2 * min(result.size):
            result = result.crop(box)
    if random.random() < 0.8:
        margins = np.rint(random.uniform(0.01, 0.16, 4) * max(result.size)).astype(int).tolist()
        width, height = result.width + margins[0] + margins[2], result.height + margins[1] + margins[3]
        larger = Image.new("RGB", (width, height), paper)
        larger.paste(result, (margins[0], margins[1]))
        result = larger
        title = palettes.choose(random, _TITLES)
        if title and margins[3] > 14 and random.random() < 0.7:
            dark = sum(paper) > 380
            font = ImageFont.load_default(min(margins[3] * 0.5, 0.03 * height + 4))
            where = (width * float(random.uniform(0.25, 0.75)), height - margins[3] / 2)
            ink_colour = (30, 30, 30) if dark else (225, 225, 225)
            ImageDraw.Draw(result).text(where, title, fill=ink_colour, font=font, anchor="mm")
    if random.random() < 0.4:
        turn = palettes.choose(random, ("ROTATE_90", "ROTATE_180", "ROTATE_270"))
        result = result.transpose(Image.Transpose[turn])
    if random.random() < 0.5:
        degrees = float(np.clip(random.normal(0, 1.5), -4, 4))
        corners = paper if random.random() < 0.6 else _colour(random.integers(0, 256, 3))
        result = result.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=corners)
    factor = _SIDE_PIXELS * float(random.uniform(0.6, 1.0)) / max(result.size)
    stretch = float(np.exp(random.normal(0, 0.03)))
    size = max(round(result.width * factor * stretch), 8), max(round(result.height * factor / stretch), 8)
    return result.resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC)


def _copied(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """`image` through a scanner: blur, uneven light, grain."""
    result = image
    if random.random() < 0.6:
        result = result.filter(ImageFilter.GaussianBlur(float(random.uniform(0.3, 1.3))))
    values = np.asarray(result, dtype=np.float32)
    if random.random() < 0.5:
        slope = np.linspace(-1, 1, values.shape[1])[None, :] * random.normal(0, 0.05)
        slope = slope + np.linspace(-1, 1, values.shape[0])[:, None] * random.normal(0, 0.05)
        values = values * (1 + slope[:, :, None]).astype(np.float32)
    if random.random() < 0.6:
        values = values + random.normal(0, random.uniform(2, 14), values.shape[:2])[:, :, None].astype(
            np.float32
        )
    contrast = float(random.uniform(0.7, 1.1))
    values = (values - 128) * contrast + 128 * float(random.uniform(1.0, 1.15))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _paper(image: Image.Image) -> styles.Ink:
    """The commonest colour."""
    few = np.asarray(image.resize((128, 128), Image.Resampling.NEAREST)).reshape(-1, 3)
    coarse = few.astype(np.int32) // 8
    keys = coarse[:, 0] * 1024 + coarse[:, 1] * 32 + coarse[:, 2]
    commonest = np.bincount(keys).argmax()
    return _colour(few[keys == commonest].mean(axis=0))


def _colour(values: np.typing.NDArray[np.generic]) -> styles.Ink:
    return int(values[0]), int(values[1]), int(values[2])
