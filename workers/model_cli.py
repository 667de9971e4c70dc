"""The commands `dedup model …`: changing the model bundle without a gap."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import rich.console
import rich.progress
import rich.table
import rich.text
import typer

from core import backfills, database, errors, model_changes, model_comparison, models, settings

if TYPE_CHECKING:
    from workers import sources

_console = rich.console.Console(stderr=True, highlight=False)
_output = rich.console.Console(highlight=False)
_INTERRUPTED = 130
_PURGE_PHOTOS = 1000
_KINDS: dict[model_comparison.Kind, str] = {
    "comes": "would come",
    "goes": "would go",
    "moves": "would point at another canonical photo",
}

JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Its id, or its name.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(no_args_is_help=True, help="Model bundles: list, add, compare, activate, retire.")
    group.command("list")(show)
    group.command()(add)
    group.command()(compare)
    group.command()(activate)
    group.command()(retire)
    app.add_typer(group, name="model")


def show(as_json: JsonOption = False) -> None:
    """The models of the database, and how far each one is; exit code 1 when there are none."""
    with _database() as base, base.transaction() as connection:
        standings = [models.standing(connection, model) for model in models.every(connection)]
    if as_json:
        for item in standings:
            print(json.dumps(_row(item)))
    elif standings:
        table = rich.table.Table()
        for column in ("id", "name", "status", "dims", "photos embedded", "missing", "properties shown"):
            # Whole, in a narrow terminal too: they are to be copied.
            table.add_column(column, overflow="fold")
        for item in standings:
            counts = (item.model.dims, item.embedded, item.missing, item.properties)
            words = (item.model.id, item.model.name, item.model.status, *(str(count) for count in counts))
            table.add_row(*(rich.text.Text(word) for word in words))
        _output.print(table)
    if not standings:
        _console.print("No model yet; the first embed worker brings its own.")
        raise typer.Exit(1)


def add(
    name: Annotated[str, typer.Argument(metavar="BUNDLE", help="Its folder, or the name of a shipped one.")],
    as_json: JsonOption = False,
) -> None:
    """Put a bundle on record as a candidate: new uploads are embedded by it, too. A retired one comes back."""
    from core import bundle

    chosen = bundle.find(name)
    with _database() as base, base.transaction() as connection:
        model = models.add(connection, chosen)
        first = models.active(connection) is None
    if as_json:
        print(json.dumps(dataclasses.asdict(model)))
        return
    _say(f"Model {model.name} ({model.id}) is {model.status}.")
    if first:
        _say("The database has no active model yet; the first embed worker brings one.")
    elif model.status == "candidate":
        _say(
            f"It needs backbone weights {model.weights_name} (SHA-256 {model.weights_sha256[:16]}…) in the embed "
            f"workers' DEDUP_BACKBONE_WEIGHTS. Next: dedup backfill --model {model.id}"
        )


def compare(
    old: ModelArgument,
    new: ModelArgument,
    samples: Annotated[int, typer.Option(min=0, help="Show at most so many changes of each kind.")] = 5,
    property_id: Annotated[str | None, typer.Option("--property", help="Only this property.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Which flags would come, go or move with NEW instead of OLD, by what is on record of both."""
    counts: dict[model_comparison.Kind, int] = dict.fromkeys(_KINDS, 0)
    shown: dict[model_comparison.Kind, list[model_comparison.Change]] = collections.defaultdict(list)
    properties = touched = same = lacking = 0
    with _database() as base:
        with base.transaction() as connection:
            before, behind = models.find(connection, old), models.find(connection, new)
        for page in model_comparison.pages(base, before, behind, property_id):
            properties += page.properties
            same += page.same
            lacking += page.lacking
            touched += len({change.property_id for change in page.changes})
            for change in page.changes:
                counts[change.kind] += 1
                if len(shown[change.kind]) < samples:
                    shown[change.kind].append(change)
    chosen = [change for kind in _KINDS for change in shown[kind]]
    if as_json:
        result = {
            "comes": counts["comes"],
            "goes": counts["goes"],
            "moves": counts["moves"],
            "same": same,
            "properties": properties,
            "properties_touched": touched,
            "photos_lacking": lacking,
            "samples": [dataclasses.asdict(change) for change in chosen],
        }
        print(json.dumps(result, ensure_ascii=False))
        return
    _say(f"{before.name} ({before.id}) → {behind.name} ({behind.id}), {properties} properties:")
    if lacking:
        _say(
            f"{lacking} photos lack an embedding of one of the two: flags of theirs seem to come or go that may not. "
            f"`dedup backfill --model {behind.name}` fills in what the new one lacks."
        )
    for kind, words in _KINDS.items():
        _say(f"{counts[kind]:8} flags {words}")
    _say(f"{same:8} flags would stay")
    _say(f"{touched:8} properties would change")
    for change in chosen:
        _say(f"  {_sentence(change)}")


