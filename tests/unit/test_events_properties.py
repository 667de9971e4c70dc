"""What must hold for any events whatever: an order of events that is one, and keys that survive every wrapping."""

from __future__ import annotations

import datetime
import itertools
import json
import urllib.parse
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from core import events, settings

PATTERN = events.key_pattern(settings.Settings.model_fields["key_pattern"].default, {"photos"})
NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
# Few digits, so that equal beginnings, and numbers that differ in zeros at their end alone, are frequent.
SEQUENCERS = st.text("01F", min_size=1, max_size=6)
TIMES = st.integers(0, 3).map(lambda seconds: NOW + datetime.timedelta(seconds=seconds))
# As store and portal write them: any text that is Unicode, without NUL and without a slash.
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00/"), min_size=1, max_size=40)


def newer(one: str, other: str) -> bool:
    return events.is_newer(one, NOW, other, NOW)


@given(SEQUENCERS, SEQUENCERS)
def test_of_two_sequencers_one_is_newer_unless_they_are_the_same_number(one: str, other: str) -> None:
    same = one.rstrip("0") == other.rstrip("0")
    assert newer(one, other) + newer(other, one) == (0 if same else 1)


@given(SEQUENCERS, SEQUENCERS, SEQUENCERS)
def test_newer_than_the_newer_one_is_newer(one: str, other: str, third: str) -> None:
    if newer(one, other) and newer(other, third):
        assert newer(one, third)


@given(st.lists(SEQUENCERS, min_size=1, max_size=5, unique_by=lambda text: text.rstrip("0")))
def test_whatever_the_order_of_arrival_the_same_event_stays(sequencers: list[str]) -> None:
    kept = set()
    for arrival in itertools.permutations(sequencers):
        last = arrival[0]
        for sequencer in arrival[1:]:
            last = sequencer if newer(sequencer, last) else last
        kept.add(last)
    assert len(kept) == 1


@given(TIMES, TIMES, TIMES)
def test_times_are_in_one_order_too(
    one: datetime.datetime, other: datetime.datetime, third: datetime.datetime
) -> None:
    def after(a: datetime.datetime, b: datetime.datetime) -> bool:
        return events.is_newer("", a, "", b)

    assert after(one, other) or after(other, one)
    assert (after(one, other) and after(other, one)) == (one == other)
    if after(one, other) and after(other, third):
        assert after(one, third)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=5), st.integers(0, 2))
def test_every_key_arrives_as_it_was_stored_in_any_envelope(
    places: list[tuple[str, str]], depth: int
) -> None:
    keys = [f"properties/{property_id}/photos/{name}" for property_id, name in places]
    message: dict[str, Any] = {
        "Records": [
            {
                "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": "photos"}, "object": {"key": urllib.parse.quote_plus(key)}},
            }
            for key in keys
        ]
    }
    for _ in range(depth):
        message = {"Type": "Notification", "Message": json.dumps(message)}
    found = events.parse(json.dumps(message), PATTERN)
    assert found.rejections == ()
    assert [event.key for event in found.events] == keys
    assert [event.property_id for event in found.events] == [property_id for property_id, _ in places]


@given(NAMES, NAMES)
def test_event_bridge_keys_arrive_as_they_were_stored(property_id: str, name: str) -> None:
    key = f"properties/{property_id}/photos/{name}"
    message = {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": "photos"}, "object": {"key": key}},
    }
    (event,) = events.parse(json.dumps(message), PATTERN).events
    assert (event.key, event.property_id) == (key, property_id)
