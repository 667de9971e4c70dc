"""The pictures of a soak: few, small, drawn once, and what the model says of any two of them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pathlib
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from core import bundle, embedding, fusing, images, weights
from core.drawing import exteriors, rooms

PLACES = 12
MARGIN = 0.03
"""No two pictures score nearer to a threshold than this, so that rounding never decides."""

INPUT_SIZE = 112
"""Pixels that the soak's bundle takes, a quarter of the shipped one's: the forward pass is what bounds how many photos
a soak gets through, and not what it tests.
"""

_SIZE = (320, 240)
_BATCH = 8


@dataclasses.dataclass(frozen=True)
class Content:
    """The bytes of one photo. `failure` is the reason for which a poison photo fails, None for a good one."""

    data: bytes
    failure: str | None = None

    @property
    def etag(self) -> str:
        """As S3 gives it to an object that was put in one piece."""
        return hashlib.md5(self.data, usedforsecurity=False).hexdigest()

    @property
    def sha256(self) -> str:
        """Digest of the bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the model says of the good contents, each named by its ETag.

    `vectors` are fused embeddings, (dims,) float32, rounded as the table rounds them.
    """

    scores: Mapping[tuple[str, str], float]
    vectors: Mapping[str, fusing.Vectors]
    duplicate: float
    review: float


def poison() -> list[Content]:
    """Contents that can never be embedded, with the reason on record of each."""
    coded = _jpeg(Image.effect_noise(_SIZE, 60).convert("RGB"), 80)
    buffer = io.BytesIO()
    Image.effect_noise(_SIZE, 60).save(buffer, "PNG")
    broken = bytearray(buffer.getvalue())
    start = broken.index(b"IDAT") + 4
    broken[start : start + 64] = bytes(range(64))
    return [
        Content(b"", "empty"),
        Content(b"no photo at all", "unsupported"),
        Content(b"<html><body>404</body></html>", "unsupported"),
        Content(coded[: len(coded) // 3], "corrupt"),
        Content(bytes(broken), "corrupt"),
    ]


def draw(folder: pathlib.Path) -> tuple[list[Content], Truth]:
    """Pictures of a few places, several of each, less those that score too near to a threshold with another one.

    The same in each run: drawn from fixed seeds and embedded by the untrained backbone, as the workers do it. The
    bundle that they score by is written into `folder`.
    """
    with warnings.catch_warnings():
        # That these weights know no rooms is what it warns of; here it is known.
        warnings.simplefilter("ignore", RuntimeWarning)
        backbone = embedding.Backbone(weights.load("untrained"))
    drawn = [content for seed in range(PLACES) for content in _views(seed)]
    return judged(drawn, backbone, _small(folder, backbone, drawn))


def judged(
    drawn: Sequence[Content], backbone: embedding.Backbone, model: bundle.Bundle
) -> tuple[list[Content], Truth]:
    """What a model says of contents that nothing disturbed, less those that score too near to a threshold."""
    embedder = embedding.Embedder(backbone, model.fusion)
    pixels = _pixels(drawn, model.input_size)
    parts = [embedder.embed(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH)]
    vectors = np.concatenate(parts).astype(np.float16).astype(np.float32)
    scores = np.stack([model.classifier.score(vector[None], vectors) for vector in vectors])
    chosen: list[int] = []
    for number in range(len(drawn)):
        row = scores[number, [*chosen, number]]
        if all(np.abs(row - threshold).min() > MARGIN for threshold in (model.duplicate, model.review)):
            chosen.append(number)
    names = {number: drawn[number].etag for number in chosen}
    return [drawn[number] for number in chosen], Truth(
        scores={(names[a], names[b]): float(scores[a, b]) for a in chosen for b in chosen},
        vectors={names[number]: vectors[number] for number in chosen},
        duplicate=model.duplicate,
        review=model.review,
    )


def _small(folder: pathlib.Path, backbone: embedding.Backbone, drawn: Sequence[Content]) -> bundle.Bundle:
    """The shipped bundle of the untrained backbone for smaller pictures: levels shifted and scaled to what they are.

    It knows less of rooms, and need not: the oracle scores by the same bundle.
    """
    shipped = bundle.for_backbone(backbone.weights_sha256)
    some = drawn[::3]
    full, small = (backbone.pool(_pixels(some, size)) for size in (shipped.input_size, INPUT_SIZE))
    scale = (small.levels.std(axis=0) + 1e-6) / (full.levels.std(axis=0) + 1e-6)
    shift = small.cells.astype(np.float32).mean((0, 1)) - full.cells.astype(np.float32).mean((0, 1))
    fusion = dataclasses.replace(
        shipped.fusion,
        mean=(small.levels.mean(axis=0) - (full.levels.mean(axis=0) - shipped.fusion.mean) * scale).astype(
            np.float32
        ),
        std=(shipped.fusion.std * scale).astype(np.float32),
        cell_mean=(shipped.fusion.cell_mean + shift).astype(np.float32),
    )
    return bundle.save(
        folder,
        name="soak",
        fusion=fusion,
        classifier=shipped.classifier,
        backbone=shipped.backbone,
        input_size=INPUT_SIZE,
        duplicate=shipped.duplicate,
        decision=shipped.decision,
        review=shipped.review,
        training={"of": shipped.id},
    )


def _pixels(drawn: Sequence[Content], size: int) -> images.Pixels:
    return np.stack([images.decode(content.data, size=size, max_pixels=10**7).pixels for content in drawn])


def _views(seed: int) -> list[Content]:
    """Four photos of one place: one, the same in worse quality, cropped, and another angle."""
    rng = np.random.default_rng(seed)
    place = exteriors.Exterior.random(rng) if seed % 6 == 5 else rooms.Room.random(rng)
    first, other = (place.view(place.camera(rng), *_SIZE) for _ in range(2))
    cropped = first.crop((10, 8, _SIZE[0] - 10, _SIZE[1] - 8))
    return [
        Content(_jpeg(picture, quality))
        for picture, quality in ((first, 90), (first, 60), (cropped, 85), (other, 90))
    ]


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
