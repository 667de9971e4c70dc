"""Damaged events and damaged photos: whatever comes, the answer is a value or an error that is classified.

`make fuzz` does many more rounds, from a seed that is new each time and named where a round fails.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core import errors, events, images, settings
from tests import memory
from tests.unit import mutations

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "3000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
PATTERN = events.key_pattern(settings.Settings.model_fields["key_pattern"].default, {"photos"})
REJECTED = {"not_understood", "other_event", "unknown_bucket", "no_property", "bad_key"}
UNDECODABLE = {"empty", "unsupported", "too_many_pixels", "corrupt"}
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MAX_PIXELS = 200_000
SIZE = 32
MOST_BYTES = 50_000_000
"""That damaged photos may take, or leave behind: many times what `MAX_PIXELS` pixels need."""


def _messages() -> list[bytes]:
    record: dict[str, Any] = {
        "eventName": "ObjectCreated:Put",
        "eventTime": "2026-05-01T10:00:00.123Z",
        "s3": {
            "bucket": {"name": "photos"},
            "object": {
                "key": "properties/42/photos/a+b%C3%A9.jpg",
                "size": 10,
                "eTag": "abc",
                "sequencer": "0055AED6DCD90281E5",
                "versionId": "v1",
            },
        },
    }
    records = {"Records": [record, {**record, "eventName": "ObjectRemoved:Delete"}]}
    bridge = {
        "source": "aws.s3",
        "detail-type": "Object Deleted",
        "time": "2026-05-01T10:00:00Z",
        "detail": {"bucket": record["s3"]["bucket"], "object": record["s3"]["object"], "deletion-type": "x"},
    }
    wrapped = {"Type": "Notification", "Message": json.dumps(records)}
    return [json.dumps(message).encode() for message in (records, bridge, wrapped)]


def test_any_damaged_message_ends_in_events_and_rejections() -> None:
    messages = _messages()
    understood = 0
    for number in range(ROUNDS):
        rng = random.Random(f"{SEED} {number}")
        body = mutations.mutated(rng.choice(messages), rng)
        try:
            found = events.parse(body, PATTERN)
        except Exception as error:
            raise AssertionError(f"FUZZ_SEED={SEED}, round {number}: {body!r}") from error
        understood += bool(found.events)
        assert {rejection.reason for rejection in found.rejections} <= REJECTED
        for event in found.events:
            # What the tables take: text without NUL that can be encoded, a time with its zone, and a size that fits.
            for text in (event.key, event.property_id, event.etag, event.sequencer):
                assert "\x00" not in text
                text.encode()
            assert event.occurred_at.tzinfo is not None
            assert event.size is None or 0 <= event.size < 2**63
    # Both ways were taken, so the damages are neither too slight nor too heavy to tell anything.
    assert 0.02 * ROUNDS < understood < 0.98 * ROUNDS


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it passes over, as it does in production.
@pytest.mark.parametrize("format_name", FORMATS)
def test_any_damaged_photo_is_decoded_or_fails_for_a_reason(format_name: str) -> None:
    photo = _photo(format_name)
    decoded = 0
    reasons = set()
    rounds = ROUNDS // len(FORMATS)
    # Whoever decodes the first picture pays for what is imported for it.
    images.decode(photo, size=SIZE, max_pixels=MAX_PIXELS)
    peak = memory.Peak()
    for number in range(rounds):
        rng = random.Random(f"{SEED} {format_name} {number}")
        data = mutations.mutated(photo, rng)
        try:
            picture = images.decode(data, size=SIZE, max_pixels=MAX_PIXELS)
        except errors.PermanentError as error:
            reasons.add(error.reason)
        except Exception as error:
            raise AssertionError(f"FUZZ_SEED={SEED}, round {number} of {format_name}") from error
        else:
            decoded += 1
            assert picture.pixels.shape == (3, SIZE, SIZE)
            assert picture.pixels.dtype == np.uint8
            assert 0 < picture.width * picture.height <= MAX_PIXELS
    assert decoded < rounds
    assert peak.bytes() < MOST_BYTES
    assert reasons <= UNDECODABLE


def _photo(format_name: str) -> bytes:
    if format_name == "HEIF":
        return (pathlib.Path(__file__).parent / "data" / "half_red_half_blue.heic").read_bytes()
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format_name, **({"exif": exif} if format_name in {"JPEG", "PNG", "WEBP"} else {}))
    return buffer.getvalue()
