"""The oracle itself: it agrees with the system's own star rule, and sees every way in which the tables can be wrong."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import groups
from tests.soak import contents, oracle, stars

START = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
ROOM, SAME_ROOM, OTHER, BROKEN = (contents.Content(data) for data in (b"1", b"2", b"3", b""))
BROKEN = dataclasses.replace(BROKEN, failure="empty")
GOOD = (ROOM, SAME_ROOM, OTHER)
_VECTORS = np.eye(3, dtype=np.float32)
TRUTH = contents.Truth(
    scores={
        (one.etag, other.etag): 0.1 if OTHER in (one, other) and one != other else 0.9
        for one in GOOD
        for other in GOOD
    },
    vectors={content.etag: _VECTORS[number] for number, content in enumerate(GOOD)},
    duplicate=0.5,
    review=0.4,
)


def put(key: str, content: contents.Content, at: int) -> oracle.Put:
    return oracle.Put(START + datetime.timedelta(seconds=at), "p", key, content)


OPERATIONS: Sequence[oracle.Operation] = (
    put("a", ROOM, 1),
    put("b", SAME_ROOM, 2),
    put("c", OTHER, 3),
    put("d", ROOM, 4),
    oracle.Delete(START, "p", "d"),
    put("e", BROKEN, 5),
    oracle.Verdict("p", ("a", "c"), duplicate=False),
)


def photo(operation: oracle.Put, status: str) -> dict[str, object]:
    return {
        "property_id": "p",
        "key": operation.key,
        "status": status,
        "failure": operation.content.failure,
        "etag": operation.content.etag,
        "uploaded_at": operation.at,
        "sha256": operation.content.sha256,
        "matched_at": START if status == "embedded" else None,
        "revision": 1,
    }


def right() -> oracle.Tables:
    """The tables as `OPERATIONS` must leave them."""
    puts = [operation for operation in OPERATIONS if isinstance(operation, oracle.Put)]
    statuses = ("embedded", "embedded", "embedded", "removed", "failed")
    flag = {"key": "b", "duplicate_of_key": "a", "score": 0.9, "decided_by": "model"}
    gone = {"key": "d", "duplicate_of_key": "a", "score": 0.9, "decided_by": "model"}
    return oracle.Tables(
        photos=[photo(operation, status) for operation, status in zip(puts, statuses, strict=True)],
        embeddings=[
            {"key": operation.key, "revision": 1, "embedding": _VECTORS[number]}
            for number, operation in enumerate(puts[:3])
        ],
        pairs=[{"key_a": "b", "key_b": "a", "score": 0.9}],
        verdicts=[{"key_a": "a", "key_b": "c", "duplicate": False, "applied_at": START}],
        flags=[flag],
        feed=[gone, {**gone, "duplicate_of_key": None}, flag],
    )


def test_right_tables_differ_in_nothing() -> None:
    assert oracle.differences(OPERATIONS, TRUTH, right()) == []


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda t: {"photos": t.photos[1:]}, "photo a: is missing"),
        (lambda t: {"photos": [*t.photos, {**t.photos[0], "key": "x"}]}, "photo x: must not be there"),
        (lambda t: {"photos": [{**t.photos[0], "status": "failed"}, *t.photos[1:]]}, "photo a: state"),
        (lambda t: {"photos": [{**t.photos[0], "etag": ""}, *t.photos[1:]]}, "photo a: etag"),
        (lambda t: {"photos": [{**t.photos[0], "matched_at": None}, *t.photos[1:]]}, "photo a: matched"),
        (lambda t: {"photos": [{**t.photos[0], "uploaded_at": None}, *t.photos[1:]]}, "uploaded_at"),
        (lambda t: {"embeddings": t.embeddings[1:]}, "embedding a: is missing"),
        (lambda t: {"embeddings": [*t.embeddings, t.embeddings[0]]}, "embedding a: must not be there"),
        (
            lambda t: {"embeddings": [{**t.embeddings[0], "embedding": _VECTORS[2]}, *t.embeddings[1:]]},
            "embedding a: is not of its content",
        ),
        (lambda t: {"embeddings": [{**t.embeddings[0], "revision": 2}, *t.embeddings[1:]]}, "revision 2"),
        (lambda t: {"pairs": ()}, "pair ('a', 'b'): is missing"),
        (lambda t: {"pairs": [{**t.pairs[0], "score": 0.6}]}, "pair ('a', 'b'): score"),
        (lambda t: {"verdicts": ()}, "verdict ('a', 'c'): is missing"),
        (lambda t: {"verdicts": [{**t.verdicts[0], "applied_at": None}]}, "still waits"),
        (lambda t: {"verdicts": [{**t.verdicts[0], "duplicate": True}]}, "verdict ('a', 'c'): is True"),
        (lambda t: {"flags": (), "feed": ()}, "flag b: is missing"),
        (lambda t: {"flags": [{**t.flags[0], "duplicate_of_key": "c"}]}, "flag b: is"),
        (lambda t: {"flags": [{**t.flags[0], "decided_by": "person"}]}, "flag b: is"),
        (lambda t: {"feed": t.feed[:2]}, "feed: replayed"),
        (lambda t: {"feed": [*t.feed, t.feed[2]]}, "feed: tells the flag of b twice"),
        (lambda t: {"feed": t.feed[1:]}, "feed: takes back"),
    ],
)
def test_each_wrong_table_is_told(
    spoil: Callable[[oracle.Tables], dict[str, Sequence[oracle.Row]]], word: str
) -> None:
    tables = right()
    found = oracle.differences(OPERATIONS, TRUTH, dataclasses.replace(tables, **spoil(tables)))
    assert any(word in difference for difference in found), found


def test_a_verdict_falls_with_its_picture_and_outlives_its_removal() -> None:
    verdict = oracle.Verdict("p", ("a", "b"), duplicate=True)
    before = (put("a", ROOM, 1), put("b", OTHER, 2), verdict, oracle.Delete(START, "p", "a"))
    assert oracle.final_verdicts(before) == {("a", "b"): True}
    assert oracle.final_verdicts((*before, put("a", ROOM, 3))) == {("a", "b"): True}
    assert oracle.final_verdicts((*before, put("a", SAME_ROOM, 3))) == {}


_PAIRS = st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda pair: pair[0] < pair[1])


@given(
    st.permutations(range(8)),
    st.dictionaries(_PAIRS, st.sampled_from((0.6, 0.7, 0.8))),
    st.dictionaries(_PAIRS, st.booleans(), max_size=6),
)
def test_its_stars_are_those_of_the_system(
    order: list[int], scores: dict[groups.Pair, float], verdicts: dict[groups.Pair, bool]
) -> None:
    def named(pair: groups.Pair) -> stars.Pair:
        return (str(pair[0]), str(pair[1]))

    found = stars.flags(
        [str(photo) for photo in order],
        {named(pair): score for pair, score in scores.items()},
        {named(pair): word for pair, word in verdicts.items()},
    )
    assert found == {
        str(photo): stars.Flag(str(flag.duplicate_of), "person" if flag.by_person else "model", flag.score)
        for photo, flag in groups.flags(order, scores, verdicts).items()
    }
