"""The shipped bundle over whole real properties: every pair of photos within each, as a portal would see it."""

from __future__ import annotations

import csv
import itertools
import pathlib

import numpy as np
import pytest

from core import bundle, embedding, images, weights
from core.learning import evaluation

SHARED = pathlib.Path(__file__).parents[2].parent / "shared"
PHOTOS = SHARED / "photos"
WEIGHTS = SHARED / "weights" / "resnet50-imagenet.safetensors"
BATCH = 32

pytestmark = pytest.mark.skipif(
    not (PHOTOS / "duplicates.csv").is_file() or not WEIGHTS.is_file(),
    reason="needs the real photos and weights in the folder shared/ beside the checkout",
)


@pytest.mark.timeout(600)
def test_duplicates_within_real_properties() -> None:
    source = weights.load(str(WEIGHTS))
    made = bundle.for_backbone(source.sha256)
    backbone = embedding.Backbone(source)
    bundle.check_backbone(made, backbone)
    embedder = embedding.Embedder(backbone, made.fusion)
    paths = sorted(PHOTOS.glob("*/*.jpg"))
    assert len(paths) == 280
    pixels = np.stack(
        [
            images.decode(path.read_bytes(), size=made.input_size, max_pixels=10_000_000).pixels
            for path in paths
        ]
    )
    vectors = np.concatenate(
        [embedder.embed(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    )
    with (PHOTOS / "duplicates.csv").open(newline="") as file:
        known = {(row["property"], frozenset((row["a"], row["b"]))) for row in csv.DictReader(file)}
    pairs = [
        (a, b) for a, b in itertools.combinations(range(len(paths)), 2) if paths[a].parent == paths[b].parent
    ]
    duplicate = np.array(
        [(paths[a].parent.name, frozenset((paths[a].name, paths[b].name))) in known for a, b in pairs]
    )
    assert (len(pairs), int(duplicate.sum())) == (840, 120)
    left, right = np.array(pairs).T
    scores = made.classifier.score(vectors[left], vectors[right])
    found = evaluation.report(scores, duplicate, made.duplicate)
    assert found.precision >= 0.95, found
    assert found.recall >= 0.90, found
    np.testing.assert_array_equal(scores, made.classifier.score(vectors[right], vectors[left]))
