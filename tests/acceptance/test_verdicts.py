"""What people do to a property, through the whole stack: verdicts, a new key pattern, its end."""

from __future__ import annotations

import psycopg

from . import pictures
from . import system as acceptance


def run(system: acceptance.System, *arguments: str, **variables: str) -> None:
    with system.process(arguments[0], *arguments, **variables) as process:
        assert process.wait(120) == 0, system.stack.log_file(arguments[0]).read_text(encoding="utf-8")


def test_a_verdict_by_sql_moves_the_flags(system: acceptance.System, property_id: str) -> None:
    for quality, name in ((90, "a.jpg"), (75, "b.jpg"), (60, "c.jpg")):
        system.upload(property_id, name, pictures.jpeg("dining", quality))
    system.settle()
    assert system.groups(property_id) == {"a.jpg": {"b.jpg", "c.jpg"}}
    keys = [acceptance.key_of(property_id, name) for name in ("a.jpg", "b.jpg")]
    with psycopg.connect(system.stack.editor_url) as editor:
        editor.execute("SELECT record_verdict(%s, %s, %s, false, 'ann')", [property_id, *keys])
    acceptance.until(
        lambda: system.groups(property_id) == {"a.jpg": {"c.jpg"}}, "the sweep applies the verdict"
    )
    system.upload(property_id, "d.jpg", pictures.jpeg("dining", 50))
    system.settle()
    assert system.groups(property_id) == {"a.jpg": {"c.jpg", "d.jpg"}}
    acceptance.until(lambda: ("b.jpg", None) in system.feed(property_id), "the feed tells it")


def test_photos_follow_a_new_key_pattern(system: acceptance.System, property_id: str) -> None:
    for quality, name in ((90, "x-a.jpg"), (75, "y-b.jpg"), (60, "y-c.jpg")):
        system.upload(property_id, name, pictures.jpeg("bedroom", quality))
    system.settle()
    assert system.groups(property_id) == {"x-a.jpg": {"y-b.jpg", "y-c.jpg"}}
    # Matches nothing of the other tests: their photos belong to no property by it and stay.
    pattern = rf"properties/{property_id}/photos/(?P<property>[xy])-(?P<name>.+)"
    run(system, "reassign", DEDUP_KEY_PATTERN=pattern)
    system.settle()
    assert system.flags(property_id) == {}
    assert system.statuses(property_id) == dict.fromkeys(("x-a.jpg", "y-b.jpg", "y-c.jpg"), "removed:moved")
    assert system.flags("y") == {"y-c.jpg": "y-b.jpg"}
    run(system, "reassign")
    system.settle()
    assert system.groups(property_id) == {"x-a.jpg": {"y-b.jpg", "y-c.jpg"}}
    assert system.flags("y") == {}


def test_a_property_is_removed(system: acceptance.System, property_id: str) -> None:
    system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
    system.upload(property_id, "b.jpg", pictures.jpeg("bedroom", quality=60))
    system.settle()
    assert system.flags(property_id) == {"b.jpg": "a.jpg"}
    run(system, "remove-property", property_id)
    assert system.flags(property_id) == {}
    run(system, "remove-property", property_id)
    acceptance.until(
        lambda: system.feed(property_id) == [("b.jpg", "a.jpg"), ("b.jpg", None)], "the feed tells it once"
    )
    # Whoever moves back in is seen again.
    system.upload(property_id, "a.jpg", pictures.jpeg("dining"))
    system.settle()
    assert system.statuses(property_id) == {"a.jpg": "embedded", "b.jpg": "removed:property_removed"}
