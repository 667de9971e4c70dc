"""What was given up is shown and put back by commands: events, and tasks on a broker that does not count itself."""

from __future__ import annotations

import json
import uuid

import kombu
import pytest

from core import settings
from workers.app import transport_options

from . import pictures
from . import system as acceptance


@pytest.mark.slow
def test_rejected_events_are_applied_after_a_fix(system: acceptance.System, property_id: str) -> None:
    key = f"imported/{property_id}/a.jpg"
    system.s3.put_object(Bucket="photos", Key=key, Body=pictures.jpeg("bedroom"))

    def rejected() -> list[acceptance.Row]:
        shown = system.dedup("rejected", "--reason", "no_property", "--json")
        found = [json.loads(line) for line in shown.stdout.splitlines()]
        return [item for item in found if key in item["message"]]

    (item,) = acceptance.until(rejected, "the event is rejected")
    shown = system.dedup("rejected", str(item["id"]))
    assert "ObjectCreated" in shown.stdout, shown.stderr
    still = system.dedup("rejected", str(item["id"]), "--replay")
    assert (still.returncode, "still not understood: 1" in still.stdout) == (1, True), still.stderr
    assert rejected(), "what cannot be read yet stays"

    mended = {"DEDUP_KEY_PATTERN": "imported/(?P<property>[^/]+)/(?P<name>.+)"}
    applied = system.dedup("rejected", str(item["id"]), "--replay", **mended)
    assert applied.returncode == 0, applied.stderr
    assert not rejected()
    system.settle()
    assert [row["status"] for row in system.ask("SELECT status FROM photo WHERE key = %(key)s", key=key)] == [
        "embedded"
    ]


@pytest.mark.slow
def test_task_that_was_given_out_too_often_is_parked_on_pgmq(
    system: acceptance.System, property_id: str
) -> None:
    system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
    system.settle()
    photo = system.photo(property_id, "a.jpg")
    arguments = {"property_id": property_id, "photo_id": photo["id"], "revision": photo["revision"]}
    url = system.stack.environment["DEDUP_BROKER_URL"]
    options = transport_options(url, settings.Settings())
    with kombu.Connection(url, transport_options=options) as connection:
        queue = kombu.Queue("embed.bulk", kombu.Exchange("embed.bulk", "direct"), routing_key="embed.bulk")
        headers = {"lang": "py", "task": "dedup.embed", "id": str(uuid.uuid4())}
        connection.Producer(serializer="json").publish(
            [[], arguments, {}],
            exchange=queue.exchange,
            routing_key=queue.routing_key,
            declare=[queue],
            headers=headers,
        )
    system.ask("UPDATE pgmq.q_embed_bulk SET read_ct = 50 RETURNING 1")

    def letters() -> list[acceptance.Row]:
        shown = system.dedup("dead-letters", "--json")
        assert "Traceback" not in shown.stderr, shown.stderr
        return [item for item in map(json.loads, shown.stdout.splitlines()) if item["kind"] == "task"]

    expected = [{"kind": "task", "task": "dedup.embed", "arguments": arguments, "queue": "embed.bulk"}]
    with system.process(f"{property_id}-bulk", "worker", "embed", "--bulk"):
        assert acceptance.until(letters, "the task is parked") == expected
        system.settle()
        put_back = system.dedup("replay", "--tasks")
        assert "1 tasks" in put_back.stdout, put_back.stderr
        system.settle()
    assert not letters()
    assert system.statuses(property_id) == {"a.jpg": "embedded"}
