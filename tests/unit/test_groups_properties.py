"""What must hold for any pairs and verdicts: groups are stars, and nothing depends on the order of arrival."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from core import groups

PHOTOS = list(range(9))
PAIRS = st.tuples(st.sampled_from(PHOTOS), st.sampled_from(PHOTOS)).filter(lambda two: two[0] < two[1])
SCORES = st.dictionaries(PAIRS, st.sampled_from([0.6, 0.8, 0.9, 1.0]))
VERDICTS = st.dictionaries(PAIRS, st.booleans(), max_size=6)


@given(st.permutations(PHOTOS), SCORES, VERDICTS)
def test_every_flag_has_a_pair_of_its_own_or_a_persons_word(
    order: list[int], scores: dict[groups.Pair, float], verdicts: dict[groups.Pair, bool]
) -> None:
    joined: dict[int, set[int]] = {photo: {photo} for photo in order}
    for (one, other), duplicate in verdicts.items():
        if duplicate:
            together = joined[one] | joined[other]
            for photo in together:
                joined[photo] = together
    found = groups.flags(order, scores, verdicts)
    for photo, flag in found.items():
        assert flag.duplicate_of not in found
        if flag.by_person:
            assert flag.duplicate_of == min(joined[photo], key=order.index)
        else:
            assert scores[groups.pair(photo, flag.duplicate_of)] == flag.score


@given(st.permutations(PHOTOS), SCORES, VERDICTS, st.integers())
def test_the_order_in_which_pairs_and_verdicts_came_does_not_matter(
    order: list[int], scores: dict[groups.Pair, float], verdicts: dict[groups.Pair, bool], seed: int
) -> None:
    rng = random.Random(seed)
    pairs, words = list(scores.items()), list(verdicts.items())
    rng.shuffle(pairs)
    rng.shuffle(words)
    assert groups.flags(order, dict(pairs), dict(words)) == groups.flags(order, scores, verdicts)


@given(st.permutations(PHOTOS), SCORES)
def test_no_two_canonical_photos_are_duplicates_of_each_other(
    order: list[int], scores: dict[groups.Pair, float]
) -> None:
    found = groups.flags(order, scores, {})
    assert not [pair for pair in scores if pair[0] not in found and pair[1] not in found]


@given(st.permutations(PHOTOS), SCORES, VERDICTS, st.sampled_from(PHOTOS))
def test_pairs_of_photos_that_are_gone_change_nothing(
    order: list[int], scores: dict[groups.Pair, float], verdicts: dict[groups.Pair, bool], gone: int
) -> None:
    left = [photo for photo in order if photo != gone]

    assert groups.flags(left, scores, verdicts) == groups.flags(
        left,
        {pair: score for pair, score in scores.items() if gone not in pair},
        {pair: word for pair, word in verdicts.items() if gone not in pair},
    )
