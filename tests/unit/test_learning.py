"""Pair sets, features, figures and training, on pictures drawn in a moment."""

from __future__ import annotations

import csv
import io
import pathlib
from typing import cast

import numpy as np
import pytest
from PIL import Image

from core import bundle, embedding, errors, fusing, images, weights
from core.learning import evaluation, features, fitting, pairs, training

ROW = {
    "a": "x.png",
    "b": "y.png",
    "label": "1",
    "split": "train",
    "property_a": "1",
    "property_b": "1",
    "kind": "k",
}


class FakeBackbone:
    """Stands in for the ResNet50: block means of the picture, spread over the channels by fixed matrices."""

    def __init__(self, sha256: str = "ef" * 32) -> None:
        self.weights_name, self.weights_sha256, self.untrained = "fake", sha256, False
        self.pictures = 0
        random = np.random.default_rng(0)
        self._spread = random.normal(size=(48, sum(fusing.LEVELS.values()))).astype(np.float32)
        self._cells = random.normal(size=(3, fusing.LEVELS[fusing.CELL_LEVEL])).astype(np.float32)

    def pool(self, pixels: images.Pixels, turns: int = 1) -> fusing.Pooled:
        """(n, 3904) and (n, 49, 1024) from (n, 3, size, size)."""
        assert turns == 1, "no picture of these tests is a drawing"
        self.pictures += len(pixels)
        count, _, size, _ = pixels.shape
        blocks = pixels.reshape(count, 3, 4, size // 4, 4, size // 4).mean(axis=(3, 5))
        flat = blocks.reshape(count, 48) / 255 - 0.5
        cells = np.take(np.take(blocks, np.arange(7) * 4 // 7, axis=2), np.arange(7) * 4 // 7, axis=3)
        cells = cells.reshape(count, 3, 49).transpose(0, 2, 1) / 255 - 0.5
        return fusing.Pooled(
            np.maximum(flat @ self._spread, 0).astype(np.float32),
            np.maximum(cells @ self._cells, 0).astype(np.float16),
        )


def _seen(backbone: FakeBackbone | None = None, cache: pathlib.Path | None = None) -> features.Features:
    return features.Features(cast(embedding.Backbone, backbone or FakeBackbone()), 32, cache)


def _write(folder: pathlib.Path, rows: list[dict[str, str]], name: str = "pairs.csv") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _picture(folder: pathlib.Path, name: str, blocks: images.Pixels | None = None) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    values = np.full((4, 4, 3), 90, np.uint8) if blocks is None else blocks
    data = io.BytesIO()
    Image.fromarray(values).resize((32, 32), Image.Resampling.NEAREST).save(data, "PNG")
    (folder / "images" / name).write_bytes(data.getvalue())


def _synthetic(folder: pathlib.Path, properties: int, seed: int) -> pairs.PairSet:
    """Each property has two rooms of random blocks, each seen twice with a little noise."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(properties):
        split = ("train", "train", "train", "val")[number % 4]
        rooms = random.integers(20, 235, (2, 4, 4, 3))
        for room, view in ((0, 0), (0, 1), (1, 0), (1, 1)):
            noisy = np.clip(rooms[room] + random.integers(-8, 9, (4, 4, 3)), 0, 255).astype(np.uint8)
            _picture(folder, f"{number}-{room}-{view}.png", noisy)
        common = {"split": split, "property_a": str(number), "property_b": str(number), "kind": "noise"}
        rows += [
            {"a": f"{number}-{room}-0.png", "b": f"{number}-{room}-1.png", "label": "1"} | common
            for room in (0, 1)
        ]
        rows += [
            {"a": f"{number}-0-{view}.png", "b": f"{number}-1-{view}.png", "label": "0"} | common
            for view in (0, 1)
        ]
    _write(folder, rows)
    return pairs.read(folder)


def test_read_pairs_of_several_files(tmp_path: pathlib.Path) -> None:
    for name in ("x.png", "y.png", "z.png"):
        _picture(tmp_path, name)
    _write(tmp_path, [ROW], "pairs_train.csv")
    _write(tmp_path, [ROW | {"b": "z.png", "label": "0", "split": "val", "property_a": "2", "property_b": "2"}],
           "pairs_val.csv")  # fmt: skip
    found = pairs.read(tmp_path)
    assert found.name == tmp_path.name
    assert [pair.duplicate for pair in found.pairs] == [True, False]
    assert [pair.b for pair in found.of("val").pairs] == ["z.png"]
    assert [path.name for path in found.pictures] == ["x.png", "y.png", "z.png"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"label": "yes"}, "line 3: expected label 0 or 1, found 'yes'"),
        ({"split": "dev"}, "line 3: expected split train, val, test, found 'dev'"),
        ({"a": ""}, "line 3: a is empty"),
        ({"b": "gone.png"}, "1 pictures are not in .*images, the first gone.png"),
        ({"label": "0"}, "labelled both 0 and 1"),
        ({"a": "y.png", "b": "x.png", "label": "0"}, "labelled both 0 and 1"),
        ({"a": "y.png", "b": "x.png", "split": "test"}, "stand in train and in test"),
        ({"a": "x.png", "b": "z.png", "split": "val"}, "the first 1 in train and val"),
    ],
)
def test_wrong_pairs_are_refused(tmp_path: pathlib.Path, second: dict[str, str], message: str) -> None:
    for name in ("x.png", "y.png", "z.png"):
        _picture(tmp_path, name)
    _write(tmp_path, [ROW, ROW | second])
    with pytest.raises(errors.ConfigurationError, match=message):
        pairs.read(tmp_path)


def test_a_missing_column_is_refused(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, [{key: value for key, value in ROW.items() if key != "split"}])
    with pytest.raises(errors.ConfigurationError, match="missing split"):
        pairs.read(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"expected pairs\*\.csv"):
        pairs.read(tmp_path)
    with pytest.raises(errors.ConfigurationError, match="cannot be read"):
        pairs.read(tmp_path / "none.csv")


def test_features_are_computed_once(tmp_path: pathlib.Path) -> None:
    for number in range(40):
        _picture(tmp_path, f"{number}.png", np.full((4, 4, 3), 5 * number, np.uint8))
    paths = sorted((tmp_path / "images").iterdir())
    backbone = FakeBackbone()
    told: list[tuple[int, int]] = []

    def ask(backbone: FakeBackbone) -> fusing.Vectors:
        seen = _seen(backbone, tmp_path / "cache")
        return seen.levels(paths, progress=lambda done, total: told.append((done, total)))

    first = ask(backbone)
    assert backbone.pictures == 40
    assert told == [(32, 40), (40, 40)]
    np.testing.assert_array_equal(first, ask(backbone))
    assert backbone.pictures == 40
    other = FakeBackbone("aa" * 32)
    ask(other)
    assert other.pictures == 40


def test_without_a_cache_features_go_with_their_object(tmp_path: pathlib.Path) -> None:
    _picture(tmp_path, "x.png")
    backbone = FakeBackbone()
    seen = _seen(backbone)
    for _ in range(2):
        assert seen.cells([tmp_path / "images" / "x.png"]).shape == (1, 49, 1024)
    assert backbone.pictures == 1
    assert seen.levels([]).shape == (0, sum(fusing.LEVELS.values()))


def test_a_broken_cached_value_is_computed_again(tmp_path: pathlib.Path) -> None:
    _picture(tmp_path, "x.png")
    paths = [tmp_path / "images" / "x.png"]
    first = _seen(cache=tmp_path / "cache").levels(paths)
    (cached,) = (tmp_path / "cache").rglob("*.safetensors")
    cached.write_bytes(cached.read_bytes()[:100])
    np.testing.assert_array_equal(first, _seen(cache=tmp_path / "cache").levels(paths))


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(errors.ConfigurationError, match=r"x\.jpg"):
        _seen().levels([tmp_path / "x.jpg"])
    with pytest.raises(errors.ConfigurationError, match=r"y\.jpg cannot be read"):
        _seen().levels([tmp_path / "y.jpg"])


def test_figures_of_a_known_case() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.1])
    labels = np.array([True, False, True, False, False])
    found = evaluation.report(scores, labels, 0.65)
    assert (found.pairs, found.duplicates) == (5, 2)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == 1.0
    assert found.f1 == pytest.approx(0.8)
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert evaluation.best_f1(scores, labels) == pytest.approx((0.65, 0.8))
    assert evaluation.best_mean_f1([(scores, labels)]) == pytest.approx((0.65, 0.8))
    assert evaluation.threshold_at_precision(scores, labels, 1.0) == pytest.approx(0.85)
    assert evaluation.threshold_at_precision(scores, ~labels, 1.0) is None


def test_a_precise_threshold_holds_for_every_group() -> None:
    one = (np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True]))
    other = (np.array([0.95, 0.75, 0.65]), np.array([True, False, True]))
    assert evaluation.precise_threshold([one], 1.0) == 0.8
    assert evaluation.precise_threshold([one], 0.75) == 0.0
    # Precision does not rise with the threshold: from 0.7 on the first group would do, the second does not.
    assert evaluation.precise_threshold([one, other], 0.6, at_least=0.65) == 0.65
    assert evaluation.precise_threshold([one, other], 0.99) == 0.8
    assert evaluation.precise_threshold([one, other], 0.99, at_least=0.97) is None


def test_after_a_bad_picture_the_good_ones_are_computed(tmp_path: pathlib.Path) -> None:
    _picture(tmp_path, "x.png")
    (tmp_path / "y.jpg").write_bytes(b"no picture")
    seen, good = _seen(), tmp_path / "images" / "x.png"
    with pytest.raises(errors.ConfigurationError):
        seen.levels([good, tmp_path / "y.jpg"])
    assert seen.levels([good]).shape[0] == 1


def test_equal_scores_count_together() -> None:
    scores, labels = np.array([0.5, 0.5, 0.5, 0.5]), np.array([True, False, False, True])
    assert evaluation.average_precision(scores, labels) == pytest.approx(0.5)
    assert evaluation.calibration_error(scores, labels) == pytest.approx(0.0)


def test_training_learns_and_repeats(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "Backbone", lambda source, device: FakeBackbone(source.sha256))
    source = weights.Weights("fake", "ef" * 32, {})
    recipe = fitting.Recipe(hidden=4, rounds=10, folds=4)
    pair_set = _synthetic(tmp_path / "set", 48, seed=0)
    stages: list[str] = []
    first = training.train(
        [pair_set],
        source,
        tmp_path / "a",
        name="small",
        seed=3,
        recipe=recipe,
        cache=tmp_path / "cache",
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert first.training["val"]["pooled"]["f1"] >= 0.97
    assert first.training["houses_left_out"]["pooled"]["pairs"] == len(pair_set.pairs)
    assert first.review <= first.decision <= first.duplicate
    assert set(stages) == {"features", "features of all splits", "training"}
    assert first.backbone == bundle.BackboneReference("resnet50", "fake", "ef" * 32)
    again = training.train([pair_set], source, tmp_path / "b", name="small", seed=3, recipe=recipe)
    assert again.digest == first.digest
    unseen = _synthetic(tmp_path / "unseen", 16, seed=1)
    vectors = features.Features(cast(embedding.Backbone, FakeBackbone()), 224).fused(
        unseen.pictures, first.fusion
    )
    rows = {path.name: row for row, path in enumerate(unseen.pictures)}
    scores = first.classifier.score(
        vectors[[rows[pair.a] for pair in unseen.pairs]], vectors[[rows[pair.b] for pair in unseen.pairs]]
    )
    labels = np.array([pair.duplicate for pair in unseen.pairs])
    assert evaluation.report(scores, labels, first.decision).f1 >= 0.95
    reference = bundle.BackboneReference("resnet50", "original", "12" * 32)
    issued = training.reissue(first, reference, tmp_path / "d", name="original")
    assert issued.digest != first.digest
    assert "compressed copy of original" in issued.training["backbone_note"]
    np.testing.assert_array_equal(
        issued.classifier.score(vectors[:1], vectors), first.classifier.score(vectors[:1], vectors)
    )


def test_a_set_of_one_label_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "Backbone", lambda source, device: FakeBackbone(source.sha256))
    whole = _synthetic(tmp_path / "set", 3, seed=0)
    pair_set = pairs.PairSet(whole.name, whole.images, tuple(pair for pair in whole.pairs if pair.duplicate))
    with pytest.raises(
        errors.ConfigurationError, match="both labels in the splits train and val, found 6 pairs, 6 of"
    ):
        training.train([pair_set], weights.Weights("fake", "ef" * 32, {}), tmp_path / "a", name="small")


def test_the_command_says_what_is_wrong(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SystemExit, match=r"expected pairs\*\.csv"):
        training.main([str(tmp_path), "--weights", "w.pth", "--output", str(tmp_path / "o"), "--name", "n"])
