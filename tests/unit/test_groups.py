from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from core import groups

PHOTOS = list(range(8))
PAIRS = st.tuples(st.sampled_from(PHOTOS), st.sampled_from(PHOTOS)).filter(lambda two: two[0] < two[1])
SCORES = st.dictionaries(PAIRS, st.sampled_from([0.6, 0.8, 0.9, 1.0]))
VERDICTS = st.dictionaries(PAIRS, st.booleans(), max_size=4)


def test_a_pair_flags_the_later_photo() -> None:
    assert groups.flags([1, 2], {(1, 2): 0.9}, {}) == {2: groups.Flag(2, 1, 0.9, by_person=False)}
    assert groups.flags([2, 1], {(1, 2): 0.9}, {}) == {1: groups.Flag(1, 2, 0.9, by_person=False)}


def test_a_chain_does_not_become_one_group() -> None:
    found = groups.flags([1, 2, 3], {(1, 2): 0.9, (2, 3): 0.9}, {})
    assert {flag.photo_id: flag.duplicate_of for flag in found.values()} == {2: 1}


def test_the_best_canonical_photo_wins() -> None:
    found = groups.flags([1, 2, 3], {(1, 3): 0.7, (2, 3): 0.9}, {})
    assert found[3].duplicate_of == 2


def test_a_person_tells_two_photos_apart() -> None:
    assert groups.flags([1, 2], {(1, 2): 1.0}, {(1, 2): False}) == {}


def test_a_person_joins_two_photos() -> None:
    assert groups.flags([1, 2], {}, {(1, 2): True}) == {2: groups.Flag(2, 1, 1.0, by_person=True)}


def test_people_join_through_a_third_photo() -> None:
    found = groups.flags([1, 2, 3], {}, {(1, 2): True, (2, 3): True})
    assert {flag.photo_id: flag.duplicate_of for flag in found.values()} == {2: 1, 3: 1}


def test_joined_by_people_beats_a_closer_look_alike() -> None:
    found = groups.flags([1, 2, 3], {(1, 2): 1.0}, {(2, 3): True})
    assert found[3] == groups.Flag(3, 2, 1.0, by_person=True)
    assert 2 not in found
    assert found[1] == groups.Flag(1, 2, 1.0, by_person=False)


@given(st.permutations(PHOTOS), SCORES, VERDICTS)
def test_groups_are_stars_and_people_win(
    order: list[int], scores: dict[tuple[int, int], float], verdicts: dict[tuple[int, int], bool]
) -> None:
    found = groups.flags(order, scores, verdicts)
    for photo, flag in found.items():
        assert flag.photo_id == photo
        assert flag.duplicate_of not in found, "a canonical photo is never flagged itself"
        both = groups.pair(photo, flag.duplicate_of)
        assert verdicts.get(both) is not False
        if not flag.by_person:
            assert scores[both] == flag.score
            assert both not in verdicts
    for both, duplicate in verdicts.items():
        together = {found[photo].duplicate_of if photo in found else photo for photo in both}
        told_apart = any(verdict is False for verdict in verdicts.values())
        if duplicate and not told_apart:
            assert len(together) == 1


@given(st.permutations(PHOTOS), SCORES, VERDICTS, st.integers())
def test_the_order_of_the_pairs_does_not_matter(
    order: list[int], scores: dict[tuple[int, int], float], verdicts: dict[tuple[int, int], bool], seed: int
) -> None:
    shuffled = list(scores.items())
    random.Random(seed).shuffle(shuffled)
    assert groups.flags(order, dict(shuffled), verdicts) == groups.flags(order, scores, verdicts)


@given(st.permutations(PHOTOS), SCORES)
def test_a_later_upload_changes_no_flag_among_earlier_ones(
    order: list[int], scores: dict[tuple[int, int], float]
) -> None:
    everything = groups.flags(order, scores, {})
    for count in range(len(order)):
        earlier = groups.flags(order[:count], scores, {})
        assert earlier == {photo: flag for photo, flag in everything.items() if photo in order[:count]}
