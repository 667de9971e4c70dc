"""Two views of one photo that stand for the same room from another angle.

A camera that turns on the spot sees the scene through a homography (Hartley and Zisserman, *Multiple View Geometry*,
2004, section 8.4.2), so what two turned cameras see of the part that the photo shows can be computed from the photo
alone. A camera that moves sees more than that; small moves of the corners stand for it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from core.learning.selfmade import overlays

Quad = npt.NDArray[np.float64]
"""(4, 2) corners x, y in pixels of the photo: top left, top right, bottom right, bottom left of a view."""

SHARED = (0.45, 0.8)
"""How much of the smaller view the other one shows, too."""

_TRIES = 40
_ASPECTS = (4 / 3, 4 / 3, 3 / 2, 16 / 10, 1.0, 3 / 4)
_SIDE_PIXELS = 512
_GRID = 24


def two(image: Image.Image, random: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Two views of `image` (RGB), each at most 512 pixels wide and high and in a light of its own."""
    first, second = (seen(image, quad) for quad in quads(image.size, random))
    return relit(first, random), relit(second, random)


def quads(size: tuple[int, int], random: np.random.Generator) -> tuple[Quad, Quad]:
    """What two cameras see of a photo of `size` pixels; the shared part lies within `SHARED`."""
    best, least = None, math.inf
    for _ in range(_TRIES):
        pair = _pair(size, random)
        found = min(shared(*pair), shared(pair[1], pair[0]))
        off = max(SHARED[0] - found, found - SHARED[1], 0.0)
        if off < least:
            best, least = pair, off
        if off == 0.0:
            break
    if best is None:
        raise ValueError(f"no view of a photo of {size[0]}x{size[1]} pixels")
    return best


def shared(of: Quad, by: Quad) -> float:
    """The share, 0…1, of the view `of` that the view `by` shows, too."""
    steps = (np.arange(_GRID) + 0.5) / _GRID
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    points = _mapped(_homography(_unit(), of), grid)
    inside = _mapped(_homography(by, _unit()), points)
    return float(((inside >= 0) & (inside <= 1)).all(axis=1).mean())


def seen(image: Image.Image, quad: Quad) -> Image.Image:
    """The part of `image` within `quad`, stretched to a rectangle of the quad's mean sides."""
    sides = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
    width, height = (sides[0] + sides[2]) / 2, (sides[1] + sides[3]) / 2
    # Small photos are enlarged a little: views of 200 pixels would be unlike any that are posted.
    factor = min(_SIDE_PIXELS / max(width, height), 1.4)
    size = (max(round(width * factor), 8), max(round(height * factor), 8))
    target = _unit() * size
    matrix = _homography(target, quad)
    coefficients = (matrix / matrix[2, 2]).ravel()[:8].tolist()
    return image.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)


def relit(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """`image` under another exposure and colour of light, brighter at one side, with a sensor's noise."""
    result = overlays.toned(image, random, 0.9)
    values = np.asarray(result, dtype=np.float32) / 255
    values = values ** float(np.exp(random.normal(0, 0.22)))
    rows, columns = np.mgrid[-1 : 1 : values.shape[0] * 1j, -1 : 1 : values.shape[1] * 1j].astype(np.float32)
    angle, slope = random.uniform(0, 2 * np.pi), abs(random.normal(0, 0.1))
    falling = 1 + slope * (np.cos(angle) * columns + np.sin(angle) * rows)
    values = values * falling[:, :, None].astype(np.float32)
    values += random.normal(0, random.uniform(0, 0.015), values.shape).astype(np.float32)
    result = Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))
    if random.random() < 0.3:
        result = result.filter(ImageFilter.GaussianBlur(float(random.uniform(0.3, 1.0))))
    return result


def _pair(size: tuple[int, int], random: np.random.Generator) -> tuple[Quad, Quad]:
    width, height = size
    focal = width / 2 / math.tan(math.radians(random.uniform(62, 95)) / 2)
    overlap = random.uniform(*SHARED)
    wide = random.uniform(0.85, 1.0) / (2 - overlap)
    apart = wide * (1 - overlap) * (1 if random.random() < 0.5 else -1)
    middle = random.uniform(-1, 1) * max(1 - wide - abs(apart), 0) / 2
    result = []
    for side in (-0.5, 0.5):
        share = wide * random.uniform(0.8, 1.08)
        centre = (middle + side * apart) * width, random.uniform(-0.12, 0.12) * height
        result.append(_inside(_camera(centre, share * width, focal, size, random), size))
    return result[0], result[1]


def _camera(
    centre: tuple[float, float],
    wide: float,
    focal: float,
    size: tuple[int, int],
    random: np.random.Generator,
) -> Quad:
    """Where a camera that looks at `centre` (pixels from the photo's middle) has its corners in the photo."""
    yaw, pitch = math.atan2(centre[0], focal), -math.atan2(centre[1], focal)
    roll = math.radians(random.normal(0, 1.5))
    aspect = _ASPECTS[int(random.integers(len(_ASPECTS)))]
    # An upright view would leave out most of a photo that lies on its side, and the other way round.
    if (aspect < 1) != (size[0] < size[1]) and random.random() < 0.7:
        aspect = 1 / aspect
    tall = min(wide / aspect, size[1] * 0.96)
    # Off the axis, the same angle covers more of the plane.
    near = math.cos(yaw) * math.cos(pitch)
    half = np.array([wide, tall]) / 2 * near
    corners = (_unit() * 2 - 1) * half
    rays = np.concatenate([corners, np.full((4, 1), focal)], axis=1)
    turned = rays @ (_about_z(roll) @ _about_x(pitch) @ _about_y(yaw))
    quad: Quad = turned[:, :2] / turned[:, 2:] * focal
    quad = quad + random.normal(0, 0.025, (4, 2)) * (wide, tall)
    return quad + np.array(size) / 2


def _inside(quad: Quad, size: tuple[int, int]) -> Quad:
    """`quad` moved into the photo, and made smaller where it does not fit."""
    room = np.array(size, dtype=np.float64)
    extent = quad.max(axis=0) - quad.min(axis=0)
    middle = quad.mean(axis=0)
    quad = (quad - middle) * min(1.0, float((room / extent).min())) + middle
    quad = quad - np.minimum(quad.min(axis=0), 0)
    moved: Quad = quad - np.maximum(quad.max(axis=0) - room, 0)
    return moved


def _unit() -> Quad:
    return np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)


def _homography(source: Quad, target: Quad) -> npt.NDArray[np.float64]:
    """(3, 3), takes the corners of `source` to those of `target`."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    solved = np.linalg.solve(np.array(rows), np.array(values))
    matrix: npt.NDArray[np.float64] = np.append(solved, 1.0).reshape(3, 3)
    return matrix


def _mapped(matrix: npt.NDArray[np.float64], points: Quad) -> Quad:
    moved = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    result: Quad = moved[:, :2] / moved[:, 2:]
    return result


def _about_x(angle: float) -> npt.NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def _about_y(angle: float) -> npt.NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


def _about_z(angle: float) -> npt.NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
