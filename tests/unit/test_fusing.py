"""How levels and cells become one vector."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from core import device_fusing, errors, fusing
from tests.unit import fusions


def test_all_levels_together_have_3904_channels() -> None:
    assert fusions.EVERY == 3904
    assert [(part.start, part.stop) for part in fusing.slices().values()] == [
        (0, 64), (64, 320), (320, 832), (832, 1856), (1856, 3904),
    ]  # fmt: skip


def test_each_level_and_the_cells_together_have_an_equal_share() -> None:
    made = fusions.fusion()
    fused = made.fuse(fusions.pooled(4), np.zeros(4, np.bool_))
    layout = made.layout
    assert fused.dtype == np.float32
    assert fused.shape == (4, made.dims) == (4, 8 + 6 + 49 * 4 + 1)
    parts = [*layout.slices.values(), layout.cells]
    for part in parts:
        np.testing.assert_allclose(np.linalg.norm(fused[:, part], axis=1) ** 2, 1 / 3, rtol=1e-4)
    cells = fused[:, layout.cells].reshape(4, fusing.CELLS, -1) * layout.cell_scale
    np.testing.assert_allclose(np.linalg.norm(cells, axis=2), 1.0, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(fused, axis=1), 1, rtol=1e-3)


def test_levels_are_standardised_projected_and_laid_side_by_side() -> None:
    made, seen = fusions.fusion({"stem": 8, "layer2": 5}), fusions.pooled(1)
    place = fusing.slices()["layer2"]
    standard = (seen.levels[0, place] - made.mean[place]) / made.std[place]
    expected = standard @ made.projections["layer2"]
    found = made.fuse(seen, np.zeros(1, np.bool_))[0, made.layout.slices["layer2"]]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected) / np.sqrt(3), rtol=1e-3, atol=1e-6)


def test_the_last_value_says_whether_it_is_a_drawing() -> None:
    made, seen = fusions.fusion(), fusions.pooled(3)
    fused = made.fuse(seen, np.array([True, False, True]))
    np.testing.assert_array_equal(fused[:, made.layout.drawing] > 0, [True, False, True])
    others = made.fuse(seen, np.zeros(3, np.bool_))
    np.testing.assert_array_equal(fused[:, :-1], others[:, :-1])


def test_no_memory_is_calculated_with_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in fresh memory may be a signalling NaN, and a warning of it comes once in a hundred runs."""
    made, seen = fusions.fusion(), fusions.pooled(3)

    def found_memory(shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.full(shape, 0x7F800001, np.uint32).view(dtype)

    monkeypatch.setattr(np, "empty", found_memory)
    with np.errstate(invalid="raise"):
        assert np.isfinite(made.fuse(seen, np.zeros(3, np.bool_))).all()


def test_the_linear_rule_tells_drawings() -> None:
    made, seen = fusions.fusion(), fusions.pooled(5)
    seen.levels[2, 0] = made.mean[0] + 21 * made.std[0]
    np.testing.assert_array_equal(made.drawings(seen.levels), [False, False, True, False, False])


def test_levels_of_zeros_stay_finite() -> None:
    made = fusions.fusion()
    blank = fusing.Pooled(made.mean[None], np.zeros((1, fusing.CELLS, fusions.CELL), np.float16))
    assert np.isfinite(made.fuse(blank, np.zeros(1, np.bool_))).all()


def test_parts_that_do_not_fit_are_refused() -> None:
    made = fusions.fusion()
    with pytest.raises(
        errors.ConfigurationError, match=r"Fusion.mean: expected shape \(3904,\), found \(3,\)"
    ):
        dataclasses.replace(made, mean=np.zeros(3, np.float32))
    with pytest.raises(errors.ConfigurationError, match=r"projections.stem: expected shape \(64, 8\)"):
        dataclasses.replace(made, projections={"stem": np.zeros((256, 8), np.float32)})
    for wrong in ("layer1", "stem"), ("stem", "layer9"):
        with pytest.raises(errors.ConfigurationError, match=f"found {', '.join(wrong)}"):
            dataclasses.replace(made, projections=dict.fromkeys(wrong, np.zeros((64, 8), np.float32)))


def test_on_a_device_the_fusion_is_the_same() -> None:
    made, seen = fusions.fusion(), fusions.pooled(6)
    levels = torch.from_numpy(seen.levels)
    cells = torch.from_numpy(seen.cells).float().transpose(1, 2).reshape(6, -1, fusing.GRID, fusing.GRID)
    device = device_fusing.DeviceFusion(made, torch.device("cpu"))
    drawn = made.drawings(seen.levels)
    np.testing.assert_array_equal(device.drawings(levels).numpy(), drawn)
    drawn[1] = True
    found = device.fuse(levels, cells, torch.from_numpy(drawn)).numpy()
    np.testing.assert_allclose(found, made.fuse(seen, drawn), atol=1e-6)
