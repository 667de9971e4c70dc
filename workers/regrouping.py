"""What makes a verdict of the listing system take effect: its property's groups are formed anew, soon after it.

The verdict waits in its own row, so nothing can be lost: a notification wakes the sweep at once, and where that is
missed the next sweep finds the row.
"""

from __future__ import annotations

import time

import structlog

from core import database, errors, notifications, verdicts
from workers import metrics

log = structlog.get_logger()

_LIMIT = 1000

PATIENCE_SECONDS = 120.0
"""For properties that are put off, all together; then it is the database and not one of them."""


def apply_waiting(base: database.Database) -> int:
    """Let the flags follow the verdicts that wait; returns in how many properties they do now.

    Raises:
        TransientError: the database is away.
    """
    with base.transaction() as connection:
        properties = verdicts.waiting(connection, _LIMIT)
    applied, started = 0, time.monotonic()
    for property_id in properties:
        try:
            # A transaction a property: it locks the property, and two locks at once could deadlock.
            with base.transaction() as connection:
                verdicts.apply(connection, property_id)
        except errors.TransientError as error:
            # Somebody else's open transaction on one property must not keep the others waiting; an outage does.
            log.warning("verdicts_put_off", property_id=property_id, error=str(error))
            if time.monotonic() - started > PATIENCE_SECONDS:
                raise
        else:
            applied += 1
            metrics.VERDICTS_APPLIED.inc()
    if applied:
        log.info("verdicts_applied", properties=applied)
    return applied


def attend(base: database.Database, listener: notifications.Listener, seconds: float) -> None:
    """Spend the time between two sweeps applying verdicts as they come."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if listener.wait(left):
            try:
                apply_waiting(base)
            except errors.TransientError as error:
                log.warning("verdicts_put_off", error=str(error))
