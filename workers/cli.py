"""The command `dedup`.

Exit codes: 0 done; 1 a check failed or nothing was found; 2 wrong usage; 75 something is away, try again
later; 78 a setting, file or service is not as it must be; 130 and 143 stopped by Ctrl-C or SIGTERM before it was done.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import rich.console
import rich.progress
import typer

from core import errors, settings
from workers import (
    backfill_cli,
    health_cli,
    learning_cli,
    logs,
    model_cli,
    processes,
    property_cli,
    recovery_cli,
    setup_cli,
    training_cli,
)

if TYPE_CHECKING:
    from workers import embedded

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Finds duplicate photos of a property: overlays, other angles, redrawn floor plans.",
)
worker = typer.Typer(no_args_is_help=True, help="Run a worker until it is told to stop.")
app.add_typer(worker, name="worker")
learning_cli.register(app)
training_cli.register(app)
property_cli.register(app)
recovery_cli.register(app)
backfill_cli.register(app)
model_cli.register(app)
health_cli.register(app)
setup_cli.register(app)

_console = rich.console.Console(stderr=True, highlight=False)
_output = rich.console.Console(highlight=False)
_UNTRAINED_NOTE = (
    "Running on UNTRAINED weights: no trained backbone could be had, so this shows the way of a photo and not the "
    "quality. For that, let this machine reach torchvision's download once, or set "
    "DEDUP_BACKBONE_WEIGHTS=/path/to/resnet50 weights (.pth or .safetensors)."
)

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, nothing else.")]


@app.command()
def demo(
    photos: Annotated[
        pathlib.Path | None,
        typer.Option(help="Your own photos, a sub-folder a property; default: drawn ones."),
    ] = None,
    properties: Annotated[int, typer.Option(min=1, max=500, help="How many properties to draw.")] = 3,
) -> None:
    """The whole way of a photo on the embedded stack: upload, event, embedding, match, flags."""
    from workers import scan

    _stop_on_sigterm()
    model = scan.choose_model(fall_back=True)
    if model.untrained:
        _output.print(_UNTRAINED_NOTE, style="yellow", soft_wrap=True)
    drawn = settings.get().data_dir / "demo" / "photos"
    # Untrained weights see pixels and not rooms: what they are shown differs less.
    folder = photos or scan.draw(drawn, properties, 0.3 if model.untrained else 1.0, _progress)
    _console.print("Starting the embedded stack: Postgres, S3, queue, workers …")
    result = scan.run(folder, "demo", model, _progress)
    scan.show(result, _output, title=f"Duplicates in {folder}")
    scan.show_sql(_output)
    if not photos:
        scan.show_truth(result, folder, _output)
    if model.untrained:
        _output.print(_UNTRAINED_NOTE, style="yellow", soft_wrap=True)


@app.command("scan")
def scan_folder(
    folder: Annotated[pathlib.Path, typer.Argument(help="A sub-folder is a property.")],
    as_json: JsonOption = False,
) -> None:
    """Find the duplicates in a folder of photos, on the embedded stack."""
    from workers import report, scan

    _stop_on_sigterm()
    model = scan.choose_model(fall_back=False)
    if model.untrained:
        _console.print(_UNTRAINED_NOTE, style="yellow", soft_wrap=True)
    result = scan.run(folder, "scan", model, _progress)
    if as_json:
        for flag in result.flags:
            print(json.dumps(dataclasses.asdict(flag), ensure_ascii=False))
        report.failed(_console, result.failures)
        return
    scan.show(result, _output, title=f"Duplicates in {folder}")


@app.command()
def up() -> None:
    """Run the embedded stack until Ctrl-C."""
    from workers import embedded, scan

    model = scan.choose_model(fall_back=False)
    place = settings.get().data_dir / "up"
    with embedded.Stack(place, {"DEDUP_BACKBONE_WEIGHTS": model.weights}) as stack:
        stack.start_worker("bulk", "bulk")
        stack.write_environment(place / "environment")
        _output.print(_addresses(stack), soft_wrap=True, markup=False)
        if model.untrained:
            _output.print(_UNTRAINED_NOTE, style="yellow", soft_wrap=True)
        stack.run_until_interrupted()


@app.command()
def migrate(revision: Annotated[str, typer.Argument(help="Alembic revision.")] = "head") -> None:
    """Bring the database's tables to this version."""
    from core import schema

    schema.upgrade(settings.get().owner_database_url, revision)


@app.command()
def ingest() -> None:
    """Take the store's events until told to stop."""
    from workers import ingest as ingest_worker
    from workers import traces

    config = settings.get()
    _begin(config, "ingest")
    try:
        ingest_worker.run(config)
    finally:
        traces.stop()


@app.command()
def sweep(
    every: Annotated[
        float | None, typer.Option(min=1, help="Seconds between sweeps; default: sweep once and end.")
    ] = None,
) -> None:
    """Publish photos again that wait longer than they should: a lost message costs a delay, never a photo."""
    from workers import sweep as sweeper
    from workers import traces

    config = settings.get()
    _begin(config, "sweep")
    try:
        sweeper.run(config, every)
    finally:
        traces.stop()


@worker.command("embed")
def worker_embed(
    bulk: Annotated[
        bool,
        typer.Option("--bulk", help="Work on backfills and replays, at low priority; not on live uploads."),
    ] = False,
) -> None:
    """Embed photos (GPU where there is one)."""
    if bulk:
        # Before torch is imported: its threads inherit it.
        os.nice(processes.BULK_NICENESS)
    config = settings.get()
    _begin(config, "bulk" if bulk else "embed")
    _begin_worker(config, "bulk" if bulk else "embed", store=True)
    from workers import embed
    from workers.app import EMBED, EMBED_BULK

    prepared = embed.prepare(config, bulk=bulk)
    if bulk:
        _celery(EMBED_BULK, embed.bulk_tasks(prepared.in_flight))
    else:
        _celery(EMBED, prepared.in_flight)


