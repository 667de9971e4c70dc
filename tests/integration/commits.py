"""Whether transactions wait for the disk when they commit, also where they commit before they are over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg
from psycopg import sql

from core import database

_FUNCTION = """
CREATE FUNCTION tell_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'synchronous_commit %', current_setting('synchronous_commit');
    RETURN NULL;
END $$
"""
_TRIGGER = sql.SQL(
    "CREATE CONSTRAINT TRIGGER tell_commit AFTER INSERT OR UPDATE ON {} DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION tell_commit()"
)


@contextlib.contextmanager
def told(owner_url: str) -> Iterator[None]:
    """Within, transactions that write photos or pairs say so; `owner_url`: login of the tables' owner."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(_FUNCTION)
        for table in ("photo", "pair"):
            owner.execute(_TRIGGER.format(sql.Identifier(table)))
        try:
            yield
        finally:
            owner.execute("DROP FUNCTION tell_commit CASCADE")


def setting(base: database.Database, work: Callable[[database.Connection], object]) -> str:
    """What `synchronous_commit` was when the transaction committed that `work` wrote in."""
    found = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        found.append(str(diagnostic.message_primary))

    with base.transaction() as connection:
        connection.add_notice_handler(note)
        work(connection)
    connection.remove_notice_handler(note)
    (message,) = set(found)
    return message.removeprefix("synchronous_commit ")
