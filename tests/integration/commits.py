"""Whether transactions wait for the disk when they commit, also where they commit before they are over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg
from psycopg import sql

from core import database

_FUNCTION = sql.SQL(
    "CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NULL; END $$"
)
_TELL = sql.SQL("RAISE NOTICE 'synchronous_commit %', current_setting('synchronous_commit');")
_REFUSE = sql.SQL("RAISE EXCEPTION 'refused';")
_TRIGGER = sql.SQL(
    "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT OR UPDATE ON {} DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION at_commit()"
)


@contextlib.contextmanager
def _at_commit(owner_url: str, work: sql.SQL) -> Iterator[None]:
    """Within, transactions that write photos or pairs do this when they commit."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(_FUNCTION.format(work))
        for table in ("photo", "pair"):
            owner.execute(_TRIGGER.format(sql.Identifier(table)))
        try:
            yield
        finally:
            owner.execute("DROP FUNCTION at_commit CASCADE")


def told(owner_url: str) -> contextlib.AbstractContextManager[None]:
    """Within, transactions that write photos or pairs tell `setting`; `owner_url`: login of the tables' owner."""
    return _at_commit(owner_url, _TELL)


def refused(owner_url: str) -> contextlib.AbstractContextManager[None]:
    """Within, no transaction that writes photos or pairs can commit."""
    return _at_commit(owner_url, _REFUSE)


def setting(base: database.Database, work: Callable[[database.Connection], object]) -> str:
    """What `synchronous_commit` was when the transaction committed that `work` wrote in."""
    found = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        found.append(str(diagnostic.message_primary))

    with contextlib.ExitStack() as after, base.transaction() as connection:
        connection.add_notice_handler(note)
        # It is told at the commit.
        after.callback(connection.remove_notice_handler, note)
        work(connection)
    (message,) = set(found)
    return message.removeprefix("synchronous_commit ")
