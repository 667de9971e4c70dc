"""Each baseline must do what it is known for, or beating it would prove nothing."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance

from core import classifier, errors, fusing
from core.drawing import overlays, rooms
from core.learning import ablation, baselines, comparison, features, fitting, pairs
from tests.unit import fusions

cv2 = pytest.importorskip("cv2")
pytest.importorskip("imagehash")
keypoints = importlib.import_module("core.learning.keypoints")


def _pair(a: str, b: str, duplicate: bool, split: str = "test") -> pairs.Pair:
    return pairs.Pair(a, b, duplicate, split, "1", "1", "k")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> pairs.PairSet:
    """A room, the same picture under an agency's marks, smaller and darker, turned; another room."""
    folder = tmp_path_factory.mktemp("drawn")
    random = np.random.default_rng(4)
    views = []
    for kind in ("kitchen", "bedroom"):
        room = rooms.Room.random(random, kind)
        views.append(room.view(room.camera(random), 360, 270))
    first, other = views
    pictures = {
        "room.jpg": first,
        "marked.jpg": overlays.mark(first, overlays.AGENCIES[0], random),
        "small.jpg": ImageEnhance.Brightness(first.resize((240, 180))).enhance(0.85),
        "turned.jpg": first.rotate(90, expand=True),
        "other.jpg": other,
        "blank.jpg": Image.new("RGB", (360, 270), "white"),
    }
    for name, picture in pictures.items():
        picture.save(folder / name, quality=90)
    others = [
        _pair("room.jpg", name, name not in {"other.jpg", "blank.jpg"})
        for name in pictures
        if name != "room.jpg"
    ]
    return pairs.PairSet("drawn", folder, tuple(others))


@pytest.mark.parametrize("kind", ["sift", "orb"])
@pytest.mark.parametrize("geometry", ["homography", "fundamental"])
def test_keypoints_know_a_picture_under_marks_smaller_and_turned(
    drawn: pairs.PairSet, kind: Any, geometry: Any
) -> None:
    marked, small, turned, other, blank = keypoints.KeypointMethod(keypoints.Matcher(kind), geometry).scores(
        drawn
    )
    assert min(marked, small, turned) > 3 * max(other, 5)
    assert blank == 0


def test_keypoint_counts_repeat_and_are_kept(drawn: pairs.PairSet, tmp_path: pathlib.Path) -> None:
    first = keypoints.Matcher("orb", tmp_path).counts(drawn)
    np.testing.assert_array_equal(first, keypoints.Matcher("orb").counts(drawn))
    (kept,) = tmp_path.rglob("*.npy")
    np.save(kept, first + 1)
    np.testing.assert_array_equal(first + 1, keypoints.Matcher("orb", tmp_path).counts(drawn))


def test_a_picture_that_is_none_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    broken = pairs.PairSet("broken", tmp_path, (_pair("x.jpg", "x.jpg", True),))
    for method in (
        keypoints.KeypointMethod(keypoints.Matcher("orb"), "homography"),
        baselines.PerceptualHash(),
    ):
        with pytest.raises(errors.ConfigurationError, match=r"x\.jpg"):
            method.scores(broken)


def test_the_hash_forgives_size_and_tone_but_not_a_turn(drawn: pairs.PairSet) -> None:
    marked, small, turned, other, _ = baselines.PerceptualHash().scores(drawn)
    assert small >= 0.95
    assert marked >= 0.8
    assert max(turned, other) < 0.75
    same = pairs.PairSet("same", drawn.images, (_pair("room.jpg", "room.jpg", True),))
    assert baselines.PerceptualHash().scores(same).tolist() == [1.0]


