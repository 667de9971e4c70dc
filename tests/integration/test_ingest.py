"""What ingest does with an event that cannot be applied: is the event to blame, or what it is to be written to?"""

from __future__ import annotations

import json

import psycopg
import pytest

from core import database, events, photos, settings
from tests.integration import conftest, ledger
from workers import health, ingest

DATABASE = "test_ingest"
CONFIG = settings.Settings(events_url="memory://", buckets=("photos",))


class Message:
    """An event in hand; its second attempt finds the login's right given back."""

    acknowledged = False

    def __init__(self, event: events.Event, owner: str) -> None:
        self._event = event
        self._owner = owner
        self.attempts = 0

    @property
    def body(self) -> bytes:
        """What the store says."""
        self.attempts += 1
        if self.attempts == 2:
            execute(self._owner, "GRANT INSERT ON photo TO dedup_worker")
        return json.dumps(events.record(self._event)).encode()

    def ack(self) -> None:
        """Called when it is applied."""
        self.acknowledged = True


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[photos.Revision]:
    published: list[photos.Revision] = []
    monkeypatch.setattr(ingest, "publish_embed", published.append)
    monkeypatch.setattr(ingest, "_FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(health, "process", health.Monitor())
    return published


def test_an_event_is_held_while_the_login_lacks_a_right(
    server: conftest.Server, base: database.Database, published: list[photos.Revision]
) -> None:
    owner = server.url(DATABASE)
    execute(owner, "REVOKE INSERT ON photo FROM dedup_worker")
    message = Message(ledger.event(ledger.new_property(), "a"), owner)
    ingest.Ingest(CONFIG, base).on_message(message)
    assert (message.acknowledged, message.attempts, len(published)) == (True, 2, 1)
    assert ledger.rows(base, "SELECT reason FROM rejected_event") == []


def test_an_event_that_cannot_be_stored_is_rejected(
    server: conftest.Server, base: database.Database, published: list[photos.Revision]
) -> None:
    execute(
        server.url(DATABASE), "ALTER TABLE photo ADD CONSTRAINT short CHECK (length(key) < 100) NOT VALID"
    )
    message = Message(ledger.event(ledger.new_property(), "a" * 100), "")
    ingest.Ingest(CONFIG, base).on_message(message)
    assert (message.acknowledged, message.attempts, published) == (True, 1, [])
    (rejected,) = ledger.rows(base, "SELECT reason, message FROM rejected_event")
    assert rejected["reason"] == "error"
    assert "short" in rejected["message"]