@worker.command("match")
def worker_match() -> None:
    """Match photos within their property (CPU)."""
    from workers import match
    from workers.app import MATCH, MATCH_BULK

    config = settings.get()
    _begin(config, "match")
    _begin_worker(config, "match", store=False)
    match.prepare(config)
    # Its tasks take milliseconds, so a turn for each queue is priority enough.
    _celery(f"{MATCH},{MATCH_BULK}", config.match_concurrency)


@app.command()
def flags(
    property_id: Annotated[str, typer.Argument(metavar="PROPERTY")], as_json: JsonOption = False
) -> None:
    """The duplicate flags of one property; exit code 1 when there are none."""
    from core import database, matching

    base = database.Database(settings.get().database_url, pool_size=1, wait_seconds=10.0)
    with base.transaction() as connection:
        rows = matching.flags(connection, property_id)
    base.close()
    for row in rows:
        if as_json:
            print(json.dumps(row, default=str, ensure_ascii=False))
        else:
            _output.print(
                f"{row['photo']} duplicates {row['duplicate_of']} "
                f"(score {row['score']:.2f}, by {row['decided_by']}, since {row['since']:%Y-%m-%d %H:%M})",
                markup=False,
                soft_wrap=True,
            )
    if not rows:
        _console.print(f"No duplicates on record for property {property_id}.", markup=False, soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check settings, database, extension, broker, bucket, weights and device; exit code 1 if one fails."""
    from workers import doctor as checks

    failed = False
    for check in checks.run():
        failed |= not check.ok
        if as_json:
            print(json.dumps(dataclasses.asdict(check), ensure_ascii=False), flush=True)
        else:
            mark = "[green]ok  [/]" if check.ok else "[red]FAIL[/]"
            _output.print(f"{mark} {check.name:9}", end=" ")
            _output.print(check.text, markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def main() -> NoReturn:
    """Run the command line; known errors become one message and an exit code."""
    processes.end_with_supervisor()
    try:
        app()
    except errors.ConfigurationError as error:
        _console.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(processes.EXIT_CONFIGURATION)
    except errors.DedupError as error:
        _console.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(processes.EXIT_AWAY)
    sys.exit(0)


def _addresses(stack: embedded.Stack) -> str:
    store, variables = stack.store, stack.environment
    upload = [
        *(f"{name}={variables[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
        f"aws --endpoint-url {store.endpoint_url} --region {variables['AWS_DEFAULT_REGION']}",
        f"s3 cp kitchen.jpg s3://{store.bucket}/properties/42/photos/kitchen.jpg",
    ]
    return "\n".join(
        [
            f"Listing system's login  {stack.reader_url}",
            f"For its verdicts        {stack.editor_url}",
            f"Owner's login           {stack.postgres.url()}",
            f"S3 and SQS              {store.endpoint_url} (bucket {store.bucket}, queue {store.queue})",
            f"Logs                    {stack.log_file('embed').parent}",
            f"How the workers are     {', '.join(f'{url} ({name})' for name, url in stack.health_urls().items())}",
            "",
            f"Upload:  {' '.join(upload)}",
            f"Look:    psql '{stack.reader_url}' -c 'TABLE listing_duplicates'",
            f"dedup:   (. {stack.data_dir / 'environment'}; dedup doctor; dedup flags 42)",
            "",
            "Ctrl-C stops it; the data stays.",
        ]
    )


def _stop_on_sigterm() -> None:
    """As on Ctrl-C, what was started is stopped: Postgres would otherwise stay."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _begin(config: settings.Settings, process: str) -> None:
    """Logs and, where they are wanted, traces."""
    from workers import traces

    urls = (config.database_url, config.migration_database_url, config.broker_url, config.event_broker_url)
    logs.configure(config.log_level, process, urls)
    traces.start(config, process)


def _begin_worker(config: settings.Settings, process: str, *, store: bool) -> None:
    """Tell how it is and end when told to, from the beginning on: loading a model takes a while."""
    from workers import collectors, health, probes

    # Until Celery has handlers of its own, when there is something in hand. Nothing but the end: what a signal
    # interrupts may hold the locks that anything more would need.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))

    parts = {"database": probes.of_database(config)} | ({"store": probes.of_store(config)} if store else {})
    health.serve(config, parts, collectors.endpoints(config, process))


def _celery(queues: str, concurrency: int) -> None:
    from workers import dead_letters, loop, probes
    from workers.app import app as celery_app

    config = settings.get()
    celery_app.steps["consumer"].add(loop.Loop)
    dead_letters.prepare(config)
    probes.watch_queues(config.broker_url, config, queues.split(","))
    # Threads: torch does not survive a fork, and the micro-batcher serves all tasks of its process.
    arguments = ["--pool", "threads", "--concurrency", str(concurrency), "--queues", queues]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    try:
        celery_app.worker_main(["--quiet", "worker", *arguments, *quiet])
        # Newer versions of click keep the exit code to themselves.
        code = loop.exit_code()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    # Its tasks are done and acknowledged; taking torch apart object by object costs seconds more, on a busy machine
    # many, in which a second signal would look like a crash.
    _end(code)


def _end(code: int) -> None:
    from workers import traces

    traces.stop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _progress(label: str) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn(label),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=_console,
    )
