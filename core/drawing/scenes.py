"""The renderer: casts one ray a pixel at solids within a shell, so a room can be seen from any angle.

Light is worked out on a coarse grid and blurred: soft shadows cost a tenth of exact ones and look alike in a photo.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import math

import numpy
from PIL import Image, ImageFilter

from core.drawing import cameras, materials, solids

_STRIDE = 5
_LIFT_METRES = 0.012


@dataclasses.dataclass(frozen=True)
class Light:
    """A lamp or window: `position` and `spread` (the half extents that soften its shadow) in metres.

    `power` is linear RGB; it halves at `reach` metres.
    """

    position: tuple[float, float, float]
    power: tuple[float, float, float]
    reach: float
    spread: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Solids within a shell from the origin to `size` (metres).

    `shell` is one material each for west, east, south, north, floor and ceiling.
    """

    size: tuple[float, float, float]
    shell: tuple[materials.Material, ...]
    solids: tuple[solids.Solid, ...]
    lights: tuple[Light, ...]
    ambient: tuple[float, float, float]


def render(
    scene: Scene, camera: cameras.Camera, width: int, height: int, oversample: float = 1.2
) -> Image.Image:
    """The RGB picture that `camera` takes, `width` x `height` pixels."""
    wide, high = round(width * oversample), round(height * oversample)
    # Rays that run exactly along an axis divide by zero, and rightly give infinity.
    with numpy.errstate(divide="ignore", invalid="ignore", over="ignore"):
        light = _radiance(scene, camera, wide, high)
    tint = numpy.array([1 + 0.12 * camera.warmth, 1.0, 1 - 0.14 * camera.warmth], dtype=numpy.float32)
    shown = 1 - numpy.exp(-light * (tint * camera.exposure)[:, None, None])
    pixels = (numpy.clip(shown, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(numpy.uint8)
    picture = Image.fromarray(numpy.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if (wide, high) == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.HAMMING)


def cast(
    scene: Scene, camera: cameras.Camera, width: int, height: int
) -> tuple[materials.Array, numpy.typing.NDArray[numpy.int16]]:
    """Depth in metres and what is seen, both (height, width): an index into solids, or -1 to -6 for the shell."""
    rays = camera.rays(width, height)
    origin = numpy.asarray(camera.position, dtype=numpy.float32)[:, None, None]
    size = numpy.asarray(scene.size, dtype=numpy.float32)[:, None, None]
    with numpy.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # A ray that runs along a wall never meets it, but divides to minus infinity.
        walls = numpy.abs((numpy.where(rays > 0, size, 0) - origin) / rays)
        axis = walls.argmin(axis=0)
        depth = walls.min(axis=0)
        toward = numpy.take_along_axis(rays, axis[None], 0)[0] > 0
        seen = (-1 - 2 * axis - toward).astype(numpy.int16)
        for index, solid in enumerate(scene.solids):
            window = solid.window(camera, width, height)
            if window is None:
                continue
            met = solid.meet(origin, rays[:, window[0], window[1]])
            nearer = met < depth[window]
            depth[window] = numpy.where(nearer, met, depth[window])
            seen[window][nearer] = index
    return depth, seen


def _radiance(scene: Scene, camera: cameras.Camera, width: int, height: int) -> materials.Array:
    depth, seen = cast(scene, camera, width, height)
    rays = camera.rays(width, height)
    points = numpy.asarray(camera.position, dtype=numpy.float32)[:, None, None] + depth * rays
    albedo, normals, glow = _surfaces(scene, camera, seen, points, rays, depth)
    open_sky = _openness(scene, points, normals)
    total = numpy.asarray(scene.ambient, dtype=numpy.float32)[:, None, None] * (
        open_sky * _corners(scene, points, normals) * (0.85 + 0.15 * normals[2])
    )
    for number, light in enumerate(scene.lights):
        toward = numpy.asarray(light.position, dtype=numpy.float32)[:, None, None] - points
        squared = (toward * toward).sum(0)
        cosine = numpy.clip((toward * normals).sum(0) / numpy.sqrt(squared), 0, 1)
        strength = cosine / (1 + squared / light.reach**2) * _visible(scene, light, points, normals, number)
        total += numpy.asarray(light.power, dtype=numpy.float32)[:, None, None] * strength
    lit: materials.Array = albedo * (total + glow)
    return lit


def _surfaces(
    scene: Scene,
    camera: cameras.Camera,
    seen: numpy.typing.NDArray[numpy.int16],
    points: materials.Array,
    rays: materials.Array,
    depth: materials.Array,
) -> tuple[materials.Array, materials.Array, materials.Array]:
    """Reflectance (3, h, w), normals (3, h, w) and own light (h, w) of what each pixel shows."""
    height, width = seen.shape
    flat = seen.reshape(-1)
    order = numpy.argsort(flat, kind="stable")
    starts = numpy.flatnonzero(numpy.diff(flat[order], prepend=-100))
    albedo = numpy.empty((3, flat.size), dtype=numpy.float32)
    normals = numpy.empty_like(albedo)
    glow = numpy.zeros(flat.size, dtype=numpy.float32)
    flat_points, flat_rays = points.reshape(3, -1), rays.reshape(3, -1)
    spacing = 2 * math.tan(math.radians(camera.fov) / 2) / width
    for start, end in zip(starts, [*starts[1:], flat.size], strict=True):
        chosen = order[start:end]
        index = int(flat[chosen[0]])
        where, ray = flat_points[:, chosen], flat_rays[:, chosen]
        if index >= 0:
            material = scene.solids[index].material
            u, v, normal = scene.solids[index].surface(where)
        else:
            material = scene.shell[-1 - index]
            u, v, normal = _shell_surface(-1 - index, where)
        facing = numpy.abs((ray * normal).sum(0)) / numpy.sqrt((ray * ray).sum(0))
        surface = materials.Surface(
            u=u,
            v=v,
            footprint=depth.reshape(-1)[chosen] * spacing / numpy.maximum(facing, 0.12),
            azimuth=numpy.arctan2(ray[0], ray[1]),
            elevation=ray[2] / numpy.hypot(ray[0], ray[1]),
        )
        albedo[:, chosen] = materials.colour(material, surface).T
        normals[:, chosen] = normal
        glow[chosen] = material.emission
    return albedo.reshape(3, height, width), normals.reshape(3, height, width), glow.reshape(height, width)


def _shell_surface(
    face: int, points: materials.Array
) -> tuple[materials.Array, materials.Array, materials.Array]:
    axis = face // 2
    normal = numpy.zeros_like(points)
    normal[axis] = -1 if face % 2 else 1
    u = points[1] if axis == 0 else points[0]
    v = points[1] if axis == 2 else points[2]
    return u, v, normal


def _corners(scene: Scene, points: materials.Array, normals: materials.Array) -> materials.Array:
    """The darkening towards the edges of the shell, (h, w)."""
    dark = numpy.ones(points.shape[1:], dtype=numpy.float32)
    for axis in range(3):
        gap = numpy.minimum(points[axis], scene.size[axis] - points[axis])
        dark *= 1 - (0.3 * (1 - numpy.abs(normals[axis]))) * numpy.exp(-gap * 3.5)
    return dark


def _openness(scene: Scene, points: materials.Array, normals: materials.Array) -> materials.Array:
    """Ambient occlusion (h, w) in [0, 1] by short random rays."""
    rng = numpy.random.default_rng(5)
    start = (points + normals * _LIFT_METRES)[:, _STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE]
    spread = rng.standard_normal(start.shape).astype(numpy.float32)
    spread /= numpy.linalg.norm(spread, axis=0)
    rays = (spread + normals[:, _STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE] * 1.05) * numpy.float32(
        0.45
    )
    return 0.35 + 0.65 * _soften(_free(scene.solids, start, rays), 2.0, points.shape[1:])


def _visible(
    scene: Scene, light: Light, points: materials.Array, normals: materials.Array, number: int
) -> materials.Array:
    """The share of `light` (h, w) in [0, 1] that reaches each point."""
    rng = numpy.random.default_rng(number)
    start = (points + normals * _LIFT_METRES)[:, _STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE]
    jitter = rng.uniform(-1, 1, start.shape).astype(numpy.float32)
    target = numpy.asarray(light.position, dtype=numpy.float32)[:, None, None]
    target = target + jitter * numpy.asarray(light.spread, dtype=numpy.float32)[:, None, None]
    return _soften(_free(scene.solids, start, target - start), 1.1, points.shape[1:])


def _free(
    shapes: collections.abc.Sequence[solids.Solid], start: materials.Array, rays: materials.Array
) -> materials.Array:
    free = numpy.ones(start.shape[1:], dtype=numpy.float32)
    for solid in shapes:
        if solid.opaque:
            free[solid.meet(start, rays) < 1] = 0
    return free


def _soften(coarse: materials.Array, radius: float, shape: tuple[int, ...]) -> materials.Array:
    picture = Image.fromarray((coarse * 255).astype(numpy.uint8)).filter(ImageFilter.GaussianBlur(radius))
    fine = picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return numpy.asarray(numpy.asarray(fine) / 255, dtype=numpy.float32)
