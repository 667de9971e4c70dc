"""Pair sets made of unlabelled photos, on pictures drawn in a moment."""

from __future__ import annotations

import collections
import io
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from core import errors
from core.drawing import overlays as drawn_overlays
from core.drawing import plans as drawn_plans
from core.drawing import rooms, styles
from core.learning import pairs
from core.learning.selfmade import mining, pairsets

COUNT = 60


class Bucket:
    """Drawn photos as they lie in a bucket: unlabelled, with duplicates among them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.photos: list[pairsets.Photo] = []
        self.subjects: list[str] = []
        self.drawings: list[bool] = []
        self.levels = np.zeros((0, 3904), dtype=np.float32)
        self._folder = folder

    def add(self, property_id: str, name: str, data: bytes, subject: str, plan: bool) -> None:
        """A file of a property; what shows one subject is a duplicate."""
        path = self._folder / f"{property_id}-{name}"
        path.write_bytes(data)
        self.photos.append(pairsets.Photo(property_id, path))
        self.subjects.append(f"{property_id}/{subject}")
        self.drawings.append(plan)

    def finish(self) -> Bucket:
        """Measure the photos: blocks of colour stand where the backbone's levels would."""
        self.levels = np.stack([_blocks(photo.path) for photo in self.photos])
        return self

    def write(self, output: pathlib.Path, count: int = COUNT, seed: int = 7) -> list[pairs.PairSet]:
        """The sets of these photos."""
        return pairsets.write(
            self.photos, self.levels, np.array(self.drawings), output, seed=seed, count=count
        )


def _blocks(path: pathlib.Path) -> npt.NDArray[np.float32]:
    with Image.open(path) as image:
        few = np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BOX), dtype=np.float32)
    return np.resize(few.ravel() / 255, 3904).astype(np.float32)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """Six properties with two rooms, one of them twice, and a plan; two properties with one photo each."""
    made = Bucket(tmp_path_factory.mktemp("bucket"))
    random = np.random.default_rng(3)
    for number in range(8):
        for kind in ("bedroom", "kitchen") if number < 6 else ("living",):
            room = rooms.Room.random(random, kind)
            image = room.view(room.camera(random), 200, 150)
            made.add(f"p{number}", f"{kind}.jpg", _coded(image), kind, False)
            if kind == "bedroom":
                again = drawn_overlays.mark(
                    drawn_overlays.edit(image, random), drawn_overlays.AGENCIES[0], random
                )
                made.add(f"p{number}", "again.jpg", _coded(again), kind, False)
        if number < 6:
            plan = drawn_plans.draw(drawn_plans.Plan.random(random), styles.STYLES[number], 320, 240)
            made.add(f"p{number}", "plan.jpg", _coded(plan), "plan", True)
    return made.finish()