def activate(
    name: ModelArgument,
    park_missing: Annotated[
        bool,
        typer.Option(
            "--park-missing",
            help="Photos that lack it are parked as failed (reason lacks_model), once a backfill tried them.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a candidate the active model; properties follow one by one. The one before stays a candidate.

    Stopped by Ctrl-C or a crash, the same command goes on, and so does `dedup sweep`. Going back is
    `dedup model activate` of the one before.
    """
    from workers import logs, switching

    # To stderr: which property is locked by somebody, and put off.
    logs.configure("warning", "model")
    with _database() as base:
        with base.transaction() as connection:
            model = models.find(connection, name)
        parked = _park(base, model) if park_missing else 0
        with base.transaction() as connection:
            model_changes.activate(connection, model)
        with base.transaction() as connection:
            total = model_changes.count_behind(connection)
        switched = 0
        with _bar("properties", quiet=as_json) as progress:
            task = progress.add_task("", total=total)
            try:
                # Again from the first one as long as that gets any of them on: photos are matched meanwhile.
                before = -1
                while before != switched:
                    before = switched
                    for _, count in switching.Switcher(base).round():
                        switched += count
                        progress.update(task, completed=switched)
            except KeyboardInterrupt:
                progress.stop()
                _console.print("Stopped; the model is active, and `dedup sweep` or the same command goes on.")
                raise typer.Exit(_INTERRUPTED) from None
        with base.transaction() as connection:
            waiting = model_changes.count_behind(connection)
    if as_json:
        print(json.dumps({"model": model.id, "switched": switched, "waiting": waiting, "parked": parked}))
        return
    _say(f"Model {model.name} ({model.id}) is active; {switched} properties follow it now.")
    if parked:
        _say(f"{parked} photos that lack it are parked as failed: `dedup dead-letters --reason lacks_model`.")
    if waiting:
        _say(
            f"{waiting} properties wait until their photos are embedded and matched by it. `dedup sweep` sees to those "
            f"whose photos are embedded; for the others run `dedup backfill --model {model.id}`, and if photos cannot "
            f"be embedded by it, `dedup model activate {model.id} --park-missing` then."
        )


def retire(name: ModelArgument, as_json: JsonOption = False) -> None:
    """Take a model out of use and delete its embeddings and pairs. Stopped, the same command goes on."""
    deleted = {"embeddings": 0, "pairs": 0}
    with _database() as base:
        with base.transaction() as connection:
            model = models.find(connection, name)
            model_changes.retire(connection, model)
            backfills.forget_finished(connection, _missing(base, model).name)
        with _bar("rows deleted", quiet=as_json) as progress:
            task = progress.add_task("", total=None)
            try:
                for what in ("embeddings", "pairs"):
                    for count in _purge(base, model.id, what):
                        deleted[what] += count
                        progress.update(task, completed=sum(deleted.values()))
            except KeyboardInterrupt:
                progress.stop()
                _console.print("Stopped; the model is retired, and the same command deletes the rest.")
                raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        print(json.dumps({"model": model.id, **deleted}))
        return
    _say(
        f"Model {model.name} ({model.id}) is retired; {deleted['embeddings']} embeddings and {deleted['pairs']} pairs "
        "deleted. Autovacuum makes their room free for new rows; VACUUM FULL photo_embedding, pair gives it back to "
        "the disk, and locks these tables meanwhile."
    )


def _park(base: database.Database, model: models.Model) -> int:
    """Also of the active model: a photo that was stored without it in the last moment holds its property up, too."""
    from core import photos

    if model.status == "retired":
        return 0
    source = _missing(base, model)
    with base.transaction() as connection:
        tried_until = backfills.finished(connection, source.name)
    if tried_until is None:
        raise errors.ConfigurationError(
            f"--park-missing: no backfill of model {model.name} ({model.id}) was finished, so nobody tried to embed "
            f"the photos that lack it. Run `dedup backfill --model {model.id}` first."
        )
    parked = 0
    for page in source.pages("", _PURGE_PHOTOS, dry=True):
        for photo in page.photos:
            with base.transaction() as connection:
                parked += photos.park_lacking(connection, photo, model.id, tried_until)
    return parked


def _missing(base: database.Database, model: models.Model) -> sources.Recorded:
    """What `dedup backfill --model` fills in."""
    from workers import sources

    return sources.Recorded(base, backfills.Selection("missing"), model.id)


def _purge(base: database.Database, model_id: str, what: Literal["embeddings", "pairs"]) -> Iterator[int]:
    after: tuple[str, int] | None = ("", 0)
    while after is not None:
        with base.transaction() as connection:
            count, after = model_changes.purge(connection, model_id, what, after, _PURGE_PHOTOS)
        yield count


def _row(item: models.Standing) -> dict[str, object]:
    counts = {"embedded": item.embedded, "missing": item.missing, "properties": item.properties}
    return {**dataclasses.asdict(item.model), **counts}


def _sentence(change: model_comparison.Change) -> str:
    sides = [
        f"{label} {key} ({score:.2f})"
        for label, key, score in (
            ("by OLD of", change.old_duplicate_of, change.old_score),
            ("by NEW of", change.new_duplicate_of, change.new_score),
        )
        if key is not None and score is not None
    ]
    return f"{change.property_id}: {change.key} {change.kind}: duplicate {', '.join(sides)}"


def _bar(label: str, *, quiet: bool) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn(label),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=_console,
        disable=quiet,
    )


def _say(text: str) -> None:
    _output.print(text, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _database() -> Iterator[database.Database]:
    with contextlib.closing(
        database.Database(settings.get().database_url, pool_size=1, wait_seconds=10.0)
    ) as base:
        yield base
