"""What the store tells of a portal's photos: in any order, late, and more than once.

The soak writes the store's notifications itself, since the embedded store gives no sequencer, and since it would send
each of them once and in order.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import json
import random
from collections.abc import Callable

from tests.acceptance import system as acceptance

LATEST_SECONDS = 25.0
"""A late event comes at most so long after what it tells of."""

GARBAGE = (
    "no JSON at all",
    '{"hello": "world"}',
    '{"Records": [{"eventName": "ObjectCreated:Put"}]}',
    '{"Records": [{"eventName": "ObjectTagging:Put"}]}',
)
REJECTED = frozenset({"not_understood", "other_event"})
"""The reasons for which `GARBAGE` goes to rejected_event; there must be no others."""

_RECORDS_PER_MESSAGE = 5


@dataclasses.dataclass
class Counts:
    """What came in. `events` counts records that were sent, duplicates included."""

    operations: int = 0
    events: int = 0
    duplicates: int = 0
    messages: int = 0
    garbage: int = 0


class Post:
    """Sends S3 records some time after they were written, shuffled, several a message, some of them again."""

    def __init__(self, send: Callable[[str], None], rng: random.Random, counts: Counts) -> None:
        self._send = send
        self._rng = rng
        self._counts = counts
        self._waiting: list[tuple[float, int, acceptance.Row]] = []
        self._numbers = itertools.count()

    def write(self, record: acceptance.Row, now: float) -> None:
        """Take a record in; `now` is in seconds of any clock, the same as `deliver`'s."""
        rng = self._rng
        # Most come soon, some late; one in eight comes again, and now and then in a swarm.
        copies = 1 + rng.choices((0, 1, 2, 5), (40, 4, 1, 1))[0]
        self._counts.duplicates += copies - 1
        for _ in range(copies):
            delay = rng.choices(
                (rng.uniform(0, 0.5), rng.uniform(0, 5), rng.uniform(0, LATEST_SECONDS)), (6, 3, 1)
            )[0]
            heapq.heappush(self._waiting, (now + delay, next(self._numbers), record))

    def deliver(self, now: float) -> None:
        """Send what is due."""
        due = []
        while self._waiting and self._waiting[0][0] <= now:
            due.append(heapq.heappop(self._waiting)[2])
        self._rng.shuffle(due)
        while due:
            size = self._rng.randint(1, _RECORDS_PER_MESSAGE)
            message, due = due[:size], due[size:]
            self._send(json.dumps({"Records": message}))
            self._counts.messages += 1
            self._counts.events += len(message)
        if self._rng.random() < 0.005:
            self._send(self._rng.choice(GARBAGE))
            self._counts.garbage += 1

    def __len__(self) -> int:
        return len(self._waiting)
