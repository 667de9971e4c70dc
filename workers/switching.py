"""Properties follow the active model one by one: the sweep sees to it, and `dedup model activate` at once.

Where each property stands is in the database, so whoever is stopped loses nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import structlog

from core import database, errors, matching, model_changes, models
from workers import regrouping

log = structlog.get_logger()

_PAGE_PROPERTIES = 100


@dataclasses.dataclass
class Switcher:
    """Goes through the properties that show another model than the active one, page by page, round and round.

    Those that are not ready yet (a photo is still to be matched) are passed by, and so never keep others waiting.
    """

    base: database.Database
    after: str = ""

    def page(self) -> tuple[int, int]:
        """Let the next properties follow; returns how many were looked at, and how many of them follow now.

        After the last page the next one is the first one again (`after` is empty).

        Raises:
            TransientError: the database is away.
        """
        with self.base.transaction() as connection:
            active = models.active(connection)
            found = model_changes.behind(connection, self.after, _PAGE_PROPERTIES)
        switched, started = 0, time.monotonic()
        for property_id in found:
            try:
                # A transaction a property: it locks the property, and two locks at once could deadlock.
                with self.base.transaction() as connection:
                    shown = matching.follow(connection, property_id)
            except errors.TransientError as error:
                # Somebody else's open transaction on one property must not keep the others waiting; an outage does.
                log.warning("switch_put_off", property_id=property_id, error=str(error))
                if time.monotonic() - started > regrouping.PATIENCE_SECONDS:
                    raise
            else:
                switched += active is not None and shown == active.id
        self.after = found[-1] if len(found) == _PAGE_PROPERTIES else ""
        return len(found), switched

    def round(self) -> Iterator[tuple[int, int]]:
        """Pages up to the last one, each as `page` gives it."""
        while True:
            found = self.page()
            yield found
            if not self.after:
                return

    def run(self, seconds: float, between: Callable[[], object]) -> int:
        """Pages for so many seconds, at most to the last one; returns how many properties follow now.

        The next run goes on where this one stopped. `between` is called between two pages.
        """
        deadline = time.monotonic() + seconds
        total = 0
        for _, switched in self.round():
            total += switched
            if time.monotonic() > deadline:
                break
            between()
        return total
