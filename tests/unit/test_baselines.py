"""Each baseline must do what it is known for, or beating it would prove nothing."""

from __future__ import annotations

import importlib
import pathlib
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from core import embedding, errors
from core.drawing import overlays, rooms
from core.learning import ablation, baselines, comparison, features, fitting, methods, network, pairs

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
    raw = np.random.default_rng(0).random((2, features.DIMS)).astype(np.float32)
    pair_set = pairs.PairSet("s", pathlib.Path("none"), (_pair("a", "b", True),))
    (score,) = baselines.LevelCosine(_held(pair_set, raw), "layer4").scores(pair_set)
    left, right = raw[:, -2048:]
    assert score == pytest.approx(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


@pytest.mark.parametrize("level", ["stem", "layer2", "layer4"])
def test_projections_to_a_common_width_keep_a_narrow_level_whole(level: str) -> None:
    wide = ablation.projection(level, 2048)
    np.testing.assert_allclose(wide @ wide.T, np.eye(embedding.LEVELS[level]), atol=1e-5)
    narrow = ablation.projection("layer4", 256)
    np.testing.assert_allclose(narrow.T @ narrow, np.eye(256), atol=1e-5)


def test_averaged_levels_of_one_direction_each_meet_in_one_vector() -> None:
    raw = np.random.default_rng(1).normal(size=(6, features.DIMS)).astype(np.float32)
    every = embedding.Fusion(
        ablation.ALL, np.zeros(features.DIMS, np.float32), np.ones(features.DIMS, np.float32)
    )
    for representation in ablation.REPRESENTATIONS:
        vectors = representation.vectors(raw, every)
        assert vectors.shape == (6, representation.fusion(every).dims)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-4)
    concatenated = ablation.REPRESENTATIONS[0].vectors(raw, every)
    np.testing.assert_allclose(concatenated, every.fuse(raw), rtol=1e-5)
    # Only a sum lets a level count by its size; the average gives each the same share.
    louder = raw.copy()
    louder[:, -2048:] *= 10
    averaged, summed = ablation.REPRESENTATIONS[1], ablation.REPRESENTATIONS[3]
    np.testing.assert_allclose(averaged.vectors(louder, every), averaged.vectors(raw, every), atol=1e-5)
    assert np.abs(summed.vectors(louder, every) - summed.vectors(raw, every)).max() > 0.01


def test_the_ablation_trains_each_representation_alike() -> None:
    random = np.random.default_rng(2)
    names = [f"{room}-{view}" for room in range(24) for view in (0, 1)]
    centres = np.repeat(random.normal(size=(24, features.DIMS)), 2, axis=0)
    raw = (centres + 0.3 * random.normal(size=centres.shape)).astype(np.float32)
    found = []
    for split, first in (("train", 0), ("val", 12), ("test", 18)):
        last = {"train": 12, "val": 18, "test": 24}[split]
        found += [_pair(f"{room}-0", f"{room}-1", True, split) for room in range(first, last)]
        found += [_pair(f"{room}-0", f"{first + (room - first + 1) % (last - first)}-1", False, split)
                  for room in range(first, last)]  # fmt: skip
    pair_set = pairs.PairSet("synthetic", pathlib.Path("none"), tuple(found))
    held = _held(pair_set, raw, names)
    tasks = [comparison.Task(pair_set.of("test"), pair_set.of("val"))]
    recipe = fitting.Recipe(shape=network.Shape(4, 1, 4), rounds=8, batch=8, rate=5e-3)
    chosen = [ablation.REPRESENTATIONS[0], ablation.REPRESENTATIONS[2]]
    results = ablation.run([pair_set], tasks, held, recipe=recipe, representations=chosen)
    assert [result.method for result in results] == [
        "concatenated, network", "concatenated, cosine", "averaged, 256 wide, network", "averaged, 256 wide, cosine",
    ]  # fmt: skip
    rows = comparison.compare(results, tasks, replicates=10)
    assert min(row.figures["average_precision"].value for row in rows) > 0.9
    again = ablation.run([pair_set], tasks, held, recipe=recipe, representations=chosen[:1])
    np.testing.assert_array_equal(again[0].scores["synthetic"], results[0].scores["synthetic"])
    with pytest.raises(errors.ConfigurationError, match="needs train pairs of both labels, found 0"):
        ablation.run([pair_set.of("val")], tasks, held, recipe=recipe)


def test_a_missing_library_names_the_extra() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"no_such_library.*listing-dedup\[learn\]"):
        baselines.needs_extra("no_such_library")


class _Held:
    """Stands in for `methods.Features`: rows that are given."""

    def __init__(self, rows: dict[pathlib.Path, embedding.Vectors]) -> None:
        self._rows = rows

    def of(self, paths: list[pathlib.Path], progress: object = None) -> embedding.Vectors:
        """(n, 3904)."""
        return np.stack([self._rows[path] for path in paths])


def _held(
    pair_set: pairs.PairSet, raw: embedding.Vectors, names: list[str] | None = None
) -> methods.Features:
    paths = [pair_set.images / name for name in names] if names else list(pair_set.pictures)
    return cast(methods.Features, _Held(dict(zip(paths, raw, strict=True))))
