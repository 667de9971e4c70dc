from __future__ import annotations

import datetime
import json
import urllib.parse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import events, settings

PATTERN = events.key_pattern(settings.Settings.model_fields["key_pattern"].default, {"photos"})
SEQUENCERS = st.text("0123456789ABCDEF", min_size=1, max_size=24)
NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)


def record(
    key: str = "properties/42/photos/a.jpg", name: str = "ObjectCreated:Put", **changes: Any
) -> dict[str, Any]:
    s3_object = {
        "key": urllib.parse.quote_plus(key),
        "size": 10,
        "eTag": "abc",
        "sequencer": "0055AED6DCD90281E5",
        **changes,
    }
    return {
        "eventName": name,
        "eventTime": "2026-05-01T10:00:00.123Z",
        "s3": {"bucket": {"name": "photos"}, "object": s3_object},
    }


def parse(message: object) -> events.Notification:
    return events.parse(json.dumps(message), PATTERN)


def only(notification: events.Notification) -> events.Event:
    assert notification.rejections == ()
    (event,) = notification.events
    return event


def test_s3_record_with_every_field() -> None:
    event = only(parse({"Records": [record("properties/42/photos/a b+é.jpg")]}))
    assert event == events.Event(
        kind=events.Kind.CREATED,
        bucket="photos",
        key="properties/42/photos/a b+é.jpg",
        property_id="42",
        etag="abc",
        size=10,
        sequencer="0055AED6DCD90281E5",
        occurred_at=datetime.datetime(2026, 5, 1, 10, 0, 0, 123000, tzinfo=datetime.UTC),
    )


def test_a_key_may_hold_line_breaks() -> None:
    event = only(parse({"Records": [record("properties/4\n2/photos/a\nb\r\u2028.jpg")]}))
    assert (event.property_id, event.key) == ("4\n2", "properties/4\n2/photos/a\nb\r\u2028.jpg")
    # Also where an installation gives a pattern of its own.
    own = events.key_pattern("(?P<property>[^/]+)/(?P<name>.+)", ["photos"])
    assert own.property_of("photos", "42/a\n.jpg") == "42"


def test_key_is_decoded_exactly_once() -> None:
    assert only(parse({"Records": [record("properties/42/photos/100%25.jpg")]})).key.endswith("100%25.jpg")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ObjectCreated:Put", events.Kind.CREATED),
        ("ObjectCreated:Copy", events.Kind.CREATED),
        ("s3:ObjectCreated:CompleteMultipartUpload", events.Kind.CREATED),
        ("ObjectRemoved:Delete", events.Kind.REMOVED),
        ("ObjectRemoved:DeleteMarkerCreated", events.Kind.REMOVED),
    ],
)
def test_kinds(name: str, kind: events.Kind) -> None:
    assert only(parse({"Records": [record(name=name)]})).kind is kind


def test_a_delete_marker_removes_though_it_has_a_version() -> None:
    event = only(parse({"Records": [record(name="ObjectRemoved:DeleteMarkerCreated", versionId="v2")]}))
    assert event.kind is events.Kind.REMOVED


def test_deleting_one_version_means_look_again() -> None:
    event = only(parse({"Records": [record(name="ObjectRemoved:Delete", versionId="v1")]}))
    assert (event.kind, event.etag) == (events.Kind.CREATED, "")


def test_several_records_keep_their_order_and_one_bad_one_harms_none() -> None:
    found = parse(
        {"Records": [record("properties/1/photos/a"), {"no": "name"}, record("properties/2/photos/b")]}
    )
    assert [event.property_id for event in found.events] == ["1", "2"]
    assert [rejection.reason for rejection in found.rejections] == ["not_understood"]


def test_test_event_asks_for_nothing() -> None:
    assert parse(
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"}
    ) == events.Notification((), ())


def test_sns_envelope() -> None:
    inner = json.dumps({"Records": [record()]})
    assert only(parse({"Type": "Notification", "TopicArn": "arn:…", "Message": inner})).property_id == "42"


def test_event_bridge_does_not_encode_keys() -> None:
    message = {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "time": "2026-05-01T10:00:00Z",
        "detail": {
            "bucket": {"name": "photos"},
            "object": {
                "key": "properties/42/photos/a+b%20c.jpg",
                "size": 5,
                "etag": "e",
                "sequencer": "00ff",
            },
        },
    }
    event = only(parse(message))
    assert event.key == "properties/42/photos/a+b%20c.jpg"
    assert (event.etag, event.sequencer, event.size) == ("e", "00FF", 5)
    assert only(parse({**message, "detail-type": "Object Deleted"})).kind is events.Kind.REMOVED


