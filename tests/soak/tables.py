"""What a soak left behind: the tables for the oracle, and what shows that the soak itself was sound."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from tests.acceptance import system as acceptance
from tests.soak import oracle, post


def read(system: acceptance.System) -> oracle.Tables:
    """All that the oracle judges."""
    pair_keys = (
        "a.key AS key_a, b.key AS key_b FROM {0} JOIN photo AS a ON a.property_id = {0}.property_id "
        "AND a.id = {0}.photo_a JOIN photo AS b ON b.property_id = {0}.property_id AND b.id = {0}.photo_b"
    )
    embeddings = system.ask(
        "SELECT photo.key, photo_embedding.revision, embedding::text AS text FROM photo_embedding "
        "JOIN photo ON photo.property_id = photo_embedding.property_id AND photo.id = photo_id"
    )
    return oracle.Tables(
        photos=system.ask("SELECT * FROM photo"),
        embeddings=[{**row, "embedding": json.loads(row["text"])} for row in embeddings],
        pairs=system.ask("SELECT score, " + pair_keys.format("pair")),
        verdicts=system.ask("SELECT duplicate, applied_at, " + pair_keys.format("verdict")),
        flags=system.read("SELECT key, duplicate_of_key, score, decided_by FROM listing_duplicates"),
        feed=system.read(
            "SELECT key, duplicate_of_key, score, decided_by FROM listing_flag_feed ORDER BY position"
        ),
    )


def strange(system: acceptance.System, counts: post.Counts, store: int | None) -> Iterator[str]:
    """What the oracle does not judge: rejected events, and that the soak itself was sound."""
    rows = system.ask("SELECT reason, message FROM rejected_event")
    for row in rows:
        if row["reason"] not in post.REJECTED:
            yield f"rejected event: {row['reason']}: {row['message']}"
    if len(rows) < counts.garbage:
        yield f"rejected events: {len(rows)}, at least {counts.garbage} were sent"
    if system.stack.store._pid() != store:
        yield "void: the embedded store was started again and lost its queue; that is no fault of this soak's"


def misplaced(
    system: acceptance.System, bucket: str, operations: Sequence[oracle.Operation]
) -> Iterator[str]:
    """The store itself holds what the operations say."""
    expected = {
        key: photo.content.etag
        for key, photo in oracle.final_photos(operations).items()
        if photo.content is not None
    }
    pages = system.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = {item["Key"]: item["ETag"].strip('"') for page in pages for item in page.get("Contents", ())}
    if found != expected:
        yield f"void: the bucket holds {len(found)} objects, {len(expected)} were put and not deleted"
