"""No speed-up changes a result: the same photos give the same flags by the plain path and by that of the embed worker.

Plain is: Pillow decodes every pixel and resizes, torchvision's network as it is, fp32, one photo after the other. The
embed worker decodes at a fraction of the size, runs fused convolutions in batches of whatever is ready, on two streams.
"""

from __future__ import annotations

import concurrent.futures
import io
import itertools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from core import bundle, embedding, fusing, groups, images, weights
from tests.acceptance import pictures
from tests.unit import torchvisions
from workers import batching

SHARED = pathlib.Path(__file__).parents[3] / "shared"
PHOTOS, WEIGHTS = SHARED / "photos", SHARED / "weights" / "resnet50-imagenet.safetensors"

Albums = Mapping[str, Sequence[bytes]]
"""Photos by property."""


def plainly(source: weights.Weights, photos: Sequence[bytes], model: bundle.Bundle) -> fusing.Vectors:
    embedder = embedding.Embedder(torchvisions.backbone(source), model.fusion)
    size = (model.input_size, model.input_size)
    vectors = []
    for data in photos:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        vectors.append(embedder.embed(np.ascontiguousarray(pixels)[None])[0])
    return np.stack(vectors)


def fast(source: weights.Weights, photos: Sequence[bytes], model: bundle.Bundle) -> fusing.Vectors:
    backbone = embedding.Backbone(source)
    assert backbone.form == "fused", "this machine has no fused convolutions, so there is nothing to compare"
    embedder = embedding.Embedder(backbone, model.fusion)
    batches: list[int] = []

    def embed(pixels: images.Pixels) -> fusing.Vectors:
        batches.append(len(pixels))
        return embedder.embed(pixels)

    batcher = batching.Batcher(embed, backbone.batch_size, 0.0, streams=2)

    def one(data: bytes) -> fusing.Vectors:
        return batcher.embed(images.decode(data, size=model.input_size, max_pixels=10**8).pixels)

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        vectors = list(threads.map(one, photos))
    batcher.close()
    assert max(batches) > 1
    return np.stack(vectors)


def flags(vectors: fusing.Vectors, model: bundle.Bundle) -> dict[int, int]:
    """What duplicates what among the photos of one property, uploaded in their order."""
    stored = vectors.astype(np.float16).astype(np.float32)
    pairs = list(itertools.combinations(range(len(stored)), 2))
    left, right = np.array(pairs).T
    scores = model.classifier.score(stored[left], stored[right])
    duplicates = {
        pair: float(score) for pair, score in zip(pairs, scores, strict=True) if score >= model.duplicate
    }
    found = groups.flags(range(len(stored)), duplicates, {})
    return {photo: flag.duplicate_of for photo, flag in found.items()}


def compare(source: weights.Weights, albums: Albums) -> int:
    """Asserts that both paths come to the same; how many flags that is."""
    model = bundle.for_backbone(source.sha256)
    photos = [data for album in albums.values() for data in album]
    one, other = plainly(source, photos, model), fast(source, photos, model)
    cosines = (fusing.unit(one) * fusing.unit(other)).sum(axis=1)
    assert cosines.min() >= 0.999
    assert not np.array_equal(one, other), "both are the same path"
    start, count = 0, 0
    for name, album in albums.items():
        part = slice(start, start + len(album))
        expected = flags(one[part], model)
        assert flags(other[part], model) == expected, name
        start, count = part.stop, count + len(expected)
    return count


def variants(subject: str) -> list[bytes]:
    """A picture as an agency uploads it again: large, decoded at a fraction; cropped, brighter and small."""
    image = pictures._draw(subject).convert("RGB")
    width, height = 3720, 2790
    large = image.resize((width, height), Image.Resampling.BICUBIC)
    cropped = large.crop((110, 70, width - 110, height - 70)).resize((1240, 930))
    made = [large, ImageEnhance.Brightness(cropped).enhance(1.1)]
    coded = [io.BytesIO() for _ in made]
    for number, (picture, buffer) in enumerate(zip(made, coded, strict=True)):
        picture.save(buffer, "JPEG", quality=90 - 10 * number)
    return [buffer.getvalue() for buffer in coded]


def test_drawn_pictures_get_the_same_flags() -> None:
    subjects = ("bedroom", "exterior", "plan")
    drawn = [data for subject in subjects for data in variants(subject)]
    with pytest.warns(RuntimeWarning, match="untrained"):
        source = weights.load(weights.UNTRAINED)
    assert compare(source, {"drawn": drawn}) >= len(subjects), "what nobody flags proves nothing"


@pytest.mark.skipif(
    not (PHOTOS.is_dir() and WEIGHTS.is_file()),
    reason="needs the photos of ../shared/photos and the weights of ../shared/weights beside the checkout",
)
def test_photos_of_homes_get_the_same_flags() -> None:
    folders = sorted(folder for folder in PHOTOS.iterdir() if folder.is_dir())[:2]
    albums = {
        folder.name: [file.read_bytes() for file in sorted(folder.glob("*.jpg"))[:6]] for folder in folders
    }
    assert compare(weights.load(str(WEIGHTS)), albums) >= 2, "what nobody flags proves nothing"
