"""Procedural surfaces: the drawn rooms must carry fine detail, and the repository ships no image assets."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import typing

import numpy
import numpy.typing

Array: typing.TypeAlias = numpy.typing.NDArray[numpy.float32]
Colour: typing.TypeAlias = tuple[float, float, float]

_FIELD_TEXELS = 512
_GAMMA = 2.2


@dataclasses.dataclass(frozen=True)
class Material:
    """One surface. Colours are sRGB in [0, 1]; `scale` is the size in metres of what the pattern repeats."""

    pattern: str
    base: Colour
    accent: Colour = (0.5, 0.5, 0.5)
    scale: float = 0.2
    seed: int = 0
    emission: float = 0.0
    turned: bool = False


@dataclasses.dataclass(frozen=True)
class Surface:
    """Where a material is looked at: n points.

    `u`, `v`: (n,) metres on the surface; `footprint`: (n,) metres that one pixel covers;
    `azimuth` in radians and `elevation` (tangent): (n,) the direction of sight, for what lies behind glass.
    """

    u: Array
    v: Array
    footprint: Array
    azimuth: Array
    elevation: Array


def colour(material: Material, surface: Surface) -> Array:
    """Linear reflectance (n, 3) of `material` at `surface`. Unknown patterns raise KeyError."""
    if material.turned:
        surface = dataclasses.replace(surface, u=surface.v, v=surface.u)
    amount = _PATTERNS[material.pattern](material, surface)
    if amount.ndim == 1:
        # One number a point is a walk from base (0) to accent (1); the overshoot is kept as grain.
        base, accent = _vector(material.base), _vector(material.accent)
        amount = base + amount[:, None] * (accent - base)
    return _single(numpy.clip(amount, 0.0, 1.0) ** numpy.float32(_GAMMA))


def shade(tone: Colour, factor: float) -> Colour:
    """`tone` made darker (factor below 1) or lighter."""
    red, green, blue = (min(max(channel * factor, 0.0), 1.0) for channel in tone)
    return red, green, blue


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` of `second` in it."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def _single(values: typing.Any) -> Array:
    return numpy.asarray(values, dtype=numpy.float32)


def _vector(tone: Colour) -> Array:
    return numpy.asarray(tone, dtype=numpy.float32)


@functools.lru_cache(maxsize=16)
def _field(roughness: float) -> Array:
    """Tileable noise with spectrum 1/f^roughness, zero mean, unit deviation, (512, 512)."""
    white = numpy.random.default_rng(7).standard_normal((_FIELD_TEXELS, _FIELD_TEXELS))
    frequency = numpy.fft.fftfreq(_FIELD_TEXELS)
    radius = numpy.hypot(frequency[:, None], frequency[None, :])
    radius[0, 0] = 1.0
    spectrum = numpy.fft.fft2(white) / radius**roughness
    spectrum[0, 0] = 0.0
    field = numpy.fft.ifft2(spectrum).real
    return _single(numpy.clip(field / field.std(), -2.5, 2.5))


@functools.lru_cache(maxsize=1)
def _table() -> Array:
    return numpy.random.default_rng(11).random(4096, dtype=numpy.float32)


def _noise(material: Material, u: Array, v: Array, roughness: float = 1.2) -> Array:
    shift = material.seed * 97
    column = (u + shift).astype(numpy.int32) & (_FIELD_TEXELS - 1)
    row = (v + shift * 3).astype(numpy.int32) & (_FIELD_TEXELS - 1)
    return _single(_field(roughness)[row, column])


def _hash(material: Material, i: Array, j: Array | float = 0.0) -> Array:
    """A fixed random number in [0, 1) for each cell (i, j)."""
    whole = numpy.asarray(i, dtype=numpy.int64) * 131 + numpy.asarray(j, dtype=numpy.int64) * 2411
    return _single(_table()[(whole + material.seed * 577) & 4095])


def _line(position: Array, period: float, width: float, footprint: Array) -> Array:
    """Coverage in [0, 1] of thin lines every `period`, faded where a pixel is wider than the line."""
    distance = numpy.abs((position / period) % 1.0 - 0.5) * period
    edge = numpy.maximum(footprint, width)
    cover = numpy.clip((distance - 0.5 * period + edge) / edge, 0.0, 1.0)
    return _single(cover * numpy.minimum(1.0, width * 1.5 / edge))


def _fade(surface: Surface, size: float) -> Array:
    """How much of a detail of `size` metres survives at each point, in [0, 1]."""
    return numpy.minimum(1.0, size / numpy.maximum(surface.footprint, 1e-4)).astype(numpy.float32)


def _plain(m: Material, s: Surface) -> Array:
    return _single(0.05 * _noise(m, s.u * 90, s.v * 90))


def _grain(m: Material, s: Surface) -> Array:
    return _single(
        0.35 + 0.16 * _noise(m, s.u * 220, s.v * 14) * _fade(s, 0.01) + 0.12 * _noise(m, s.u * 40, s.v * 4)
    )


def _planks(m: Material, s: Surface) -> Array:
    row = numpy.floor(s.v / m.scale)
    along = s.u + 1.7 * _hash(m, row)
    board = numpy.floor(along / 1.4)
    tone = 0.75 * _hash(m, row, board)
    grain = 0.13 * _noise(m, along * 30 + 91 * board, s.v * 420 + 37 * row) * _fade(s, 0.012)
    gaps = numpy.maximum(_line(s.v, m.scale, 0.005, s.footprint), _line(along, 1.4, 0.005, s.footprint))
    return _darken(m, tone + grain, _single(gaps * 0.55))


def _parquet(m: Material, s: Surface) -> Array:
    column, row = numpy.floor(s.u / m.scale), numpy.floor(s.v / m.scale)
    turned = (column + row) % 2 > 0
    along, across = numpy.where(turned, s.v, s.u), numpy.where(turned, s.u, s.v)
    strip = m.scale / 4
    tone = 0.8 * _hash(m, column * 7 + numpy.floor(across / strip), row)
    grain = 0.1 * _noise(m, along * 40, across * 400) * _fade(s, 0.012)
    gaps = numpy.maximum(_line(across, strip, 0.003, s.footprint), _line(along, m.scale, 0.003, s.footprint))
    return _darken(m, tone + grain, _single(gaps * 0.45))


def _darken(m: Material, amount: Array, gaps: Array) -> Array:
    base, accent = _vector(m.base), _vector(m.accent)
    return _single((base + amount[:, None] * (accent - base)) * (1.0 - gaps[:, None]))


def _tiles(m: Material, s: Surface) -> Array:
    grout = numpy.maximum(_line(s.u, m.scale, 0.008, s.footprint), _line(s.v, m.scale, 0.008, s.footprint))
    tone = 0.09 * _hash(m, numpy.floor(s.u / m.scale + 0.5), numpy.floor(s.v / m.scale + 0.5))
    return _single(numpy.maximum(grout, tone + 0.04 * _noise(m, s.u * 70, s.v * 70)))


def _bricks(m: Material, s: Surface) -> Array:
    height = m.scale / 3
    row = numpy.floor(s.v / height)
    along = s.u + 0.5 * m.scale * (row % 2)
    joint = numpy.maximum(
        _line(along, m.scale, 0.010, s.footprint), _line(s.v - height / 2, height, 0.010, s.footprint)
    )
    tone = 0.3 * _hash(m, row, numpy.floor(along / m.scale + 0.5)) + 0.06 * _noise(m, s.u * 300, s.v * 300)
    return _single(numpy.maximum(joint, tone))


def _checker(m: Material, s: Surface) -> Array:
    parity = (numpy.floor(s.u / m.scale) + numpy.floor(s.v / m.scale)) % 2
    return _single(0.92 * parity + 0.05 * _noise(m, s.u * 80, s.v * 80))


def _carpet(m: Material, s: Surface) -> Array:
    fine = _noise(m, s.u * 260, s.v * 260, 0.3) * _fade(s, 0.006)
    return _single(0.3 + 0.3 * fine + 0.2 * _noise(m, s.u * 40, s.v * 40))


def _fabric(m: Material, s: Surface) -> Array:
    weave = numpy.sin(s.u * 520) * numpy.sin(s.v * 520) * _fade(s, 0.004)
    return (0.2 + 0.12 * weave + 0.06 * _noise(m, s.u * 60, s.v * 60)).astype(numpy.float32)


def _stripes(m: Material, s: Surface) -> Array:
    wave = numpy.sin(s.u * (2 * numpy.pi / m.scale))
    sharp = numpy.clip(wave * m.scale / numpy.maximum(s.footprint * 4, 0.004), -1.0, 1.0)
    return _single(0.5 + 0.5 * sharp)


def _damask(m: Material, s: Surface) -> Array:
    k = 2 * numpy.pi / m.scale
    figure = numpy.sin(s.u * k) * numpy.cos(s.v * k) + 0.6 * numpy.cos(2 * s.u * k + numpy.sin(s.v * k))
    return _single(numpy.clip(figure * 2.5, 0.0, 1.0) * _fade(s, m.scale / 4))


def _dots(m: Material, s: Surface) -> Array:
    half = numpy.floor(s.v / m.scale) % 2 * 0.5
    du = (s.u / m.scale + half) % 1.0 - 0.5
    dv = (s.v / m.scale) % 1.0 - 0.5
    return _single(numpy.clip((0.26 - numpy.hypot(du, dv)) * 12, 0.0, 1.0))


def _marble(m: Material, s: Surface) -> Array:
    warp = _noise(m, s.u * 110, s.v * 110, 1.9)
    vein = 1.0 - numpy.abs(numpy.sin((s.u + 0.6 * s.v) * 5 / max(m.scale, 0.05) * 0.2 + warp * 2.2))
    return (vein**6 * 0.8 + 0.06 * warp).astype(numpy.float32)


def _terrazzo(m: Material, s: Surface) -> Array:
    chip = _noise(m, s.u * 160, s.v * 160, 0.9)
    return _single(numpy.clip((numpy.abs(chip) - 1.1) * 3, 0.0, 1.0) * _fade(s, 0.02))


def _rug(m: Material, s: Surface) -> Array:
    reach = numpy.maximum(numpy.abs(s.u) / 1.3, numpy.abs(s.v))
    bands = (numpy.floor(reach / (m.scale * 0.8)) % 2) * 0.6
    figure = numpy.abs((s.u / m.scale) % 1.0 - 0.5) + numpy.abs((s.v / m.scale) % 1.0 - 0.5)
    pile = 0.15 * _noise(m, s.u * 200, s.v * 200, 0.3) * _fade(s, 0.006)
    return _single(bands + 0.4 * (figure < 0.35) + pile)


def _books(m: Material, s: Surface) -> Array:
    spine = numpy.floor(s.u / 0.035 + 0.4 * numpy.sin(s.u * 13))
    tone = numpy.stack([_hash(m, spine, k) for k in (1.0, 2.0, 3.0)], axis=1)
    mean = tone.mean(axis=1, keepdims=True)
    faded = 0.25 + 0.55 * (mean + 0.55 * (tone - mean))
    return _single(faded * (1.0 - 0.5 * _line(s.u, 0.035, 0.004, s.footprint)[:, None]))


def _art(m: Material, s: Surface) -> Array:
    """An abstract picture: a ground, then circles, bars and hills, all from the seed."""
    rng = numpy.random.default_rng(m.seed)
    u, v = s.u / m.scale, s.v / m.scale
    canvas = _vector(m.base) + (v * 0.25)[:, None] * rng.normal(0, 1, 3).astype(numpy.float32)
    for _ in range(int(rng.integers(4, 8))):
        x, y, size = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), rng.uniform(0.12, 0.45)
        tone = mix(m.accent, tuple(rng.uniform(0.15, 0.85, 3).tolist()), 0.7)
        kind = int(rng.integers(3))
        if kind == 0:
            inside = numpy.hypot(u - x, v - y) < size
        elif kind == 1:
            inside = (numpy.abs(u - x) < size * 0.35) & (numpy.abs(v - y) < size * 1.6)
        else:
            inside = v < y + 0.25 * numpy.sin((u + x) * 1.6 / size)
        canvas = numpy.where(inside[:, None], _vector(tone), canvas)
    return canvas.astype(numpy.float32)


def _view(m: Material, s: Surface) -> Array:
    """What lies outside: sky, clouds and a skyline of trees or houses, fixed at infinity."""
    angle = s.azimuth * (_FIELD_TEXELS / (2 * numpy.pi))
    sky = numpy.clip(s.elevation * 1.3 + 0.15, 0.0, 1.0)[:, None]
    tone = (1.0 - sky) * _vector((0.93, 0.95, 0.97)) + sky * _vector(m.base)
    cloud = numpy.clip(_noise(m, angle * 3, s.elevation * 200, 1.8) - 0.2, 0.0, 1.0)[:, None]
    tone = tone + cloud * 0.6 * (1.0 - tone)
    block = numpy.floor(angle / 11)
    houses = 0.02 + 0.3 * _hash(m, block) ** 2 if m.seed % 2 else numpy.zeros_like(angle)
    trees = 0.05 + 0.07 * _noise(m, angle, numpy.zeros_like(angle), 1.4)
    leaf = _vector((0.26, 0.38, 0.19)) * (1.0 + 0.35 * _noise(m, angle * 6, s.elevation * 420, 0.9))[:, None]
    panes = ((angle * 0.9) % 1.0 > 0.45) & ((s.elevation * 22) % 1.0 > 0.45)
    wall = _vector(m.accent) * (0.75 + 0.4 * _hash(m, block, 5.0) - 0.35 * panes)[:, None]
    tone = numpy.where((s.elevation < houses)[:, None], wall, tone)
    return numpy.where((s.elevation < trees)[:, None], leaf, tone).astype(numpy.float32)


def _leaves(m: Material, s: Surface) -> Array:
    return _single(0.5 + 0.45 * _noise(m, s.u * 130, s.v * 130, 0.7))


_PATTERNS: dict[str, collections.abc.Callable[[Material, Surface], Array]] = {
    "plain": _plain,
    "grain": _grain,
    "planks": _planks,
    "parquet": _parquet,
    "tiles": _tiles,
    "bricks": _bricks,
    "checker": _checker,
    "carpet": _carpet,
    "fabric": _fabric,
    "stripes": _stripes,
    "damask": _damask,
    "dots": _dots,
    "marble": _marble,
    "terrazzo": _terrazzo,
    "rug": _rug,
    "books": _books,
    "art": _art,
    "view": _view,
    "leaves": _leaves,
}