@pytest.mark.parametrize(
    ("deletion", "version", "kind"),
    [
        ("Permanently Deleted", None, events.Kind.REMOVED),
        ("Permanently Deleted", "v1", events.Kind.CREATED),
        ("Delete Marker Created", "v2", events.Kind.REMOVED),
    ],
)
def test_event_bridge_deletions(deletion: str, version: str | None, kind: events.Kind) -> None:
    s3_object = {"key": "properties/42/photos/a.jpg", "sequencer": "00ff", "version-id": version}
    message = {
        "source": "aws.s3",
        "detail-type": "Object Deleted",
        "time": "2026-05-01T10:00:00Z",
        "detail": {"bucket": {"name": "photos"}, "object": s3_object, "deletion-type": deletion},
    }
    assert only(parse(message)).kind is kind


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"Records": [record("elsewhere/a.jpg")]}, "no_property"),
        ({"Records": [record("properties//photos/a.jpg")]}, "no_property"),
        ({"Records": [record("properties/" + "x" * 201 + "/photos/a")]}, "bad_key"),
        ({"Records": [record("properties/1/photos/\x00")]}, "bad_key"),
        ({"Records": [record(name="ObjectTagging:Put")]}, "other_event"),
        ({"Records": [record(sequencer="xyz")]}, "not_understood"),
        ({"Records": [record(size=-1)]}, "not_understood"),
        ({"Records": [record(size=float("inf"))]}, "not_understood"),
        ({"Records": [record(eTag="a\x00b")]}, "not_understood"),
        ({"Records": [{**record(), "eventTime": "0001-01-01T00:00:00+14:00"}]}, "not_understood"),
        ({"Records": [{**record(), "eventTime": "yesterday"}]}, "not_understood"),
        ({"Records": [record("properties/1/photos/" + "k" * 1024)]}, "bad_key"),
        ({"hello": "world"}, "not_understood"),
        ([], "not_understood"),
    ],
)
def test_what_is_not_understood_is_rejected_with_its_reason(message: object, reason: str) -> None:
    found = parse(message)
    assert found.events == ()
    assert [rejection.reason for rejection in found.rejections] == [reason]


def test_unknown_bucket_is_rejected() -> None:
    other = record()
    other["s3"]["bucket"]["name"] = "attic"
    (rejection,) = parse({"Records": [other]}).rejections
    assert rejection.reason == "unknown_bucket"
    assert "DEDUP_BUCKETS" in rejection.message


def test_half_a_character_in_a_key_is_rejected() -> None:
    text = json.dumps({"Records": [record()]}).replace("a.jpg", "\\ud800.jpg")
    assert [rejection.reason for rejection in events.parse(text, PATTERN).rejections] == ["bad_key"]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "size": st.integers() | st.floats() | st.text(),
            "eTag": st.text(),
            "sequencer": st.text(),
            "key": st.text(),
        },
    ),
    st.text() | st.datetimes().map(str),
)
def test_any_fields_end_in_an_event_or_a_rejection(fields: dict[str, Any], moment: str) -> None:
    found = parse({"Records": [{**record(**fields), "eventTime": moment}]})
    assert len(found.events) + len(found.rejections) == 1


def test_text_that_is_not_json_is_rejected_whole() -> None:
    found = events.parse(b"\xff{", PATTERN)
    assert found.rejections[0].reason == "not_understood"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "Records",
                        "s3",
                        "object",
                        "bucket",
                        "key",
                        "eventName",
                        "Message",
                        "Type",
                        "name",
                        "detail",
                    ]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_ends_in_events_or_rejections(message: object) -> None:
    found = parse(message)
    assert found.events == ()


@given(st.binary(max_size=200))
def test_any_bytes_end_in_events_or_rejections(body: bytes) -> None:
    assert events.parse(body, PATTERN).events == ()


def test_deep_nesting_is_rejected() -> None:
    assert events.parse("[" * 100_000, PATTERN).rejections[0].reason == "not_understood"


@given(SEQUENCERS, SEQUENCERS)
def test_sequencers_order_as_right_padded_strings(one: str, other: str) -> None:
    width = max(len(one), len(other))
    larger = int(one.ljust(width, "0"), 16) > int(other.ljust(width, "0"), 16)
    assert events.is_newer(one, NOW, other, NOW) is larger
    assert not (larger and events.is_newer(other, NOW, one, NOW))


def test_without_sequencers_the_time_decides_and_a_tie_goes_to_the_later_arrival() -> None:
    later = NOW + datetime.timedelta(milliseconds=1)
    assert events.is_newer("", later, "", NOW)
    assert not events.is_newer("", NOW, "", later)
    assert events.is_newer("", NOW, "", NOW)
    assert events.is_newer("A", NOW, "", None)
