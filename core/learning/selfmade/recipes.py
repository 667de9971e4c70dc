"""How each picture of a self-made pair set comes to be: from which photo, by which edit, in whose style."""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from core.learning.selfmade import overlays, views

LONGEST_PIXELS = 512
_PLAN_PIXELS = 600
_QUALITY = (35, 91)
_MARKED_VIEWS = 0.25


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One picture to be written: `photo` is its position among the photos, `kind` one of `_KINDS`.

    Pictures of the same photo and kind differ by `variant`; `style` numbers the agency or office among those of
    its split, so that train and val share none.
    """

    photo: int
    kind: str
    variant: int
    style: int
    split: str

    @property
    def name(self) -> str:
        """The picture's file name, unique within a set."""
        tail = "" if self.kind == "base" else f"{self.variant}-{self.style}"
        return f"{self.photo:07d}-{self.kind}{tail}.jpg"


def jpeg(image: Image.Image, recipe: Recipe, seed: int) -> bytes:
    """The picture of `recipe`, made of its photo `image` (RGB), as a JPEG of quality 35 to 90.

    The same photo, recipe and seed give the same bytes.
    """
    random = np.random.default_rng((seed, recipe.photo, recipe.variant, zlib.crc32(recipe.kind.encode())))
    made = _KINDS[recipe.kind](image, random, recipe, seed)
    made.thumbnail((LONGEST_PIXELS, LONGEST_PIXELS))
    low, high = (80, 93) if recipe.kind == "base" else _QUALITY
    coded = io.BytesIO()
    made.save(coded, "JPEG", quality=int(random.integers(low, high)))
    return coded.getvalue()


def _base(image: Image.Image, random: np.random.Generator, recipe: Recipe, seed: int) -> Image.Image:
    return _small(image, LONGEST_PIXELS)


def _edit(image: Image.Image, random: np.random.Generator, recipe: Recipe, seed: int) -> Image.Image:
    return overlays.edited(_small(image, LONGEST_PIXELS), random, overlays.House.random(_style(recipe, seed)))


def _view(image: Image.Image, random: np.random.Generator, recipe: Recipe, seed: int) -> Image.Image:
    # Both views of a pair come from one draw, each in its own light.
    quads = views.quads(image.size, np.random.default_rng((seed, recipe.photo, recipe.variant)))
    seen = views.relit(views.seen(image, quads[recipe.kind == "right"]), random)
    if random.random() < _MARKED_VIEWS:
        seen = overlays.marked(seen, random, overlays.House.random(_style(recipe, seed)))
    return seen


def _rescan(image: Image.Image, random: np.random.Generator, recipe: Recipe, seed: int) -> Image.Image:
    from core.learning.selfmade import plans

    return plans.rescanned(_small(image, _PLAN_PIXELS), random, plans.Office.random(_style(recipe, seed)))


def _redraw(image: Image.Image, random: np.random.Generator, recipe: Recipe, seed: int) -> Image.Image:
    from core.learning.selfmade import plans

    return plans.redrawn(_small(image, _PLAN_PIXELS), random, plans.Office.random(_style(recipe, seed)))


def _style(recipe: Recipe, seed: int) -> np.random.Generator:
    return np.random.default_rng((seed, zlib.crc32(recipe.split.encode()), recipe.style))


def _small(image: Image.Image, pixels: int) -> Image.Image:
    smaller = image.copy()
    smaller.thumbnail((pixels, pixels))
    return smaller


_KINDS: dict[str, Callable[[Image.Image, np.random.Generator, Recipe, int], Image.Image]] = {
    "base": _base,
    "edit": _edit,
    "left": _view,
    "right": _view,
    "rescan": _rescan,
    "redraw": _redraw,
}
