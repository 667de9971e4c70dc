"""The sweep: photos that wait longer than they should are published again.

The database is the truth and the queues only carry it, so a lost message costs a delay and never a photo.
Between two sweeps it applies the verdicts that the listing system records. After a change of the active model it lets
the properties follow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Iterator

import structlog

from core import database, errors, notifications, photos, settings, verdicts
from workers import collectors, health, logs, metrics, probes, regrouping, stopping, switching, traces
from workers.app import publish_embed, publish_match

log = structlog.get_logger()

_SWITCH_SECONDS = 10.0
"""Of one sweep for properties that follow a change of the model; verdicts are applied in between."""


def run(config: settings.Settings, every_seconds: float | None) -> None:
    """Sweep once, or again every so many seconds until the process is told to stop.

    Raises:
        TransientError: the database or the broker is away, when sweeping once.
    """
    base = database.Database(
        config.database_url, pool_size=1, statement_seconds=config.database_timeout_seconds
    )
    with contextlib.closing(base):
        switcher = switching.Switcher(base)
        if every_seconds is None:
            published = sweep(config, base, switcher)
            log.info("swept", published=published, overdue_after_seconds=config.sweep_after_seconds)
            return
        parts = {"database": probes.of_database(config), "broker": probes.of_broker(config)}
        health.serve(config, parts, collectors.endpoints(config, "sweep", shared=True))
        health.process.ready()
        stopping.process.on_signals(config.stop_seconds)
        with notifications.Listener(config.database_url, verdicts.CHANNEL) as listener:
            while True:
                try:
                    with stopping.process.in_hand(), health.process.working("sweep"):
                        sweep(config, base, switcher)
                except errors.TransientError as error:
                    metrics.SWEEPS.labels("put_off").inc()
                    log.warning("sweep_put_off", error=str(error))
                    health.process.away("sweep", f"no round succeeded since; {error}")
                else:
                    metrics.SWEEPS.labels("done").inc()
                    health.process.back("sweep")
                if stopping.process.told:
                    return
                health.process.turned("sweep", every_seconds)
                regrouping.attend(base, listener, every_seconds)


def sweep(config: settings.Settings, base: database.Database, switcher: switching.Switcher) -> int:
    """One sweep; returns how many photos were published again."""
    # First: neither verdicts nor properties that somebody has locked may keep what is overdue.
    with base.transaction() as connection:
        embed, match = photos.overdue(connection, config.sweep_after_seconds, config.sweep_limit)
    for item in embed:
        with _told(item.photo):
            publish_embed(item.photo, postponed=item.postponed)
            metrics.SWEPT.labels("embed").inc()
    for item in match:
        with _told(item.photo):
            publish_match(item.photo.property_id, item.photo.photo_id, postponed=item.postponed)
            metrics.SWEPT.labels("match").inc()
    if embed or match:
        log.warning("overdue_published_again", embed=len(embed), match=len(match))
    regrouping.apply_waiting(base)
    switched = switcher.run(_SWITCH_SECONDS, between=lambda: regrouping.apply_waiting(base))
    if switched:
        log.info("properties_switched", properties=switched)
    return len(embed) + len(match)


@contextlib.contextmanager
def _told(photo: photos.Revision) -> Iterator[None]:
    ids = {"correlation_id": str(uuid.uuid4()), **dataclasses.asdict(photo)}
    with logs.bound(**ids), traces.span("sweep", **ids):
        yield
        log.info("photo_published_again")
