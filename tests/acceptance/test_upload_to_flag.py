"""The way of one photo, and everything that its events may do on it: twice, late, out of order, wrapped."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import subprocess

from . import pictures
from . import system as acceptance


def test_duplicate_is_flagged(system: acceptance.System, property_id: str) -> None:
    system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
    system.upload(property_id, "b.jpg", pictures.jpeg("bathroom"))
    system.settle()
    system.upload(property_id, "c.jpg", pictures.jpeg("bedroom", quality=60))
    system.settle()
    assert system.flags(property_id) == {"c.jpg": "a.jpg"}
    assert system.groups(property_id) == {"a.jpg": {"c.jpg"}}
    acceptance.until(lambda: system.feed(property_id) == [("c.jpg", "a.jpg")], "the flag is in the feed")


def test_key_with_special_characters(system: acceptance.System, property_id: str) -> None:
    names = {"küche/1 + 2 (neu).jpg", "küche/100 % #1.jpg"}
    for quality, name in enumerate(sorted(names), 80):
        system.upload(property_id, name, pictures.jpeg("dining", quality))
    system.settle()
    ((flagged, canonical),) = system.flags(property_id).items()
    assert {flagged, canonical} == names


def test_photos_of_two_properties_are_never_compared(system: acceptance.System, property_id: str) -> None:
    other = f"{property_id}-other"
    system.upload(property_id, "a.jpg", pictures.jpeg("exterior"))
    system.upload(other, "a.jpg", pictures.jpeg("exterior", quality=60))
    system.settle()
    assert system.statuses(property_id) == system.statuses(other) == {"a.jpg": "embedded"}
    assert not system.flags(property_id)
    assert not system.flags(other)


def test_same_event_twice_changes_nothing(system: acceptance.System, property_id: str) -> None:
    etag = system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
    system.upload(property_id, "b.jpg", pictures.jpeg("bedroom", quality=60))
    system.settle()
    before = system.tables(property_id)
    assert [len(before[table]) for table in ("photo", "photo_embedding", "pair", "duplicate_flag")] == [
        2,
        2,
        1,
        1,
    ]
    occurred_at = system.photo(property_id, "a.jpg")["occurred_at"]
    key = acceptance.key_of(property_id, "a.jpg")
    again = acceptance.record("ObjectCreated:Put", key, etag=etag, at=occurred_at)
    system.send_records(again)
    system.send_records(again, again)
    system.settle()
    after = system.tables(property_id)
    # An event that is not older is noted on the row; everything else is as it was written the first time.
    assert {table: after[table] for table in after if table != "photo"} == {
        table: before[table] for table in before if table != "photo"
    }
    assert [row["row"] for row in after["photo"]] == [row["row"] for row in before["photo"]]


def test_a_key_with_a_line_break_is_a_photos(system: acceptance.System, property_id: str) -> None:
    # S3 allows any UTF-8. The embedded store refuses such keys, so the event comes alone and its object is not found.
    key = acceptance.key_of(property_id, "a\nb.jpg")
    system.send_records(acceptance.record("ObjectCreated:Put", key, etag="e"))
    acceptance.until(
        lambda: system.statuses(property_id) == {"a\nb.jpg": "removed:object_gone"},
        "it went all the way to the store",
    )
    assert not system.ask("SELECT FROM rejected_event WHERE body LIKE %(like)s", like=f"%{property_id}%")


def test_delete_before_its_create(system: acceptance.System, property_id: str) -> None:
    key = acceptance.key_of(property_id, "a.jpg")
    # The shorter sequencer counts as padded with zeros on its right: this one is the later of the two.
    system.send_records(acceptance.record("ObjectRemoved:Delete", key, sequencer="0055AED6DCD90282"))
    system.settle()
    late = acceptance.record("ObjectCreated:Put", key, sequencer="0055AED6DCD90281E5", etag="e")
    system.send_records(late)
    system.settle()
    photo = system.photo(property_id, "a.jpg")
    # Had it been taken for present, its failed fetch would show as the reason of its removal.
    assert (photo["status"], photo["failure"], photo["revision"]) == ("removed", None, 1)
    assert photo["sequencer"] == "0055AED6DCD90282"
    assert not system.ask("SELECT FROM photo_embedding WHERE property_id = %(id)s", id=property_id)


def test_overwritten_key_has_the_flags_of_its_new_picture(
    system: acceptance.System, property_id: str
) -> None:
    system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
    system.upload(property_id, "b.jpg", pictures.jpeg("bedroom", quality=60))
    system.upload(property_id, "c.jpg", pictures.jpeg("bathroom"))
    system.settle()
    assert system.flags(property_id) == {"b.jpg": "a.jpg"}
    sha256 = system.photo(property_id, "b.jpg")["sha256"]
    system.upload(property_id, "b.jpg", pictures.jpeg("bathroom", quality=60))
    system.settle()
    assert system.flags(property_id) == {"b.jpg": "c.jpg"}
    photo = system.photo(property_id, "b.jpg")
    assert (photo["status"], photo["revision"]) == ("embedded", 2)
    assert photo["sha256"] != sha256
    changes = [("b.jpg", "a.jpg"), ("b.jpg", None), ("b.jpg", "c.jpg")]
    acceptance.until(lambda: system.feed(property_id) == changes, "the feed tells each step")


def test_removing_the_canonical_photo_repairs_its_group(system: acceptance.System, property_id: str) -> None:
    for quality, name in ((90, "a.jpg"), (75, "b.jpg"), (60, "c.jpg")):
        system.upload(property_id, name, pictures.jpeg("dining", quality))
    system.settle()
    assert system.groups(property_id) == {"a.jpg": {"b.jpg", "c.jpg"}}
    system.delete(property_id, "a.jpg")
    system.settle()
    assert system.statuses(property_id)["a.jpg"] == "removed"
    assert system.groups(property_id) == {"b.jpg": {"c.jpg"}}
    system.delete(property_id, "b.jpg")
    system.settle()
    assert not system.groups(property_id)
    acceptance.until(
        lambda: system.feed(property_id)[-1] == ("c.jpg", None), "the feed takes the last flag back"
    )


def test_wrapped_events(system: acceptance.System, property_id: str) -> None:
    system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
    etag = system.upload(property_id, "b & b.jpg", pictures.jpeg("bedroom", quality=60))
    system.settle()
    assert system.flags(property_id) == {"b & b.jpg": "a.jpg"}
    key = acceptance.key_of(property_id, "b & b.jpg")

    removed = {"Records": [acceptance.record("ObjectRemoved:Delete", key, sequencer="0A")]}
    system.send({"Type": "Notification", "TopicArn": "arn:aws:sns:photos", "Message": json.dumps(removed)})
    system.settle()
    assert system.statuses(property_id)["b & b.jpg"] == "removed"
    assert not system.flags(property_id)

    system.send(
        {
            "version": "0",
            "detail-type": "Object Created",
            "source": "aws.s3",
            # EventBridge gives whole seconds: the sequencer alone tells that this came after the removal.
            "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "detail": {
                "bucket": {"name": "photos"},
                "object": {"key": key, "etag": etag, "sequencer": "0B"},
            },
        }
    )
    system.settle()
    assert system.statuses(property_id)["b & b.jpg"] == "embedded"
    assert set(system.flags(property_id)) | set(system.flags(property_id).values()) == {"a.jpg", "b & b.jpg"}


def test_message_that_is_not_understood_is_on_record_and_the_queue_goes_on(
    system: acceptance.System, property_id: str
) -> None:
    system.send(f"no JSON, {property_id}")
    system.send({"greeting": property_id})
    system.send({"Event": "s3:TestEvent", "Bucket": "photos", "marker": property_id})
    key = acceptance.key_of(property_id, "a.jpg")
    system.send_records(
        acceptance.record("ObjectCreated:Put", key, bucket="elsewhere"),
        acceptance.record("ObjectCreated:Put", f"logs/{property_id}.jpg"),
        acceptance.record("ObjectRestore:Completed", key),
        {"eventName": "ObjectCreated:Put", "marker": property_id},
    )
    system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
    system.settle()
    assert system.statuses(property_id) == {"a.jpg": "embedded"}
    rejected = system.ask(
        "SELECT reason, message FROM rejected_event WHERE body LIKE %(like)s ORDER BY id",
        like=f"%{property_id}%",
    )
    assert [row["reason"] for row in rejected] == [
        "not_understood",
        "not_understood",
        "unknown_bucket",
        "no_property",
        "other_event",
        "not_understood",
    ]
    assert all(row["message"] for row in rejected)


def test_a_shell_that_reads_the_environment_finds_dedup_and_the_database(
    system: acceptance.System, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "environment"
    system.stack.write_environment(file)
    shell = ["sh", "-c", '. "$0"; dedup model list --json', str(file)]

    def told() -> str:
        # The first embed worker brings the model.
        return subprocess.run(
            shell, env={"PATH": os.defpath}, stdout=subprocess.PIPE, text=True, check=False
        ).stdout

    assert json.loads(acceptance.until(told, "a model"))["status"] == "active"
