"""Photos that can never work are on record with their reason, and harm no photo that came with them."""

from __future__ import annotations

from . import pictures
from . import system as acceptance


def test_each_bad_photo_is_recorded_and_the_good_ones_are_flagged(
    system: acceptance.System, property_id: str
) -> None:
    whole = pictures.jpeg("bedroom", quality=75)
    uploads = {
        "good-1.jpg": pictures.jpeg("bedroom"),
        "corrupt.png": pictures.corrupt_png(),
        "truncated.jpg": whole[: len(whole) // 2],
        "good-2.jpg": pictures.jpeg("bedroom", quality=60),
        "empty.jpg": b"",
        "huge.png": pictures.blank_png(20_000, 20_000),
        "good-3.jpg": pictures.jpeg("bathroom"),
        "text.jpg": b"Three rooms, kitchen, bathroom, balcony.\n",
    }
    for name, data in uploads.items():
        system.upload(property_id, name, data)
    system.settle()
    assert system.statuses(property_id) == {
        "good-1.jpg": "embedded",
        "good-2.jpg": "embedded",
        "good-3.jpg": "embedded",
        "corrupt.png": "failed:corrupt",
        "truncated.jpg": "failed:corrupt",
        "empty.jpg": "failed:empty",
        "huge.png": "failed:too_many_pixels",
        "text.jpg": "failed:unsupported",
    }
    ((flagged, canonical),) = system.flags(property_id).items()
    assert {flagged, canonical} == {"good-1.jpg", "good-2.jpg"}
    for name, words in (("huge.png", "20000×20000"), ("text.jpg", "Three ro"), ("empty.jpg", "0 bytes")):
        assert words in system.photo(property_id, name)["failure_message"]


def test_good_photo_under_the_key_of_a_bad_one_is_embedded(
    system: acceptance.System, property_id: str
) -> None:
    system.upload(property_id, "a.jpg", pictures.jpeg("exterior"))
    system.upload(property_id, "b.jpg", b"")
    system.settle()
    assert system.statuses(property_id)["b.jpg"] == "failed:empty"
    system.upload(property_id, "b.jpg", pictures.jpeg("exterior", quality=60))
    system.settle()
    assert system.statuses(property_id)["b.jpg"] == "embedded"
    assert system.flags(property_id) == {"b.jpg": "a.jpg"}


def test_object_that_was_deleted_before_it_could_be_fetched(
    system: acceptance.System, property_id: str
) -> None:
    key = acceptance.key_of(property_id, "a.jpg")
    system.send_records(acceptance.record("ObjectCreated:Put", key, etag="e"))
    system.settle()
    assert system.statuses(property_id) == {"a.jpg": "removed:object_gone"}
