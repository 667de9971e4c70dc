"""The commands on one property: `dedup verdict`, `dedup remove-property`; and `dedup reassign` over all of them."""

from __future__ import annotations

import contextlib
import enum
import getpass
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import rich.console
import typer

from core import errors, settings

if TYPE_CHECKING:
    from core import database

_output = rich.console.Console(highlight=False)
_PAGE = 1000

PropertyArgument = Annotated[str, typer.Argument(metavar="PROPERTY")]


class Word(enum.Enum):
    """What a person says of two photos."""

    DUPLICATE = "duplicate"
    DIFFERENT = "different"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(verdict)
    app.command()(remove_property)
    app.command()(reassign)


def verdict(
    property_id: PropertyArgument,
    a: Annotated[str, typer.Argument(help="Object key; s3://BUCKET/KEY where several buckets hold it.")],
    b: Annotated[str, typer.Argument(help="The other photo's.")],
    word: Annotated[Word, typer.Argument(metavar="duplicate|different")],
    by: Annotated[str | None, typer.Option(help="Who decided; default: the login's name.")] = None,
) -> None:
    """Record a person's word on two photos; the flags follow at once and keep to it."""
    from core import verdicts

    (bucket_a, key_a), (bucket_b, key_b) = _place(a), _place(b)
    with _database() as base, base.transaction() as connection:
        verdicts.record(
            connection,
            property_id,
            key_a,
            key_b,
            word is Word.DUPLICATE,
            by or _login(),
            bucket_a=bucket_a,
            bucket_b=bucket_b,
        )
    _say(f"Property {property_id}: {a} and {b} are {word.value}{'s' if word is Word.DUPLICATE else ''}.")


def remove_property(property_id: PropertyArgument) -> None:
    """Take a property that left the portal out: its photos, their flags; the feed tells it. Objects stay."""
    from core import properties

    with _database() as base, base.transaction() as connection:
        count = properties.remove(connection, property_id)
    _say(f"Property {property_id}: {count} photos removed.")


def reassign() -> None:
    """After a change of DEDUP_KEY_PATTERN: move every photo on record to the property that it belongs to now."""
    from core import events, photos, properties
    from workers.app import publish_embed

    config = settings.get()
    pattern = events.key_pattern(config.key_pattern, config.buckets)
    moved = unassigned = 0
    last: tuple[str, int] | None = ("", 0)
    with _database() as base:
        while last is not None:
            with base.transaction() as connection:
                page = properties.moved(connection, pattern, last, _PAGE)
            for event in page.moved:
                with base.transaction() as connection:
                    applied = photos.apply_event(connection, event)
                if applied.outcome is photos.Outcome.PENDING:
                    publish_embed(applied.photo)
            last = page.last
            moved += len(page.moved)
            unassigned += page.unassigned
    _say(f"{moved} photos moved to another property.")
    if unassigned:
        _say(
            f"{unassigned} photos belong to no property by DEDUP_KEY_PATTERN and DEDUP_BUCKETS; they stay where they "
            "are. Take them out with `dedup remove-property`."
        )


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError) as error:
        # In a container the account often has a number only.
        raise errors.ConfigurationError(
            "This account has no name; say who decided with --by NAME."
        ) from error


def _place(text: str) -> tuple[str | None, str]:
    found = re.fullmatch(r"s3://([^/]+)/(.+)", text, re.DOTALL)
    return (found[1], found[2]) if found else (None, text)


@contextlib.contextmanager
def _database() -> Iterator[database.Database]:
    from core import database

    with contextlib.closing(
        database.Database(settings.get().database_url, pool_size=1, wait_seconds=10.0)
    ) as base:
        yield base


def _say(text: str) -> None:
    _output.print(text, markup=False, soft_wrap=True)
