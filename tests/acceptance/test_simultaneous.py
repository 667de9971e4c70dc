"""Two duplicates that arrive at the same moment on two workers are compared all the same."""

from __future__ import annotations

import concurrent.futures
import threading

from . import pictures
from . import system as acceptance

ROUNDS = 50


def test_duplicates_uploaded_at_the_same_moment_are_always_flagged(
    system: acceptance.System, property_id: str
) -> None:
    subjects = [pictures.SUBJECTS[number % len(pictures.SUBJECTS)] for number in range(ROUNDS)]
    together = threading.Barrier(2)

    def upload(number: int, name: str, data: bytes) -> None:
        together.wait()
        system.upload(f"{property_id}-{number:02d}", name, data)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number, subject in enumerate(subjects):
            photos = {"a.jpg": pictures.jpeg(subject), "b.jpg": pictures.jpeg(subject, quality=60)}
            uploads = [pool.submit(upload, number, *photo) for photo in photos.items()]
            for done in uploads:
                done.result()
    system.settle()
    for number in range(ROUNDS):
        ((flagged, canonical),) = system.flags(f"{property_id}-{number:02d}").items()
        assert {flagged, canonical} == {"a.jpg", "b.jpg"}

    for kind, event in (("embed", "photo_embedded"), ("match", "photo_matched")):
        seen = [_properties(system, name, event, property_id) for name in (kind, f"{kind}-2")]
        shared = set.intersection(*seen)
        assert shared, f"no property had its two photos on both {kind} workers: nothing was tested"


def _properties(system: acceptance.System, worker: str, event: str, property_id: str) -> set[str]:
    return {
        line["property_id"]
        for line in system.log(worker)
        if line["event"] == event and line["property_id"].startswith(property_id)
    }
