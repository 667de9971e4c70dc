"""How cells find each other: known displacements, turns and mirrors are told, and order does not matter."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from core import correspondence, fusing

GRID, CELLS = fusing.GRID, fusing.CELLS


def cells(count: int, seed: int = 0, dims: int = 32) -> fusing.Vectors:
    return fusing.unit(np.random.default_rng(seed).normal(size=(count, CELLS, dims)))


def grid(values: fusing.Vectors) -> fusing.Vectors:
    return values.reshape(len(values), GRID, GRID, -1)


def told(a: fusing.Vectors, b: fusing.Vectors) -> dict[str, float]:
    return dict(zip(correspondence.NAMES, correspondence.describe(a, b)[0].tolist(), strict=True))


def test_a_photo_and_itself_agree_in_everything() -> None:
    one = cells(1)
    found = told(one, one)
    for name in ("best_matches", "lesser_side", "mutual", "displaced_upright", "in_place_upright"):
        assert found[name] == pytest.approx(1.0, abs=1e-5)
    assert found["in_place_turned"] == pytest.approx(found["in_place_upright"])
    assert found["in_place_lead"] > 0.8
    assert found["in_place_mirrored"] < 0.2


def test_unrelated_photos_agree_in_nothing() -> None:
    found = told(cells(1, 1), cells(1, 2))
    assert found["in_place_upright"] < 0.1
    assert found["displaced_upright"] < 0.2
    assert found["best_matches"] < 0.6


def test_a_shifted_photo_is_told_by_its_displacement() -> None:
    one = cells(1)
    shifted = grid(cells(1, 9)).copy()
    shifted[:, 2:, 1:] = grid(one)[:, :-2, :-1]
    found = told(one, shifted.reshape(1, CELLS, -1))
    assert found["displaced_upright"] == pytest.approx(30 / 49, abs=0.05)
    assert found["in_place_upright"] < 0.2


def test_one_cell_aside_is_near() -> None:
    one = cells(1)
    found = told(one, np.roll(grid(one), 1, axis=2).reshape(1, CELLS, -1))
    assert found["near_place_upright"] > 0.8
    assert found["in_place_upright"] < 0.2


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_is_told_as_turned(turns: int) -> None:
    one = cells(1)
    found = told(one, np.rot90(grid(one), turns, axes=(1, 2)).reshape(1, CELLS, -1))
    assert found["in_place_turned"] == pytest.approx(1.0, abs=1e-5)
    assert found["displaced_turned"] == pytest.approx(1.0, abs=1e-5)
    assert found["in_place_upright"] < 0.3
    assert found["in_place_lead"] > 0.7


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_mirrored_photo_is_told_as_mirrored(turns: int) -> None:
    one = cells(1)
    mirrored = np.rot90(grid(one)[:, :, ::-1], turns, axes=(1, 2)).reshape(1, CELLS, -1)
    found = told(one, mirrored)
    assert found["in_place_mirrored"] == pytest.approx(1.0, abs=1e-5)
    assert found["displaced_mirrored"] == pytest.approx(1.0, abs=1e-5)
    assert found["in_place_turned"] < 0.4


def test_who_comes_first_changes_no_digit() -> None:
    a, b = cells(150, 3), cells(150, 4)
    b[:50] = fusing.unit(a[:50] + 0.1 * b[:50])
    np.testing.assert_array_equal(correspondence.describe(a, b), correspondence.describe(b, a))
    np.testing.assert_array_equal(correspondence.describe(a[:1], b), correspondence.describe(b, a[:1]))


def test_equal_cells_are_told_apart_by_no_digit() -> None:
    """As on the white paper of floor plans: which of them is the most alike is decided by the last digit."""
    photos = cells(20, 7)
    photos[:, 10:35] = cells(1, 8)[:, :1]
    found = np.stack([correspondence.describe(photos[row : row + 1], photos) for row in range(20)])
    np.testing.assert_array_equal(found, found.transpose(1, 0, 2))
    alone = [correspondence.describe(photos[:1], photos[row : row + 1])[0] for row in range(20)]
    np.testing.assert_allclose(found[0], alone, atol=1e-6)


@pytest.mark.parametrize(("kernels", "needs"), [("Prescott", "pni"), ("Haswell", "avx2")])
def test_it_holds_with_the_kernels_of_other_processors(kernels: str, needs: str) -> None:
    """OpenBLAS multiplies by other code on each, which treats the edges of a matrix otherwise."""
    if needs not in pathlib.Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this processor has no {needs}")
    names = (
        "test_equal_cells_are_told_apart_by_no_digit",
        "test_who_comes_first_changes_no_digit",
        "test_a_pair_is_described_the_same_in_any_company",
    )
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *(f"{__file__}::{name}" for name in names),
        ],
        env={**os.environ, "OPENBLAS_CORETYPE": kernels},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 passed" in ran.stdout, ran.stdout


def test_near_is_looked_for_in_both_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = cells(150, 3), cells(150, 4)
    b[:50] = fusing.unit(a[:50] + 0.2 * b[:50])
    first = correspondence.describe(a, b)
    monkeypatch.setattr(correspondence, "_ordered", lambda one, other: (other, one))
    np.testing.assert_allclose(first, correspondence.describe(a, b), atol=1e-5)


def test_a_pair_is_described_the_same_in_any_company() -> None:
    a, b = cells(70, 5), cells(70, 6)
    alone = np.concatenate([correspondence.describe(a[row : row + 1], b[row : row + 1]) for row in range(70)])
    np.testing.assert_allclose(correspondence.describe(a, b), alone, atol=1e-6)


def test_blank_pictures_stay_within_bounds() -> None:
    blank = np.broadcast_to(cells(1)[:, :1], (1, CELLS, 32)).copy()
    found = told(blank, blank)
    assert all(-1.001 <= value <= 1.001 for value in found.values())
    assert all(value == 0 for value in told(np.zeros_like(blank), np.zeros_like(blank)).values())


def test_no_pairs() -> None:
    assert correspondence.describe(cells(1), cells(0)).shape == (0, len(correspondence.NAMES))
