from __future__ import annotations

import numpy as np
import pytest

from core import embedding, errors, weights

LEVELS = tuple(embedding.LEVELS)
DIMS = sum(embedding.LEVELS.values())


def fusion(levels: tuple[str, ...] = LEVELS) -> embedding.Fusion:
    dims = sum(embedding.LEVELS[level] for level in levels)
    rng = np.random.default_rng(5)
    return embedding.Fusion(
        levels, rng.normal(size=dims).astype(np.float32), rng.uniform(0.5, 2, size=dims).astype(np.float32)
    )


@pytest.fixture(scope="module")
def backbone() -> embedding.Backbone:
    with pytest.warns(RuntimeWarning, match="untrained"):
        return embedding.Backbone(weights.load("untrained"))


def pictures(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(2).integers(0, 256, (count, 3, 64, 64), dtype=np.uint8)


def test_all_levels_together_have_3904_dims() -> None:
    assert fusion().dims == DIMS == 3904


def test_fused_embedding_has_norm_one_and_each_level_an_equal_share() -> None:
    pooled = np.random.default_rng(3).normal(3, 2, (4, DIMS)).astype(np.float32)
    fused = fusion().fuse(pooled)
    assert fused.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(fused, axis=1), 1, rtol=1e-5)
    for part in fusion().slices.values():
        np.testing.assert_allclose(np.linalg.norm(fused[:, part], axis=1) ** 2, 1 / 5, rtol=1e-4)


def test_levels_are_standardised_and_laid_side_by_side() -> None:
    one = fusion(("stem", "layer2"))
    pooled = np.random.default_rng(4).normal(size=(1, one.dims)).astype(np.float32)
    expected = ((pooled - one.mean) / one.std)[0, 64:]
    fused = one.fuse(pooled)[0, one.slices["layer2"]]
    np.testing.assert_allclose(fused, expected / np.linalg.norm(expected) / np.sqrt(2), rtol=1e-5)


def test_a_level_of_zeros_stays_finite() -> None:
    assert np.isfinite(fusion().fuse(fusion().mean[None])).all()


def test_wrong_statistics_and_unknown_levels_are_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match="expected 64"):
        embedding.Fusion(("stem",), np.zeros(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(errors.ConfigurationError, match="layer9"):
        embedding.Fusion(("layer9",), np.zeros(3, np.float32), np.ones(3, np.float32))


def test_the_vector_does_not_depend_on_the_batch(backbone: embedding.Backbone) -> None:
    embedder = embedding.Embedder(backbone, fusion())
    batch = pictures(5)
    together = embedder.embed(batch)
    alone = np.concatenate([embedder.embed(picture[None]) for picture in batch])
    np.testing.assert_allclose(together, alone, atol=2**-11 * np.abs(together).max())


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
    np.testing.assert_allclose(backbone.pool(batch), expected, rtol=1e-3, atol=1e-4)


def test_a_subset_of_levels_is_that_part_of_all(backbone: embedding.Backbone) -> None:
    batch = pictures(1)
    both = backbone.pool(batch, ("layer1", "layer3"))
    everything = backbone.pool(batch)
    np.testing.assert_array_equal(both[:, :256], everything[:, 64:320])
    np.testing.assert_array_equal(both[:, 256:], everything[:, 832:1856])


def test_devices() -> None:
    assert embedding.choose_device("cpu") == "cpu"
    assert embedding.choose_device("auto") in {"cpu", "cuda"}
    with pytest.raises(errors.ConfigurationError, match="DEDUP_DEVICE"):
        embedding.choose_device("cuda:99")