def test_a_level_cosine_is_the_cosine_of_that_level() -> None:
    raw = fusions.pooled(2, seed=0)
    pair_set = pairs.PairSet("s", pathlib.Path("none"), (_pair("a", "b", True),))
    (score,) = baselines.LevelCosine(_held(pair_set, raw), "layer4").scores(pair_set)
    left, right = raw.levels[:, -2048:]
    assert score == pytest.approx(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


@pytest.mark.parametrize("level", ["stem", "layer2", "layer4"])
def test_projections_to_a_common_width_keep_a_narrow_level_whole(level: str) -> None:
    wide = ablation.projection(level, 2048)
    np.testing.assert_allclose(wide @ wide.T, np.eye(fusing.LEVELS[level]), atol=1e-5)
    narrow = ablation.projection("layer4", 256)
    np.testing.assert_allclose(narrow.T @ narrow, np.eye(256), atol=1e-5)


def test_the_ablation_fits_each_variant_to_its_own_part() -> None:
    random = np.random.default_rng(2)
    names = [f"{room}-{view}" for room in range(24) for view in (0, 1)]
    # Rooms differ in layer4 and in nothing else.
    levels = random.normal(size=(48, fusions.EVERY)).astype(np.float32)
    levels[:, -2048:] = np.repeat(random.normal(size=(24, 2048)), 2, axis=0) + 0.3 * levels[:, -2048:]
    seen = fusing.Pooled(levels, random.normal(size=(48, fusing.CELLS, fusions.CELL)).astype(np.float16))
    found = []
    for split, first, last in (("train", 0, 12), ("val", 12, 18), ("test", 18, 24)):
        for room in range(first, last):
            other = first + (room - first + 1) % (last - first)
            found.append(pairs.Pair(f"{room}-0", f"{room}-1", True, split, str(room), str(room), "k"))
            found.append(pairs.Pair(f"{room}-0", f"{other}-1", False, split, str(room), str(other), "k"))
    pair_set = pairs.PairSet("synthetic", pathlib.Path("none"), tuple(found))
    held = _held(pair_set, seen, names)
    tasks = [comparison.Task(pair_set.of("test"), pair_set.of("val"))]
    recipe = fitting.Recipe(hidden=4, rounds=5, folds=3)
    wanted = ("levels and cells", "layer4 alone", "layer2 alone", "levels, averaged, 256 wide")
    chosen = [variant for variant in ablation.VARIANTS if variant.name in wanted]
    results = {
        item.result.method: item
        for item in ablation.run([pair_set], tasks, held, recipe=recipe, variants=chosen)
    }
    assert set(results) == set(wanted)
    precision = {
        row.method: row.figures["average_precision"].value
        for row in comparison.compare([item.result for item in results.values()], tasks, replicates=10)
    }
    assert precision["layer4 alone"] > 0.9
    assert precision["layer2 alone"] < 0.8
    assert results["layer4 alone"].houses_left_out["synthetic"] > 0.9
    again = ablation.run([pair_set], tasks, held, recipe=recipe, variants=chosen[-1:])[0].result
    np.testing.assert_array_equal(again.scores["synthetic"], results[again.method].result.scores["synthetic"])
    with pytest.raises(errors.ConfigurationError, match="both labels in the splits train and val, found 0"):
        ablation.run([pair_set.of("test")], tasks, held, recipe=recipe)


def test_the_variants_are_parts_of_what_describes_a_pair() -> None:
    known = set(classifier.input_names(tuple(fusing.LEVELS)))
    assert all(set(variant.columns) <= known for variant in ablation.VARIANTS)
    assert all(variant.columns or variant.combine for variant in ablation.VARIANTS)
    assert len({variant.name for variant in ablation.VARIANTS}) == len(ablation.VARIANTS)


def test_a_missing_library_names_the_extra() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"no_such_library.*listing-dedup\[learn\]"):
        baselines.needs_extra("no_such_library")


class _Held(features.Features):
    """Stands in for what a backbone gave: rows that are given, of photos only."""

    def __init__(self, rows: dict[pathlib.Path, int], seen: fusing.Pooled) -> None:
        self._rows, self._seen = rows, seen

    def levels(
        self, paths: Sequence[pathlib.Path], progress: object = None, turns: int = 1
    ) -> fusing.Vectors:
        return self._seen.levels[[self._rows[path] for path in paths]]

    def cells(self, paths: Sequence[pathlib.Path], turns: int = 1) -> npt.NDArray[np.float16]:
        return self._seen.cells[[self._rows[path] for path in paths]]

    def few_colours(self, paths: Sequence[pathlib.Path]) -> npt.NDArray[np.float32]:
        return np.full(len(paths), 0.2, np.float32)

    def _compute(self, paths: object, turns: int, progress: object = None) -> list[pathlib.Path]:
        return []


def _held(pair_set: pairs.PairSet, seen: fusing.Pooled, names: list[str] | None = None) -> features.Features:
    paths = [pair_set.images / name for name in names] if names else list(pair_set.pictures)
    return _Held({path: row for row, path in enumerate(paths)}, seen)
