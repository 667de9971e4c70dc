from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from core import embedding, errors, fusing, images, weights
from core.learning import features
from tests.unit import fusions

LEVELS = tuple(fusing.LEVELS)


@pytest.fixture(scope="module")
def backbone() -> embedding.Backbone:
    with pytest.warns(RuntimeWarning, match="untrained"):
        return embedding.Backbone(weights.load("untrained"))


def pictures(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(2).integers(0, 256, (count, 3, 64, 64), dtype=np.uint8)


def drawing_or_not(drawings: bool) -> fusing.Fusion:
    """A fusion that calls every picture a drawing, or none."""
    bias = np.array([1e6 if drawings else -1e6], np.float32)
    return dataclasses.replace(fusions.fusion(dict.fromkeys(fusing.LEVELS, 8)), drawing_bias=bias)


@pytest.mark.parametrize("drawings", [False, True])
def test_the_vector_does_not_depend_on_the_batch(backbone: embedding.Backbone, drawings: bool) -> None:
    embedder = embedding.Embedder(backbone, drawing_or_not(drawings))
    batch = pictures(5)
    together = embedder.embed(batch)
    assert together.shape == (5, embedder.dims)
    alone = np.concatenate([embedder.embed(picture[None]) for picture in batch])
    np.testing.assert_allclose(together, alone, atol=2**-11 * np.abs(together).max())


def test_drawings_and_photos_of_one_batch_are_each_embedded_their_own_way(
    backbone: embedding.Backbone,
) -> None:
    batch = pictures(4)
    first = backbone.pool(batch).levels[:, 0]
    weight = np.zeros(fusions.EVERY, np.float32)
    weight[0] = 1.0
    mixed = dataclasses.replace(
        drawing_or_not(False),
        mean=np.zeros(fusions.EVERY, np.float32),
        std=np.ones(fusions.EVERY, np.float32),
        drawing_weight=weight,
        drawing_bias=np.array([-np.median(first)], np.float32),
    )
    found = embedding.Embedder(backbone, mixed).embed(batch)
    drawn = found[:, mixed.layout.drawing] > 0
    np.testing.assert_array_equal(drawn, first > np.median(first))
    for kind in (False, True):
        bias = np.array([1e6 if kind else -1e6], np.float32)
        every = embedding.Embedder(backbone, dataclasses.replace(mixed, drawing_bias=bias)).embed(batch)
        np.testing.assert_allclose(found[drawn == kind], every[drawn == kind], atol=1e-4)


def test_a_drawing_scanned_on_its_side_has_the_same_levels_and_turned_cells(
    backbone: embedding.Backbone,
) -> None:
    # 224: a level of 14 × 14, which 7 × 7 cells divide evenly, as 64 would not.
    upright = np.random.default_rng(6).integers(0, 256, (1, 3, 224, 224), dtype=np.uint8)
    lying = np.ascontiguousarray(np.rot90(upright, 1, axes=(2, 3)))
    a, b = (backbone.pool(picture, embedding.TURNS) for picture in (upright, lying))
    np.testing.assert_allclose(a.levels, b.levels, rtol=1e-3, atol=1e-4)
    grids = [part.cells.astype(np.float32).reshape(fusing.GRID, fusing.GRID, -1) for part in (a, b)]
    np.testing.assert_allclose(np.rot90(grids[0], 1), grids[1], rtol=1e-2, atol=1e-3)
    once = backbone.pool(upright).levels
    assert np.abs(once - a.levels).max() > 1e-3


def test_pooled_levels_are_the_averages_of_torchvisions_own_network(backbone: embedding.Backbone) -> None:
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.models.resnet import resnet50

    network = resnet50(weights=None)
    network.load_state_dict(weights._random_state())
    nodes = {"maxpool": "stem", **{name: name for name in LEVELS[1:]}}
    extractor = create_feature_extractor(network.eval(), nodes)
    batch = pictures(2)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = (batch / 255.0 - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        maps = extractor(torch.from_numpy(normalised.astype(np.float32)))
    expected = np.concatenate([maps[level].mean(dim=(2, 3)).numpy() for level in LEVELS], axis=1)
    found = backbone.pool(batch)
    np.testing.assert_allclose(found.levels, expected, rtol=1e-3, atol=1e-4)
    cells = torch.nn.functional.adaptive_avg_pool2d(maps[fusing.CELL_LEVEL], fusing.GRID)
    np.testing.assert_allclose(found.cells, cells.flatten(2).transpose(1, 2).numpy(), rtol=5e-3, atol=1e-3)


def test_devices() -> None:
    assert embedding.choose_device("cpu") == "cpu"
    assert embedding.choose_device("auto") in {"cpu", "cuda"}
    with pytest.raises(errors.ConfigurationError, match="DEDUP_DEVICE"):
        embedding.choose_device("cuda:99")


def test_training_sees_what_production_stores(backbone: embedding.Backbone, tmp_path: pathlib.Path) -> None:
    random = np.random.default_rng(7)
    paths, pixels = [], []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
        paths.append(path)
        pixels.append(images.decode(path.read_bytes(), size=64, max_pixels=10**6).pixels)
    first = backbone.pool(np.stack(pixels)).levels[:, 0]
    weight = np.zeros(fusions.EVERY, np.float32)
    weight[0] = 1.0
    mixed = dataclasses.replace(
        drawing_or_not(False),
        mean=np.zeros(fusions.EVERY, np.float32),
        std=np.ones(fusions.EVERY, np.float32),
        drawing_weight=weight,
        drawing_bias=np.array([-np.median(first)], np.float32),
    )
    stored = embedding.Embedder(backbone, mixed).embed(np.stack(pixels))
    assert 0 < (stored[:, mixed.layout.drawing] > 0).sum() < 6
    seen = features.Features(backbone, 64, tmp_path / "cache").fused(paths, mixed)
    np.testing.assert_allclose(seen, stored, atol=2**-11 * np.abs(stored).max())


@pytest.mark.parametrize(
    ("wanted", "device", "batch_size", "expected"),
    [(None, "cpu", None, 20), (None, "cuda", None, 192), (None, "cuda:1", 256, 512), (5, "cuda", None, 5)],
)
def test_a_gpu_has_three_batches_in_flight(
    wanted: int | None, device: str, batch_size: int | None, expected: int
) -> None:
    assert embedding.photos_in_flight(wanted, device, batch_size) == expected
