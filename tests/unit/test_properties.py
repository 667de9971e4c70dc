"""Whole properties: what is known of a pair, and that every wrong flag counts."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from core import errors
from core.learning import pairs, properties

NAMES = ("1_hall.jpg", "1_hall_v0.jpg", "1_hall_v1.jpg", "1_room.jpg", "1_room_r0.jpg", "1_view.jpg")


def _pair(a: str, b: str, duplicate: bool) -> pairs.Pair:
    return pairs.Pair(a, b, duplicate, "test", a.partition("_")[0], b.partition("_")[0], "k")


def _of(*found: pairs.Pair) -> properties.Collection:
    return properties.of_pairs(pairs.PairSet("set", pathlib.Path("images"), found))


def _truth(collection: properties.Collection, a: str, b: str) -> bool | None:
    (item,) = [item for item in collection.properties if a in item.photos]
    return item.truth.get(frozenset((a, b)))


def test_copies_are_known_by_their_names() -> None:
    found = _of(
        _pair("1_hall.jpg", "1_hall_v0.jpg", True),
        _pair("1_hall_v1.jpg", "1_room.jpg", False),
        _pair("1_room_r0.jpg", "1_view.jpg", False),
        _pair("1_view.jpg", "2_hall_v0.jpg", False),
    )
    assert [item.id for item in found.properties] == ["1", "2"]
    assert found.properties[0].photos == NAMES
    assert _truth(found, "1_hall_v0.jpg", "1_hall_v1.jpg") is True
    assert _truth(found, "1_room.jpg", "1_room_r0.jpg") is True
    assert _truth(found, "1_hall.jpg", "1_room.jpg") is False
    # Nothing was made of the view, so its name says nothing; its label does.
    assert _truth(found, "1_hall.jpg", "1_view.jpg") is None
    assert _truth(found, "1_room_r0.jpg", "1_view.jpg") is False


def test_names_that_contradict_a_label_are_not_believed() -> None:
    found = _of(
        _pair("1_hall.jpg", "1_hall_v0.jpg", True),
        _pair("1_hall.jpg", "1_hall_v1.jpg", False),
        _pair("1_hall.jpg", "1_room.jpg", False),
    )
    assert _truth(found, "1_hall_v0.jpg", "1_hall_v1.jpg") is None
    assert _truth(found, "1_hall.jpg", "1_hall_v1.jpg") is False


def test_a_folder_lists_its_duplicates(tmp_path: pathlib.Path) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "duplicates.csv").write_text("property,a,b,room\na,1.jpg,3.jpg,hall\n")
    found = properties.read_folder(tmp_path)
    assert [(item.id, len(item.photos)) for item in found.properties] == [("a", 3), ("b", 1)]
    assert _truth(found, "a/1.jpg", "a/3.jpg") is True
    assert _truth(found, "a/1.jpg", "a/2.jpg") is False
    assert [(pair.a, pair.b, pair.duplicate) for pair in found.pair_set().pairs] == [
        ("a/1.jpg", "a/2.jpg", False), ("a/1.jpg", "a/3.jpg", True), ("a/2.jpg", "a/3.jpg", False),
    ]  # fmt: skip
    (tmp_path / "duplicates.csv").write_text("property,a,b\na,1.jpg,9.jpg\n")
    with pytest.raises(errors.ConfigurationError, match=r"line 2: no picture a/9\.jpg"):
        properties.read_folder(tmp_path)
    (tmp_path / "duplicates.csv").write_text("property,first\n")
    with pytest.raises(errors.ConfigurationError, match="missing a,b"):
        properties.read_folder(tmp_path)
    with pytest.raises(errors.ConfigurationError, match=r"duplicates\.csv beside them"):
        properties.read_folder(tmp_path / "a")


TRUTH = {
    frozenset(("a", "a2")): True,
    frozenset(("b", "b2")): True,
    frozenset(("a", "b")): False,
    frozenset(("a", "b2")): False,
    frozenset(("a2", "b")): False,
    frozenset(("a2", "b2")): False,
}
HOME = properties.Property("1", ("a", "a2", "b", "b2", "c"), TRUTH)


@pytest.mark.parametrize(
    ("decided", "expected"),
    [
        ({}, (2, 0, 0, 0, 0)),
        ({("a", "a2"): 0.9}, (2, 1, 1, 0, 0)),
        ({("a", "a2"): 0.9, ("b", "b2"): 0.5}, (2, 2, 2, 0, 0)),
        # A planted wrong flag is counted, and what it pulls apart is no longer found.
        ({("a", "a2"): 0.9, ("a", "b"): 0.9, ("b", "b2"): 0.9}, (2, 1, 1, 1, 0)),
        ({("a", "c"): 0.9}, (2, 0, 0, 0, 1)),
        ({("a", "b"): 0.4}, (2, 0, 0, 0, 0)),
    ],
)
def test_flags_are_held_against_what_is_known(
    decided: dict[tuple[str, str], float], expected: tuple[int, ...]
) -> None:
    assert properties.count(HOME, decided, threshold=0.5) == properties.Counts(*expected)


def test_the_report_counts_properties_with_a_wrong_flag() -> None:
    homes = tuple(
        properties.Property(
            str(number),
            tuple(f"{number}{name}" for name in HOME.photos),
            {frozenset(f"{number}{name}" for name in key): value for key, value in TRUTH.items()},
        )
        for number in range(4)
    )
    collection = properties.Collection("homes", pathlib.Path("none"), homes)
    every = collection.pair_set().pairs
    assert len(every) == 40
    scores = np.array([float(pair.duplicate) for pair in every])
    perfect = properties.report(collection, scores, 0.5, "perfect", replicates=50)
    assert (perfect.wrong_properties.value, perfect.found.value, perfect.precision.value) == (0.0, 1.0, 1.0)
    planted = next(row for row, pair in enumerate(every) if {pair.a, pair.b} == {"2a2", "2b"})
    scores[planted] = 1.0
    missed = next(row for row, pair in enumerate(every) if {pair.a, pair.b} == {"2a", "2a2"})
    scores[missed] = 0.0
    found = properties.report(collection, scores, 0.5, "one wrong", replicates=50)
    assert found.wrong_properties.value == 0.25
    assert found.totals == properties.Counts(duplicates=8, found=6, right=6, wrong=1, unknown=0)
    assert found.precision.value == pytest.approx(6 / 7)
    assert found.found.low <= found.found.value == 0.75 <= found.found.high
    text = properties.markdown([perfect, found])
    assert "### homes (4 properties, 20 photos, 8 known duplicate pairs)" in text
    assert "6 / 1 / 0" in text
    assert properties.table_csv([perfect, found]).count("\n") == 3
