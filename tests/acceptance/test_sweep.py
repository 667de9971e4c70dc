"""Photos whose messages were lost are found again, by two sweepers at once and each once."""

from __future__ import annotations

import contextlib

from . import pictures
from . import system as acceptance

PHOTOS = 30
LIMIT = 7


def test_two_sweepers_publish_each_lost_photo_once(system: acceptance.System, property_id: str) -> None:
    for number in range(PHOTOS):
        system.upload(
            f"{property_id}-{number // 10}", f"{number:02d}.jpg", pictures.jpeg("bedroom", 60 + number)
        )
    system.settle()
    like = f"{property_id}-%"
    before = _published(system, "sweep")
    # As after a broker that lost everything: one half was never embedded, the other never matched.
    system.ask(
        "WITH lost AS (UPDATE photo SET status = 'pending', updated_at = now() - interval '1 day' - id * interval"
        " '1 second', matched_at = NULL WHERE property_id LIKE %(like)s AND id %% 2 = 0 RETURNING property_id, id)"
        " DELETE FROM photo_embedding USING lost"
        " WHERE photo_embedding.property_id = lost.property_id AND photo_id = lost.id RETURNING 1",
        like=like,
    )
    system.ask(
        "UPDATE photo SET matched_at = NULL, updated_at = now() - interval '2 days'"
        " WHERE property_id LIKE %(like)s AND id %% 2 = 1 RETURNING 1",
        like=like,
    )
    names = [f"{property_id}-{name}" for name in ("one", "other")]
    with contextlib.ExitStack() as running:
        for name in names:
            running.enter_context(system.process(name, "sweep", "--every", "1", DEDUP_SWEEP_LIMIT=str(LIMIT)))
        acceptance.until(lambda: _waiting(system, like) == 0, "all of them are embedded and matched")
    taken = {name: _published(system, name) for name in names}
    # The stack's own sweeper may have come by as well.
    by_the_stack = _published(system, "sweep")[len(before) :]
    assert sum(map(sum, taken.values())) + sum(by_the_stack) == PHOTOS
    assert all(count <= LIMIT for counts in taken.values() for count in counts)


def _waiting(system: acceptance.System, like: str) -> int:
    (row,) = system.ask(
        "SELECT count(*) AS photos FROM photo WHERE property_id LIKE %(like)s AND matched_at IS NULL",
        like=like,
    )
    return int(row["photos"])


def _published(system: acceptance.System, name: str) -> list[int]:
    lines = [line for line in system.log(name) if line["event"] == "overdue_published_again"]
    return [line["embed"] + line["match"] for line in lines]
