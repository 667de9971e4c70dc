"""The command `dedup backfill`: photos in bulk, behind live uploads."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import pathlib
from typing import TYPE_CHECKING, Annotated

import rich.console
import rich.progress
import rich.text
import typer

from core import backfills, database, listings, settings

if TYPE_CHECKING:
    from workers import backfill as runner
    from workers import sources

_console = rich.console.Console(stderr=True, highlight=False)
_output = rich.console.Console(highlight=False)
_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(backfill)


def backfill(
    missing: Annotated[bool, typer.Option("--missing", help="Photos without an embedding.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Photos parked as failed.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All photos but the failed ones: each is embedded anew.")
    ] = False,
    property_id: Annotated[
        str | None, typer.Option("--property", help="Only this property; alone: all its photos anew.")
    ] = None,
    since: Annotated[
        datetime.datetime | None,
        typer.Option(help="Only contents uploaded since (UTC); alone: all of them anew."),
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(
            help="What this bucket holds: photos whose event never came, rows whose object is gone."
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(help="With --bucket: only keys that begin with it.")] = "",
    inventory: Annotated[
        list[pathlib.Path] | None,
        typer.Option(help="With --bucket: CSV (.gz) files of its S3 inventory, instead of listing it."),
    ] = None,
    columns: Annotated[str, typer.Option(help="Columns of the inventory, as its fileSchema.")] = ",".join(
        listings.INVENTORY_COLUMNS
    ),
    model: Annotated[
        str | None,
        typer.Option(
            help="Photos that lack an embedding of this model (id or name); by default the active one."
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="At most so many photos a second.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="From the beginning, not where the same one was stopped.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON, no progress bar.")] = False,
) -> None:
    """Embed photos in bulk, behind live uploads, by the workers of `dedup worker embed --bulk`.

    Stopped by Ctrl-C or a crash, the same command goes on where it was.
    """
    from workers import backfill as runner
    from workers import sources

    chosen = [missing, failed, everything].count(True)
    if bucket and (chosen or property_id or since):
        raise typer.BadParameter("--bucket goes with --prefix and --inventory only")
    if (prefix or inventory) and not bucket:
        raise typer.BadParameter("--prefix and --inventory need --bucket")
    if model and (bucket or failed or everything):
        raise typer.BadParameter("--model goes with --missing, --property and --since only")
    if chosen > 1 or not (chosen or property_id or since or bucket or model):
        raise typer.BadParameter(
            "give one of --missing, --failed, --all, --bucket, or --model, --property or --since"
        )
    config = settings.get()
    with contextlib.closing(database.Database(config.database_url, pool_size=2, wait_seconds=10.0)) as base:
        source: sources.Source
        if bucket:
            names = [name.strip() for name in columns.split(",")]
            source = sources.bucket(config, base, bucket, prefix, inventory or [], names)
        else:
            what: backfills.What = "missing" if missing or model else "failed" if failed else "all"
            moment = since and since.replace(tzinfo=since.tzinfo or datetime.UTC)
            source = sources.recorded(base, backfills.Selection(what, property_id, moment), model)
        if dry_run:
            would = runner.estimate(source)
            _say(
                would,
                as_json,
                f"Would embed {would.total}, remove {would.removed}, skip {would.skipped} photos.",
            )
            return
        if not as_json:
            _console.print("Photos go to the workers of `dedup worker embed --bulk`; without one they wait.")
        with _bar(quiet=as_json) as progress:
            task = progress.add_task("", total=None)
            try:
                done = runner.run(
                    config,
                    base,
                    source,
                    lambda now: progress.update(task, completed=now.done, total=now.total),
                    rate=rate,
                    restart=restart,
                )
            except KeyboardInterrupt:
                progress.stop()
                _console.print("Stopped; the same command goes on here.")
                raise typer.Exit(_INTERRUPTED) from None
    gave_up = (
        f" {done.postponed} of them gave up for a fault outside them, such as an object that may not be read: see "
        "`task_gave_up` in the bulk worker's log. The sweep goes on with those that have no embedding; the others keep "
        "what they had, and the same command tries them again."
        if done.postponed
        else ""
    )
    _say(
        done,
        as_json,
        f"Done: {done.done} photos; removed: {done.removed}; keys that are no photo's: {done.skipped}.{gave_up} "
        "What failed is in `dedup dead-letters`.",
    )


class _RateColumn(rich.progress.ProgressColumn):
    """Photos a second."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        """Called by rich."""
        speed = task.finished_speed or task.speed
        return rich.text.Text("" if speed is None else f"{speed:.1f} photos/s")


def _say(progress: runner.Progress, as_json: bool, text: str) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(progress)))
    else:
        _output.print(text, markup=False, soft_wrap=True)


def _bar(*, quiet: bool) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("embedding"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        _RateColumn(),
        rich.progress.TimeRemainingColumn(),
        console=_console,
        disable=quiet,
    )
