"""Floor plans: one home, drawn in the style of several offices, and scanned off paper."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from core.drawing import palettes, styles

Box = tuple[float, float, float, float]

_NAMES = ("Living room", "Kitchen", "Bedroom", "Bathroom", "Bedroom 2", "Study", "Hall", "Dining", "Store")
_OVERSAMPLE = 2


@dataclasses.dataclass(frozen=True)
class Opening:
    """A door or window in a wall: its middle (x, y) and `width` in metres.

    `upright` walls run north; `swing` is +1 or -1, the side to which a door opens; `hinge` the end it hangs on.
    """

    x: float
    y: float
    width: float
    upright: bool
    swing: int = 1
    hinge: int = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """A home seen from above: `rooms` are (left, top, right, bottom) in metres with their names."""

    size: tuple[float, float]
    rooms: tuple[tuple[str, Box], ...]
    doors: tuple[Opening, ...]
    windows: tuple[Opening, ...]

    @classmethod
    def random(cls, rng: numpy.random.Generator) -> Plan:
        """A home of four to eight rooms, by splitting a rectangle again and again."""
        size = (float(rng.uniform(8, 13)), float(rng.uniform(6.5, 10)))
        boxes: list[Box] = [(0.0, 0.0, *size)]
        for _ in range(int(rng.integers(3, 7))):
            largest = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
            boxes.remove(largest)
            boxes += _split(rng, largest)
        order = sorted(boxes, key=lambda box: -(box[2] - box[0]) * (box[3] - box[1]))
        rooms = tuple(zip(_NAMES[: len(order)], order, strict=True))
        return cls(size, rooms, _doors(rng, order), _windows(rng, order, size))


def draw(plan: Plan, style: styles.Style, width: int = 640, height: int = 480) -> Image.Image:
    """`plan` as an RGB picture of `width` x `height` pixels, as the office with `style` would draw it."""
    return (
        _Sheet(plan, style, width * _OVERSAMPLE, height * _OVERSAMPLE)
        .draw()
        .resize((width, height), Image.Resampling.BOX)
    )


def rescan(image: Image.Image, rng: numpy.random.Generator) -> Image.Image:
    """`image` printed, aged and scanned: a small turn, blur, yellowed uneven paper, grain, JPEG."""
    paper = tuple(int(v) for v in (rng.uniform(240, 255), rng.uniform(230, 248), rng.uniform(205, 236)))
    turned = image.convert("RGB").rotate(
        float(rng.uniform(0.5, 2.5) * rng.choice((-1, 1))), Image.Resampling.BICUBIC, fillcolor=(255, 255, 255),
        translate=(int(rng.integers(-6, 7)), int(rng.integers(-6, 7))),
    ).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.1))))  # fmt: skip
    values = numpy.asarray(turned, dtype=numpy.float32)
    if rng.random() < 0.4:
        values = numpy.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    rows, columns = numpy.mgrid[0 : values.shape[0], 0 : values.shape[1]].astype(numpy.float32)
    angle = float(rng.uniform(0, 2 * math.pi))
    slope = math.cos(angle) * columns / values.shape[1] + math.sin(angle) * rows / values.shape[0]
    fade = float(rng.uniform(0.72, 0.95))
    values = 255 - (255 - values) * fade
    values = values * (numpy.asarray(paper, dtype=numpy.float32) / 255) * (0.95 + 0.07 * slope[:, :, None])
    values += rng.normal(0, float(rng.uniform(2, 7)), values.shape[:2])[:, :, None].astype(numpy.float32)
    coded = io.BytesIO()
    picture = Image.fromarray(numpy.clip(values, 0, 255).astype(numpy.uint8))
    picture.save(coded, "JPEG", quality=int(rng.integers(45, 85)))
    with Image.open(coded) as scan:
        return scan.convert("RGB")


def _split(rng: numpy.random.Generator, box: Box) -> tuple[Box, Box]:
    left, top, right, bottom = box
    share = float(rng.uniform(0.34, 0.66))
    if right - left > bottom - top:
        x = left + (right - left) * share
        return (left, top, x, bottom), (x, top, right, bottom)
    y = top + (bottom - top) * share
    return (left, top, right, y), (left, y, right, bottom)


def _doors(rng: numpy.random.Generator, boxes: list[Box]) -> tuple[Opening, ...]:
    doors = []
    joined = {0}
    # Walk the rooms as a tree from the largest, so that every room can be reached and few walls have a door.
    while len(joined) < len(boxes):
        near = [(i, j) for i in sorted(joined) for j in range(len(boxes)) if j not in joined]
        shared = [(j, wall) for i, j in near if (wall := _shared(boxes[i], boxes[j])) is not None]
        if not shared:
            break
        j, (x, y, length, upright) = palettes.choose(rng, shared)
        joined.add(j)
        slide = float(rng.uniform(-0.5, 0.5)) * (length - 1.2)
        swing, hinge = (int(v) for v in rng.choice((-1, 1), 2))
        doors.append(Opening(x + slide * (not upright), y + slide * upright, 0.85, upright, swing, hinge))
    left, _, right, bottom = max(boxes, key=lambda box: box[3])
    doors.append(Opening((left + right) / 2, bottom, 0.95, False, -1, 1))
    return tuple(doors)


def _shared(a: Box, b: Box) -> tuple[float, float, float, bool] | None:
    """The middle, length and direction of the wall between two rooms, None where they have none for a door."""
    for upright, (low, high) in ((True, (0, 2)), (False, (1, 3))):
        other = 1 - low
        start, end = max(a[other], b[other]), min(a[other + 2], b[other + 2])
        for edge in (a[low], a[high]):
            touches = edge in (b[low], b[high]) and (a[high] == b[low] or b[high] == a[low])
            if touches and edge in {max(a[low], b[low]), min(a[high], b[high])} and end - start > 1.2:
                middle = (start + end) / 2
                return (edge, middle, end - start, True) if upright else (middle, edge, end - start, False)
    return None


def _windows(rng: numpy.random.Generator, boxes: list[Box], size: tuple[float, float]) -> tuple[Opening, ...]:
    windows = []
    for left, top, right, bottom in boxes:
        sides = [(left, True)] * (left == 0) + [(right, True)] * (right == size[0])
        sides += [(top, False)] * (top == 0)
        for edge, upright in sides:
            length = bottom - top if upright else right - left
            wide = min(float(rng.uniform(0.8, 2.0)), length * 0.6)
            middle = (top + bottom) / 2 if upright else (left + right) / 2
            windows.append(
                Opening(edge, middle, wide, True) if upright else Opening(middle, edge, wide, False)
            )
    return tuple(windows)


class _Sheet:
    """One drawing in progress; pixels at the oversampled size."""

    def __init__(self, plan: Plan, style: styles.Style, width: int, height: int) -> None:
        self.plan, self.style = plan, style
        self.image = Image.new("RGB", (width, height), style.paper)
        self.pen = ImageDraw.Draw(self.image)
        header = 0.09 * height if style.title else 0.0
        room = (width * (1 - 2 * style.margin), (height - header) * (1 - 2 * style.margin))
        self.scale = min(room[0] / plan.size[0], room[1] / plan.size[1])
        self.left = (width - plan.size[0] * self.scale) / 2
        self.top = (height - header - plan.size[1] * self.scale) / 2
        self.half = style.thickness / 2
        self.line = style.line * _OVERSAMPLE

    def draw(self) -> Image.Image:
        """The whole sheet."""
        for number, (_, box) in enumerate(self.plan.rooms):
            if self.style.fills:
                self.pen.rectangle(self._at(*box), fill=self.style.fills[number % len(self.style.fills)])
        if self.style.furniture:
            for name, box in self.plan.rooms:
                self._furnish(name, box)
        self._walls()
        for door in self.plan.doors:
            self._door(door)
        for pane in self.plan.windows:
            self._window(pane)
        if self.style.labels:
            for name, box in self.plan.rooms:
                self._label(name, box)
        if self.style.title:
            self._title()
        return self.image

    def _at(self, left: float, top: float, right: float, bottom: float) -> Box:
        s = self.scale
        return self.left + left * s, self.top + top * s, self.left + right * s, self.top + bottom * s

    def _gap(self, o: Opening, reach: float) -> Box:
        if o.upright:
            return self._at(o.x - reach, o.y - o.width / 2, o.x + reach, o.y + o.width / 2)
        return self._at(o.x - o.width / 2, o.y - reach, o.x + o.width / 2, o.y + reach)

    def _wall_mask(self, inset: float) -> Image.Image:
        """Where the walls are, made thinner by `inset` metres on every side."""
        mask = Image.new("L", self.image.size, 0)
        # On a small sheet the outline is as thick as the wall; a sliver of the inside must be left.
        inset = min(inset, self.half * 0.7)
        pen, h = ImageDraw.Draw(mask), self.half - inset
        for _, (left, top, right, bottom) in self.plan.rooms:
            for x in (left, right):
                pen.rectangle(self._at(x - h, top - h, x + h, bottom + h), fill=255)
            for y in (top, bottom):
                pen.rectangle(self._at(left - h, y - h, right + h, y + h), fill=255)
        for opening in (*self.plan.doors, *self.plan.windows):
            wider = dataclasses.replace(opening, width=opening.width + 2 * inset)
            pen.rectangle(self._gap(wider, self.half * 1.2), fill=0)
        return mask

    def _walls(self) -> None:
        mask = self._wall_mask(0.0)
        if self.style.wall == "filled":
            self.image.paste(self.style.ink, mask=mask)
            return
        inner = self._wall_mask(self.line / self.scale)
        self.image.paste(self.style.paper, mask=mask)
        self.image.paste(self.style.ink, mask=ImageChops.subtract(mask, inner))
        if self.style.wall == "hatched":
            hatch = Image.new("L", mask.size, 0)
            hatcher = ImageDraw.Draw(hatch)
            for x in range(-mask.size[1], mask.size[0], 9):
                hatcher.line((x, mask.size[1], x + mask.size[1], 0), fill=255, width=2)
            self.image.paste(self.style.ink, mask=ImageChops.multiply(hatch, inner))

    def _door(self, o: Opening) -> None:
        s, w = self.scale, o.width
        along, across = (0.0, 1.0) if o.upright else (1.0, 0.0)
        x, y = o.x + along * o.hinge * w / 2, o.y + across * o.hinge * w / 2
        tip = (x + across * o.swing * w, y + along * o.swing * w)
        cx, cy = self.left + x * s, self.top + y * s
        leaf = (cx, cy, self.left + tip[0] * s, self.top + tip[1] * s)
        self.pen.line(leaf, fill=self.style.ink, width=self.line)
        opened = math.degrees(math.atan2(leaf[3] - cy, leaf[2] - cx))
        closed = math.degrees(math.atan2(-across * o.hinge, -along * o.hinge))
        turn = (closed - opened + 180) % 360 - 180
        start, end = (opened, opened + turn) if turn > 0 else (opened + turn, opened)
        around = (cx - w * s, cy - w * s, cx + w * s, cy + w * s)
        self.pen.arc(around, start, end, fill=self.style.ink, width=max(self.line // 2, 1))

    def _window(self, o: Opening) -> None:
        for reach in (self.half, self.half * 0.3) if self.style.wall != "hollow" else (self.half,):
            self.pen.rectangle(self._gap(o, reach), outline=self.style.ink, width=max(self.line // 2, 1))

    def _label(self, name: str, box: Box) -> None:
        text = name.upper() if self.style.upper else name
        if self.style.areas:
            text += f"\n{(box[2] - box[0]) * (box[3] - box[1]):.1f} sq m"
        left, top, right, bottom = self._at(*box)
        size = min(13.0 * _OVERSAMPLE, (right - left) / (len(name) * 0.72))
        # Below the middle in bedrooms, where the bed is drawn at the top.
        share = 0.72 if name.startswith("Bedroom") else 0.5
        where = ((left + right) / 2, top + (bottom - top) * share)
        font = ImageFont.load_default(size)
        self.pen.multiline_text(where, text, fill=self.style.ink, anchor="mm", align="center", font=font)

    def _title(self) -> None:
        width, height = self.image.size
        edge = 0.02 * height
        if self.style.wall != "filled":
            self.pen.rectangle((edge, edge, width - edge, height - edge), outline=self.style.ink, width=2)
        font = ImageFont.load_default(17 * _OVERSAMPLE)
        anchor = (width / 2, height * 0.935)
        self.pen.text(anchor, self.style.title, fill=self.style.ink, anchor="mm", font=font)
        if self.style.areas:
            y, metre = height * 0.935, self.scale
            self.pen.line((3 * edge, y, 3 * edge + 2 * metre, y), fill=self.style.ink, width=self.line)
            small = ImageFont.load_default(11 * _OVERSAMPLE)
            self.pen.text((3 * edge, y + 6), "0      2 m", fill=self.style.ink, font=small)

    def _furnish(self, name: str, box: Box) -> None:
        left, top, right, bottom = box
        wide, high = right - left, bottom - top
        width = max(self.line // 2, 1)
        pieces: list[Box] = []
        if name.startswith("Bedroom") and min(wide, high) > 2.4:
            pieces = [(0.3, 0.3, 1.8, 2.2), (0.4, 0.4, 1.0, 0.8), (1.1, 0.4, 1.7, 0.8)]
        elif name == "Kitchen":
            pieces = [(0.2, 0.2, wide - 0.2, 0.75), (0.5, 0.3, 1.0, 0.65)]
        elif name == "Bathroom":
            pieces = [(0.2, 0.2, min(1.8, wide - 0.2), 0.9), (0.3, 0.28, min(1.7, wide - 0.3), 0.82)]
        elif name == "Living room":
            pieces = [(0.3, high - 1.2, 2.3, high - 0.3), (0.5, high - 1.2, 2.1, high - 0.6)]
        elif name == "Dining":
            pieces = [(wide / 2 - 0.7, 0.4, wide / 2 + 0.7, 1.2)]
        for x0, y0, x1, y1 in pieces:
            if x1 - x0 > 0.1 and y1 - y0 > 0.1:
                where = self._at(left + x0, top + y0, left + x1, top + y1)
                self.pen.rounded_rectangle(where, radius=6, outline=self.style.ink, width=width)
