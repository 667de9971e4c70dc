"""Bringing a database's tables to this version, by the migrations that come with the package."""

from __future__ import annotations

import importlib.resources

import alembic.command
import alembic.config
import alembic.script
import sqlalchemy.exc

from core import database, errors


def upgrade(database_url: str, revision: str = "head") -> None:
    """Apply migrations; a database that is up to date is left alone.

    Raises:
        TransientError: the database is away, or live traffic held a lock too long.
        ConfigurationError: a migration was refused (rights, missing extension).
    """
    _run(alembic.command.upgrade, database_url, revision)


def downgrade(database_url: str, revision: str) -> None:
    """Take migrations back to `revision`, or all with ``base``. Raises as `upgrade` does."""
    _run(alembic.command.downgrade, database_url, revision)


def head() -> str | None:
    """The newest revision of this version."""
    return alembic.script.ScriptDirectory.from_config(_config()).get_current_head()


def current(database_url: str) -> str | None:
    """The revision that a database is at; None before its first migration.

    Raises:
        TransientError: the database is away.
    """
    row = database.ask(database_url, b"SELECT to_regclass('alembic_version') IS NOT NULL AS there")
    if not row or not row["there"]:
        return None
    row = database.ask(database_url, b"SELECT version_num FROM alembic_version")
    return row["version_num"] if row else None


def _config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(importlib.resources.files("migrations")))
    return config


def _run(command: object, database_url: str, revision: str) -> None:
    config = _config()
    config.attributes["database_url"] = database_url
    try:
        command(config, revision)  # type: ignore[operator]
    except sqlalchemy.exc.OperationalError as error:
        raise errors.TransientError(f"Migration: {error.orig}") from error
    except sqlalchemy.exc.DBAPIError as error:
        raise errors.ConfigurationError(
            f"Migration: {error.orig}. It needs a login that may create tables, roles and the extension "
            "`vector`: set DEDUP_MIGRATION_DATABASE_URL."
        ) from error