@pytest.fixture(scope="module")
def written(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> list[pairs.PairSet]:
    """The sets of the bucket."""
    return bucket.write(tmp_path_factory.mktemp("sets") / "out")


def _photo(name: str) -> int:
    return int(name.split("-", maxsplit=1)[0])


def test_three_sets_that_can_be_read_and_trained_on(written: Sequence[pairs.PairSet]) -> None:
    assert [made.name for made in written] == ["self-overlays", "self-angles", "self-plans"]
    for made in written:
        again = pairs.read(made.images.parent)
        assert again == made
        assert {pair.split for pair in made.pairs} == {"train", "val"}
        for split in ("train", "val"):
            assert {pair.duplicate for pair in made.of(split).pairs} == {True, False}
        # Nothing lies about that no pair needs.
        assert {path.name for path in made.images.iterdir()} == {path.name for path in made.pictures}
        for path in made.pictures:
            with Image.open(path) as image:
                assert max(image.size) <= 512
                assert image.mode == "RGB"


def test_as_many_pairs_as_asked_with_more_negatives(written: Sequence[pairs.PairSet]) -> None:
    overlays_set = written[0]
    duplicates = sum(pair.duplicate for pair in overlays_set.pairs)
    assert 0.85 * COUNT <= len(overlays_set.pairs) <= COUNT + 2
    assert 1.1 <= (len(overlays_set.pairs) - duplicates) / duplicates <= 1.45


def test_labels_are_as_constructed(bucket: Bucket, written: Sequence[pairs.PairSet]) -> None:
    for made in written:
        for pair in made.pairs:
            left, right = _photo(pair.a), _photo(pair.b)
            assert (left == right) == pair.duplicate
            assert pair.a != pair.b
            assert bucket.photos[left].property_id == pair.property_a
            assert bucket.photos[right].property_id == pair.property_b
            assert bucket.drawings[left] == bucket.drawings[right] == (made.name == "self-plans")
            if pair.kind == "property":
                assert pair.property_a == pair.property_b
            elif not pair.duplicate:
                assert pair.property_a != pair.property_b


def test_no_property_has_two_splits_over_all_sets(written: Sequence[pairs.PairSet]) -> None:
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for made in written:
        for pair in made.pairs:
            splits[pair.property_a].add(pair.split)
            splits[pair.property_b].add(pair.split)
    assert all(len(found) == 1 for found in splits.values())


def test_properties_of_one_photo_take_part(bucket: Bucket, written: Sequence[pairs.PairSet]) -> None:
    lone = {photo.property_id for photo in bucket.photos[-2:]}
    used = {pair.property_a for made in written for pair in made.pairs if pair.duplicate}
    assert len(lone) == 2
    assert lone <= used


def test_same_seed_same_files_and_another_seed_others(bucket: Bucket, tmp_path: pathlib.Path) -> None:
    first, second, other = (
        bucket.write(tmp_path / name, count=16, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for one, same in zip(first, second, strict=True):
        assert one.pairs == same.pairs
        for picture, copy in zip(one.pictures, same.pictures, strict=True):
            assert picture.read_bytes() == copy.read_bytes()
    assert first[0].pairs != other[0].pairs


def test_unlabelled_duplicates_of_a_property_are_hardly_ever_negatives(
    bucket: Bucket, written: Sequence[pairs.PairSet]
) -> None:
    inner = [pair for made in written for pair in made.pairs if pair.kind == "property"]
    wrong = [pair for pair in inner if bucket.subjects[_photo(pair.a)] == bucket.subjects[_photo(pair.b)]]
    assert len(inner) >= 10
    # Half of the properties' pairs are duplicates here, in a bucket a few per cent.
    assert len(wrong) <= 0.15 * len(inner)


def test_one_photo_under_two_properties_is_never_a_negative(tmp_path: pathlib.Path) -> None:
    made = Bucket(tmp_path)
    random = np.random.default_rng(5)
    listed = [_seen("living", random) for _ in range(3)]
    for number in range(12):
        # Listed again and again, each time coded anew; every property has a photo of its own, too.
        made.add(f"p{number}", "own.jpg", _coded(_seen("bedroom", random)), "own", False)
        if number % 3:
            made.add(f"p{number}", "again.jpg", _coded(listed[number % 3], 70 + number), "again", False)
    written = made.finish().write(tmp_path / "out", count=110)
    again = {number for number, subject in enumerate(made.subjects) if subject.endswith("again")}
    sharing = [
        {
            photo.property_id
            for number, photo in enumerate(made.photos)
            if number in again and _third(photo) == rest
        }
        for rest in (1, 2)
    ]
    assert all(len(names) == 4 for names in sharing)
    negatives = [pair for found in written for pair in found.pairs if not pair.duplicate]
    assert len(negatives) > 50
    for pair in negatives:
        if pair.property_a != pair.property_b:
            assert not any({pair.property_a, pair.property_b} <= names for names in sharing), pair


def _third(photo: pairsets.Photo) -> int:
    return int(photo.property_id[1:]) % 3


def _seen(kind: str, random: np.random.Generator) -> Image.Image:
    room = rooms.Room.random(random, kind)
    return room.view(room.camera(random), 120, 90)


def _coded(image: Image.Image, quality: int = 90) -> bytes:
    coded = io.BytesIO()
    image.save(coded, "JPEG", quality=quality)
    return coded.getvalue()


def test_a_broken_file_is_skipped(
    bucket: Bucket, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = list(bucket.photos)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0].path.read_bytes()[:200])
    photos[0] = pairsets.Photo(photos[0].property_id, broken)
    photos[1] = pairsets.Photo(photos[1].property_id, tmp_path / "gone.jpg")
    written = pairsets.write(
        photos, bucket.levels, np.array(bucket.drawings), tmp_path / "out", seed=7, count=24
    )
    used = {_photo(name) for made in written for pair in made.pairs for name in (pair.a, pair.b)}
    assert len(written) == 3
    assert not {0, 1} & used
    said = capsys.readouterr().out
    assert "broken.jpg" in said
    assert "gone.jpg" in said


def test_without_plans_there_is_no_set_of_plans(bucket: Bucket, tmp_path: pathlib.Path) -> None:
    rest = [number for number, plan in enumerate(bucket.drawings) if not plan]
    written = pairsets.write(
        [bucket.photos[number] for number in rest], bucket.levels[rest], np.zeros(len(rest), np.bool_),
        tmp_path / "out", seed=7, count=20,
    )  # fmt: skip
    assert [made.name for made in written] == ["self-overlays", "self-angles"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["self-angles", "self-overlays"]


def test_progress_reaches_its_end(bucket: Bucket, tmp_path: pathlib.Path) -> None:
    told: list[tuple[int, int]] = []
    pairsets.write(
        bucket.photos, bucket.levels, np.array(bucket.drawings), tmp_path / "out", seed=1, count=10,
        progress=lambda done, whole: told.append((done, whole)),
    )  # fmt: skip
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))


def test_what_cannot_work_says_why(bucket: Bucket, tmp_path: pathlib.Path) -> None:
    none = np.zeros((0, 3904), np.float32)
    with pytest.raises(errors.ConfigurationError, match="found none; check the bucket"):
        pairsets.write([], none, np.zeros(0, np.bool_), tmp_path / "a", seed=1)
    with pytest.raises(errors.ConfigurationError, match="Expected levels and drawings of 1 photos"):
        pairsets.write(bucket.photos[:1], bucket.levels, np.zeros(1, np.bool_), tmp_path / "a", seed=1)
    with pytest.raises(errors.ConfigurationError, match="at least four properties"):
        pairsets.write(bucket.photos[:1], bucket.levels[:1], np.zeros(1, np.bool_), tmp_path / "a", seed=1)
    nameless = pairsets.Photo(" ", bucket.photos[0].path)
    with pytest.raises(errors.ConfigurationError, match="property id is empty"):
        pairsets.write([nameless], bucket.levels[:1], np.zeros(1, np.bool_), tmp_path / "a", seed=1)
    (tmp_path / "full").mkdir()
    shutil.copy(bucket.photos[0].path, tmp_path / "full")
    with pytest.raises(errors.ConfigurationError, match="is not empty"):
        bucket.write(tmp_path / "full")


def test_mining_keeps_apart_what_shares_a_picture() -> None:
    random = np.random.default_rng(0)
    levels = random.normal(size=(40, 200)).astype(np.float32)
    levels[7] = levels[0] + 0.01 * random.normal(size=200)
    owner = np.repeat(np.arange(20), 2)
    directions = mining.units(levels)
    found = mining.mine(directions, owner, same_picture=0.6, limit=0.3)
    assert not found.apart[0, 3]
    assert found.apart[0, 4]
    for number in (0, 1):
        assert not {6, 7} & set(found.look_alikes[number].tolist())
        assert len(found.look_alikes[number]) == 10
    cosines = directions[0] @ directions.T
    assert cosines[found.look_alikes[0][0]] == max(
        cosines[other] for other in range(40) if owner[other] not in (0, 3)
    )
    assert found.others[0].tolist() == ([1] if cosines[1] < 0.3 else [])
    assert mining.different(directions, np.zeros(40, np.int64), 1) == -np.inf
