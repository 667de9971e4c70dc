"""The hands of several drawing offices: one plan looks different from each of them."""

from __future__ import annotations

import dataclasses
import typing

import numpy

from core.drawing import palettes

Ink: typing.TypeAlias = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Style:
    """How an office draws: `wall` is filled, hollow or hatched; `thickness` in metres; `line` in pixels."""

    wall: str
    ink: Ink
    paper: Ink
    fills: tuple[Ink, ...]
    thickness: float
    line: int
    labels: bool
    areas: bool
    title: str
    margin: float
    furniture: bool
    upper: bool

    @classmethod
    def random(cls, rng: numpy.random.Generator) -> Style:
        """An office style beyond the fixed ones."""
        base = palettes.choose(rng, STYLES)
        ink = tuple(int(v) for v in rng.integers(0, 90, 3))
        fills = palettes.choose(rng, tuple(style.fills for style in STYLES))
        return dataclasses.replace(
            base, wall=palettes.choose(rng, ("filled", "hollow", "hatched")), ink=(ink[0], ink[1], ink[2]),
            fills=fills, thickness=float(rng.uniform(0.12, 0.32)), margin=float(rng.uniform(0.06, 0.14)),
            furniture=bool(rng.integers(2)), areas=bool(rng.integers(2)),
        )  # fmt: skip


STYLES = (
    Style("filled", (15, 15, 15), (255, 255, 255), (), 0.26, 2, True, True, "", 0.08, True, False),
    Style("hollow", (60, 60, 70), (252, 252, 250), ((238, 232, 218), (222, 232, 236), (230, 238, 224)), 0.28, 2,
          True, False, "FLOOR PLAN", 0.12, False, True),
    Style("hatched", (40, 30, 25), (250, 246, 236), (), 0.30, 1, True, True, "Ground floor  1:100", 0.11, False, False),
    Style("filled", (120, 30, 40), (255, 255, 255), ((250, 240, 236),), 0.16, 2, True, True, "Your new home", 0.10,
          True, False),
    Style("filled", (90, 96, 104), (244, 246, 248), ((255, 255, 255),), 0.30, 2, False, False, "", 0.06, True, False),
    Style("hollow", (20, 50, 110), (236, 242, 252), (), 0.22, 3, True, True, "PLAN A-01", 0.13, True, True),
)  # fmt: skip
