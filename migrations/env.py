"""Runs migrations with short locks, bounded statements, and one migrator at a time.

After pypi/warehouse's migrations/env.py.
"""

from __future__ import annotations

import sqlalchemy
from alembic import context

from core import settings

_LOCK = 0x6C64_6465_6475_7000  # any constant of our own: "lddedup"


def _url(database_url: str) -> str:
    return "postgresql+psycopg://" + database_url.partition("://")[2]


def run() -> None:
    """Apply migrations to the owner's database.

    A session lock rather than a transaction lock, since each migration commits on its own.
    """
    config = settings.get()
    url = context.config.attributes.get("database_url") or config.owner_database_url
    engine = sqlalchemy.create_engine(_url(url), poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        connection.execute(sqlalchemy.text(f"SET lock_timeout = '{config.migration_lock_timeout_seconds}s'"))
        connection.execute(
            sqlalchemy.text(f"SET statement_timeout = '{config.migration_statement_timeout_seconds}s'")
        )
        connection.commit()
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
