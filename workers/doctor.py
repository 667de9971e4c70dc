"""Is everything there that the workers need? Each check says what it found, or what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import botocore.exceptions

from core import bundle, database, embedding, errors, objects, schema, settings, weights
from workers import app, event_queue

_LEAST_PGVECTOR = (0, 7)


@dataclasses.dataclass(frozen=True)
class Check:
    """The outcome of one check; `text` is what was found or, if not `ok`, the problem and its remedy."""

    name: str
    ok: bool
    text: str


def run() -> Iterator[Check]:
    """All checks, one after the other; the settings come first, since the others need them."""
    try:
        config = settings.get()
    except errors.ConfigurationError as error:
        yield Check("settings", False, str(error))
        return
    yield Check("settings", True, "every variable is known and valid")
    checks: dict[str, Callable[[settings.Settings], str]] = {
        "database": _database,
        "pgvector": _pgvector,
        "schema": _schema,
        "model": _model,
        "broker": lambda config: _broker(config.broker_url, "DEDUP_BROKER_URL", config),
        "events": _events,
        "buckets": _buckets,
        "device": lambda config: embedding.choose_device(config.device),
        "weights": _weights,
    }
    for name, check in checks.items():
        try:
            yield Check(name, True, check(config))
        except errors.DedupError as error:
            yield Check(name, False, str(error))


def _database(config: settings.Settings) -> str:
    row = database.ask(
        config.database_url, b"SELECT current_user AS login, current_setting('server_version') AS version"
    )
    return "Postgres {version}, as {login}".format(**row) if row else ""


def _pgvector(config: settings.Settings) -> str:
    row = database.ask(
        config.database_url, b"SELECT extversion AS version FROM pg_extension WHERE extname = 'vector'"
    )
    if row is None:
        raise errors.ConfigurationError(
            "The extension `vector` is not in this database; install pgvector on the server, then `dedup migrate`."
        )
    if tuple(int(part) for part in row["version"].split(".")[:2]) < _LEAST_PGVECTOR:
        raise errors.ConfigurationError(
            f"pgvector {row['version']} has no halfvec; install 0.7 or later, then ALTER EXTENSION vector UPDATE."
        )
    return f"pgvector {row['version']}"


def _schema(config: settings.Settings) -> str:
    found, wanted = schema.current(config.database_url), schema.head()
    if found != wanted:
        raise errors.ConfigurationError(
            f"The schema is at revision {found or 'none'}, this version needs {wanted}; run `dedup migrate`."
        )
    return f"revision {found}"


def _model(config: settings.Settings) -> str:
    active = _active(config)
    return (
        f"{active['name']} ({active['id']}) is active"
        if active
        else "none yet; the first embed worker brings its own"
    )


def _active(config: settings.Settings) -> database.Row | None:
    return database.ask(config.database_url, database.query("active_model"))


def _broker(url: str, variable: str, config: settings.Settings) -> str:
    try:
        with app.connection(url, config) as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            connection.default_channel.basic_qos(0, 1, False)
            return str(connection.as_uri())
    except Exception as error:
        # Each transport raises its own client's errors.
        raise errors.ConfigurationError(
            f"The broker does not answer ({type(error).__name__}: {error}); see {variable}."
        ) from error


def _events(config: settings.Settings) -> str:
    found = _broker(config.events_url, "DEDUP_EVENT_BROKER_URL", config)
    lost = event_queue.count_dead_letters(config)
    if not lost:
        return found
    return (
        f"{found}; {lost} messages with events lie in the queue {event_queue.dead_letters(config).name}: move them "
        "back, or `dedup backfill --bucket BUCKET`"
    )


def _buckets(config: settings.Settings) -> str:
    s3 = objects.client(config)
    for name in config.buckets:
        try:
            s3.head_bucket(Bucket=name)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise errors.ConfigurationError(
                f"Bucket {name} cannot be reached ({error}); see DEDUP_BUCKETS, DEDUP_S3_ENDPOINT_URL and the "
                "AWS credentials."
            ) from error
    return ", ".join(config.buckets)


def _weights(config: settings.Settings) -> str:
    found = {weights.source_digest(source): source for source in config.weights_sources}
    shown = ", ".join(f"{source} ({sha256[:8]}…)" for sha256, source in found.items())
    try:
        active = _active(config)
    except errors.DedupError:
        # That is told by the checks of the database.
        active = None
    if active is not None and active["weights_sha256"] not in found:
        raise errors.ConfigurationError(
            f"The active model {active['name']} ({active['id']}) needs backbone weights {active['weights_name']} with "
            f"SHA-256 {active['weights_sha256']}; DEDUP_BACKBONE_WEIGHTS are {shown}. Add their file there, "
            "comma-separated; match workers need none."
        )
    if active is not None:
        return f"{shown}; they fit the active model {active['name']} ({active['id']})"
    first = next(iter(found))
    model_bundle = bundle.load(config.bundle) if config.bundle else bundle.for_backbone(first)
    if model_bundle.backbone.weights_sha256 not in found:
        raise errors.ConfigurationError(
            f"DEDUP_BUNDLE {model_bundle.name} is made for weights with SHA-256 "
            f"{model_bundle.backbone.weights_sha256}, DEDUP_BACKBONE_WEIGHTS are {shown}."
        )
    return f"{shown}, bundle {model_bundle.name} ({model_bundle.id})"
