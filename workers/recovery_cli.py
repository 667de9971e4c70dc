"""The commands `dedup dead-letters`, `dedup replay` and `dedup rejected`: what was given up, and putting it back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import rich.console
import rich.table
import rich.text
import typer

from core import database, failures, photos, rejections, settings

_console = rich.console.Console(stderr=True, highlight=False)
_output = rich.console.Console(highlight=False)
_CHUNK = 500
_TIME = "%Y-%m-%d %H:%M"

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, nothing else.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Only those with this reason.")]
PropertyOption = Annotated[str | None, typer.Option("--property", help="Only photos of this property.")]
LimitOption = Annotated[int, typer.Option(min=1, help="List at most so many, the newest first.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("dead-letters")(dead_letters)
    app.command()(replay)
    app.command()(rejected)


def dead_letters(
    reason: ReasonOption = None,
    property_id: PropertyOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Photos parked as failed, with their reason, tasks and events that the broker gave up on; exit code 1: none."""
    from workers import dead_letters as broker
    from workers import event_queue

    choice = failures.Choice(reason, property_id)
    config = settings.get()
    with _database() as base, base.transaction() as connection:
        counts = failures.count(connection, choice)
        found = failures.find(connection, choice, limit)
    # The broker's letters have no reason of the photo's own.
    narrowed = bool(reason or property_id)
    letters = [] if narrowed else broker.look(config, limit)
    lost_events = 0 if narrowed else event_queue.count_dead_letters(config) or 0
    events_lie = event_queue.dead_letters(config).name
    if as_json:
        _print_json([{"kind": "photo", **dataclasses.asdict(item)} for item in found])
        _print_json([{"kind": "task", **dataclasses.asdict(item)} for item in letters])
        if lost_events:
            _print_json([{"kind": "events", "queue": events_lie, "messages": lost_events}])
    else:
        if found:
            _table(
                ("photo", "reason", "message", "attempts", "since"),
                [
                    (
                        item.key,
                        item.reason,
                        item.message or "",
                        str(item.attempts),
                        f"{item.failed_at:{_TIME}}",
                    )
                    for item in found
                ],
            )
            by_reason = ", ".join(f"{count} {name}" for name, count in counts.items())
            _output.print(f"{sum(counts.values())} photos failed: {by_reason}.", markup=False, soft_wrap=True)
        if letters:
            _table(
                ("task in the dead-letter queue", "of queue", "arguments"),
                [(item.task, item.queue, json.dumps(item.arguments)) for item in letters],
            )
        if lost_events:
            _output.print(
                f"{lost_events} messages with events lie in the queue {events_lie}: given back too often, never "
                "applied. Move them back, or `dedup backfill --bucket BUCKET` (docs/operations.md).",
                markup=False,
                soft_wrap=True,
            )
    if not found and not letters and not lost_events:
        _console.print("Nothing failed.")
        raise typer.Exit(1)


def replay(
    everything: Annotated[
        bool, typer.Option("--all", help="All photos, and the broker's dead letters.")
    ] = False,
    reason: ReasonOption = None,
    property_id: PropertyOption = None,
    tasks: Annotated[bool, typer.Option("--tasks", help="The broker's dead letters only.")] = False,
) -> None:
    """Put failed photos back, as if never tried; exit code 1 when there are none.

    They go behind live uploads, to the workers of backfills (`dedup worker embed --bulk`).
    """
    from workers import dead_letters as broker
    from workers.app import EMBED_BULK, publish_embed

    if [everything, tasks, bool(reason or property_id)].count(True) != 1:
        raise typer.BadParameter("give one of --all, --tasks, or --reason and/or --property")
    choice = failures.Choice(reason, property_id)
    count, last = 0, None
    if not tasks:
        with _database() as base:
            while chunk := _put_back(base, choice, last):
                for photo in chunk:
                    publish_embed(photo, EMBED_BULK)
                count, last = count + len(chunk), chunk[-1]
    letters = broker.replay(settings.get(), limit=100_000) if everything or tasks else 0
    _output.print(f"Put back: {count} photos, {letters} tasks of the dead-letter queue.")
    if count:
        _output.print(f"The photos wait in {EMBED_BULK} for a `dedup worker embed --bulk`.", markup=False)
    if not count and not letters:
        raise typer.Exit(1)


def rejected(
    event_id: Annotated[int | None, typer.Argument(metavar="ID", help="Show this one with its body.")] = None,
    reason: ReasonOption = None,
    limit: LimitOption = 50,
    again: Annotated[
        bool, typer.Option("--replay", help="Read them again: this one, those of --reason, or all.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Events that were not understood. What can be read now is applied and forgotten; exit code 1: some cannot."""
    with _database() as base:
        if again:
            _replay_events(base, event_id, reason)
            return
        with base.transaction() as connection:
            if event_id is not None:
                shown = dataclasses.asdict(rejections.read(connection, event_id))
                found: list[database.Row] = [shown]
            else:
                found = rejections.find(connection, reason, limit)
    if as_json:
        _print_json(found)
    elif event_id is not None:
        for name, value in shown.items():
            _output.print(f"{name:12} {value}", markup=False, soft_wrap=True)
    elif found:
        _table(
            ("id", "received", "reason", "message"),
            [
                (str(row["id"]), f"{row['received_at']:{_TIME}}", row["reason"], row["message"])
                for row in found
            ],
        )
    if not found:
        _console.print("No event was rejected.")
        raise typer.Exit(1)


def _replay_events(base: database.Database, event_id: int | None, reason: str | None) -> None:
    from workers import ingest

    config = settings.get()
    taker = ingest.Ingest(config, base)
    applied = kept = 0
    with base.transaction() as connection:
        chosen = rejections.ids(connection, reason) if event_id is None else [event_id]
    for number in chosen:
        with base.transaction() as connection:
            body = rejections.read(connection, number).body
        problems = taker.take(body)
        if problems:
            kept += 1
            _console.print(
                f"{number}: {problems[0].reason}: {problems[0].message}", markup=False, soft_wrap=True
            )
            continue
        with base.transaction() as connection:
            rejections.drop(connection, number)
        applied += 1
    _output.print(f"Applied: {applied}; still not understood: {kept}.")
    if kept or not chosen:
        raise typer.Exit(1)


def _put_back(
    base: database.Database, choice: failures.Choice, last: photos.Revision | None
) -> list[photos.Revision]:
    with base.transaction() as connection:
        return failures.put_back(connection, choice, last, _CHUNK)


@contextlib.contextmanager
def _database() -> Iterator[database.Database]:
    base = database.Database(settings.get().database_url, pool_size=1, wait_seconds=10.0)
    with contextlib.closing(base):
        yield base


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = rich.table.Table(*columns)
    # Cut short, rows could not be told apart.
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        # Texts of others: no markup of theirs is to be read as ours.
        table.add_row(*(rich.text.Text(cell) for cell in row))
    _output.print(table)


def _print_json(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(json.dumps(row, default=str, ensure_ascii=False))
