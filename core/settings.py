"""Every knob of the system in one object, checked before anything starts."""

from __future__ import annotations

import functools
import os
import pathlib
import re
from typing import Annotated, Any, Literal

import dotenv
import pydantic
import pydantic_settings

from core import connection_urls, errors

PREFIX = "DEDUP_"
SECRETS = ("database_url", "migration_database_url", "broker_url", "event_broker_url")
"""Settings that hold a password: each may also be read from the file that ``<NAME>_FILE`` names."""


def _default_data_dir() -> pathlib.Path:
    # Postgres refuses to run as root, and the account that it then runs under cannot look below /root.
    if os.geteuid() == 0:
        return pathlib.Path("/var/lib/listing-dedup")
    home = os.environ.get("XDG_DATA_HOME") or pathlib.Path.home() / ".local" / "share"
    return pathlib.Path(home) / "listing-dedup"


class Settings(pydantic_settings.BaseSettings):
    """Settings from the environment (``DEDUP_<NAME>``) or from a ``.env`` file in the working folder.

    What holds a password can be in a file of its own instead, as secrets are mounted into containers: see `SECRETS`.
    """

    model_config = pydantic_settings.SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True
    )

    database_url: str = pydantic.Field(
        "postgresql://dedup_worker@127.0.0.1:5432/dedup",
        repr=False,
        description="Postgres with pgvector; workers log in as a member of the role dedup_worker.",
    )
    migration_database_url: str | None = pydantic.Field(
        None, repr=False, description="Owner's login for `dedup migrate`; default: DEDUP_DATABASE_URL."
    )
    database_ca: pydantic.FilePath | None = pydantic.Field(
        None,
        description="PEM file of the authority that signed Postgres' certificate; connections are then encrypted and "
        "the server's name is checked (sslmode=verify-full).",
    )
    database_pool_size: int = pydantic.Field(
        8, ge=1, le=100, description="Most connections a process opens to Postgres."
    )
    database_timeout_seconds: float = pydantic.Field(
        120.0,
        ge=1,
        description="Longest statement of a worker; a server that leaves a transaction without an end for half as "
        "long again is taken for lost.",
    )
    migration_lock_timeout_seconds: int = pydantic.Field(
        10, ge=1, description="A migration gives up rather than queue longer behind live traffic."
    )
    migration_statement_timeout_seconds: int = pydantic.Field(
        600, ge=1, description="Longest single statement of a migration."
    )

    broker_url: str = pydantic.Field(
        "amqp://guest:guest@127.0.0.1:5672//",
        repr=False,
        description="Celery broker: amqp:// (RabbitMQ, quorum queues), sqs://, or pgmq:// (embedded stack).",
    )
    broker_ca: pydantic.FilePath | None = pydantic.Field(
        None,
        description="amqps://: PEM file of the authority that signed the brokers' certificates; default: the system's "
        "authorities. Name and certificate are checked either way.",
    )
    visibility_timeout_seconds: int = pydantic.Field(
        300,
        ge=5,
        description="SQS and pgmq: a task that was not acknowledged is given out again after this; "
        "must exceed the longest task.",
    )
    task_max_retries: int = pydantic.Field(
        6, ge=0, le=100, description="Attempts after the first, for what may work later."
    )
    task_retry_backoff_seconds: int = pydantic.Field(
        2, ge=1, description="First wait before a retry; doubled each time, with jitter, up to 10 minutes."
    )

    task_delivery_limit: int = pydantic.Field(
        20,
        ge=2,
        description="A task message that was given out so often without an end goes to the dead-letter queue. More "
        "than DEDUP_EMBED_MAX_LOSSES by far: good photos that share a process with a bad one come back with it.",
    )

    event_broker_url: str | None = pydantic.Field(
        None,
        repr=False,
        description="Where the store's notifications arrive: sqs:// or amqp://; default: DEDUP_BROKER_URL.",
    )
    event_queue: str = pydantic.Field(
        "dedup-events", min_length=1, description="Queue of raw notifications; never a Celery queue."
    )
    key_pattern: str = pydantic.Field(
        r"properties/(?P<property>[^/]+)/photos/(?P<name>.+)",
        description="Full match on the object key, in which a dot stands for any character; the named groups "
        "`property` and `name` are needed.",
    )
    buckets: Annotated[tuple[str, ...], pydantic_settings.NoDecode] = pydantic.Field(
        ("photos",),
        min_length=1,
        description="Buckets whose events are taken, comma-separated; others go to rejected_event.",
    )

    s3_endpoint_url: str | None = pydantic.Field(
        None, description="S3 endpoint of another store than AWS (http://127.0.0.1:8333)."
    )
    s3_ca: pydantic.FilePath | None = pydantic.Field(
        None,
        description="https:// endpoint of S3: PEM file of the authority that signed its certificate; default: "
        "botocore's authorities.",
    )
    s3_region: str = pydantic.Field("us-east-1", description="Region of S3 and SQS.")
    s3_timeout_seconds: float = pydantic.Field(
        20.0, gt=0, description="Connecting to the store, and longest silence between two pieces of a photo."
    )
    s3_fetch_timeout_seconds: float = pydantic.Field(
        60.0, gt=0, description="Longest reading of one photo in all; a slower one is tried again."
    )

    max_photo_bytes: int = pydantic.Field(
        50_000_000, ge=1, description="Larger objects are not fetched (status failed, reason too_large)."
    )
    max_photo_pixels: int = pydantic.Field(
        100_000_000, ge=1, description="Larger pictures are not decoded (reason too_many_pixels)."
    )

    backbone_weights: str = pydantic.Field(
        "IMAGENET1K_V1",
        min_length=1,
        description="File (.safetensors, .pth), IMAGENET1K_V1 or IMAGENET1K_V2 (torchvision's; a bundle for V2 "
        "must be trained first), or `untrained` (tests and trials, embedded database only). For a change between "
        "backbones several, comma-separated; the first one counts where one is needed.",
    )
    bundle: pathlib.Path | None = pydantic.Field(
        None,
        description="Folder of the model bundle that the first worker brings to a new database; default: the shipped "
        "one that fits the weights. Later the database decides (`dedup model`).",
    )
    device: str = pydantic.Field(
        "auto", pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$", description="auto, cpu, cuda or cuda:N."
    )
    forward: Literal["auto", "plain", "fused", "compiled"] = pydantic.Field(
        "auto",
        description="Form of the network: fused (oneDNN, fp32 only; the default on a CPU), compiled (torch.compile; "
        "the default on a GPU, some minutes at start) or plain.",
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = pydantic.Field(
        "auto",
        description="Of the forward pass; auto is fp32 on a CPU, fp16 on a GPU. bf16 keeps three bits less. "
        "Embeddings on record stay as they are.",
    )
    embed_streams: int | None = pydantic.Field(
        None,
        ge=1,
        le=64,
        description="Forward passes at a time in one embed worker, which share its cores (its threads, or "
        "OMP_NUM_THREADS); default: 2, on a single core 1.",
    )
    embed_batch_size: int | None = pydantic.Field(
        None,
        ge=1,
        le=1024,
        description="Most photos in one forward pass; default: 8 on a CPU, 64 on a GPU.",
    )
    embed_batch_wait_seconds: float = pydantic.Field(
        0.0,
        ge=0,
        le=1,
        description="Longest wait of a batch's first photo for company while a forward pass could begin.",
    )
    embed_concurrency: int | None = pydantic.Field(
        None,
        ge=1,
        le=512,
        description="Photos in flight in one embed worker (threads); default: 20 on a CPU, on a GPU three times the "
        "batch, so that two batches are fetched and decoded while one is computed (192).",
    )
    embed_max_losses: int = pydantic.Field(
        3,
        ge=2,
        le=10,
        description="A photo that took its worker with it so often, all but the first time as the only one in hand, "
        "is parked as failed (killed_worker).",
    )
    match_concurrency: int = pydantic.Field(2, ge=1, le=64, description="Threads of one match worker.")
    match_neighbours: int = pydantic.Field(
        200, ge=1, le=10_000, description="Nearest photos of the same property that a photo is compared with."
    )

    sweep_after_seconds: int = pydantic.Field(
        600,
        ge=1,
        description="A photo that waits longer is published again; more than the queues' usual delay.",
    )
    sweep_rounds: int = pydantic.Field(
        144,
        ge=1,
        description="How often a photo whose retries were all used up by an outage is left to the sweep before "
        "it is parked as failed (gave_up), and in how many of its rounds a match may fail (unmatched); the default is "
        "about a day.",
    )
    sweep_limit: int = pydantic.Field(1000, ge=1, description="Most photos that one sweep publishes again.")

    backfill_window: int = pydantic.Field(
        512,
        ge=1,
        le=100_000,
        description="Most photos of a backfill that are published and not done; a stopped one publishes them again.",
    )

    stop_seconds: float = pydantic.Field(
        40.0,
        gt=0,
        description="A process that is told to stop (SIGTERM) takes nothing further and finishes what it has in hand; "
        "what lasts longer than this is given back. At least 15 below the time after which it is killed "
        "(`stop_grace_period`, `terminationGracePeriodSeconds`).",
    )

    health_port: int | None = pydantic.Field(
        None, ge=1, le=65535, description="Port on which a process tells how it is; default: it does not."
    )
    health_host: str = pydantic.Field(
        "0.0.0.0",  # noqa: S104 - probes of a container come from outside of it
        min_length=1,
        description="Address of that port: all, as probes of a container come from outside of it; `::` for IPv6.",
    )
    health_stuck_seconds: float = pydantic.Field(
        600.0,
        gt=0,
        description="A process that has work in hand and ends none of it for so long, or whose loop stands still for "
        "so long, is stuck; longer than the longest task. One that gets none of the messages that wait for so long is "
        "unwell.",
    )
    health_probe_seconds: float = pydantic.Field(
        10.0, gt=0, description="How often it looks whether database, broker and store answer."
    )

    traces_endpoint: str | None = pydantic.Field(
        None,
        description="OTLP/HTTP receiver of traces (http://127.0.0.1:4318/v1/traces); default: none are made. Needs the "
        "extra `traces`.",
    )

    data_dir: pathlib.Path = pydantic.Field(
        default_factory=_default_data_dir,
        description="Folder of the embedded stack (database and objects).",
    )
    log_level: Literal["debug", "info", "warning", "error"] = pydantic.Field(
        "info", description="Least severe log line that is written."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: pydantic_settings.PydanticBaseSettingsSource,
        env_settings: pydantic_settings.PydanticBaseSettingsSource,
        dotenv_settings: pydantic_settings.PydanticBaseSettingsSource,
        file_secret_settings: pydantic_settings.PydanticBaseSettingsSource,
    ) -> tuple[Any, ...]:
        del settings_cls, file_secret_settings
        return (init_settings, env_settings, dotenv_settings, _secrets_from_files)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _verify_database(cls, values: dict[str, Any]) -> dict[str, Any]:
        authority = values.get("database_ca")
        if not authority:
            return values
        given = {"database_url": cls.model_fields["database_url"].default, **values}
        for name in ("database_url", "migration_database_url"):
            if isinstance(given.get(name), str):
                given[name] = connection_urls.verified(given[name], str(authority))
        return given

    @pydantic.field_validator("buckets", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @pydantic.field_validator("data_dir", "bundle")
    @classmethod
    def _home(cls, value: pathlib.Path | None) -> pathlib.Path | None:
        return value and value.expanduser()

    @pydantic.field_validator("key_pattern")
    @classmethod
    def _named_groups(cls, value: str) -> str:
        try:
            groups = re.compile(value, re.DOTALL).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        missing = {"property", "name"} - set(groups)
        if missing:
            raise ValueError(
                f"needs the named groups (?P<property>…) and (?P<name>…); missing: {sorted(missing)}"
            )
        return value

    @pydantic.field_validator("database_url", "migration_database_url")
    @classmethod
    def _postgres_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        return value

    @pydantic.field_validator("broker_url", "event_broker_url")
    @classmethod
    def _broker_scheme(cls, value: str | None) -> str | None:
        known = ("amqp://", "amqps://", "sqs://", "pgmq://")
        if value is not None and not value.startswith(known):
            raise ValueError(f"must start with one of {', '.join(known)}")
        return value

    @property
    def weights_sources(self) -> tuple[str, ...]:
        """Each of the backbone weights at hand, at least one."""
        parts = tuple(part.strip() for part in self.backbone_weights.split(",") if part.strip())
        return parts or (self.backbone_weights,)

    @property
    def owner_database_url(self) -> str:
        """The login that migrations use."""
        return self.migration_database_url or self.database_url

    @property
    def events_url(self) -> str:
        """The broker that the store's notifications arrive on."""
        return self.event_broker_url or self.broker_url


def _given() -> dict[str, str | None]:
    return {**dotenv.dotenv_values(".env"), **os.environ}


def _secrets_from_files() -> dict[str, str]:
    variables = {f"{PREFIX}{name.upper()}": name for name in SECRETS}
    return {variables[found]: url for found, url in connection_urls.from_files(_given(), variables).items()}


@functools.cache
def get() -> Settings:
    """The settings of this process.

    Raises:
        ConfigurationError: names each wrong variable, what is wrong with it and what was given.
    """
    try:
        settings = Settings()
    except pydantic.ValidationError as error:
        lines = [
            f"{PREFIX}{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise errors.ConfigurationError("Wrong settings:\n  " + "\n  ".join(lines)) from error
    known = {*Settings.model_fields, *(name + connection_urls.FILE_SUFFIX.lower() for name in SECRETS)}
    unknown = sorted(
        name
        for name in _given()
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in known
    )
    if unknown:
        raise errors.ConfigurationError(
            f"Unknown settings: {', '.join(unknown)}; see the README's settings table."
        )
    return settings


def table() -> str:
    """The settings as the Markdown table that the README shows."""
    lines = ["| Variable | Default | What it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = ",".join(default) if isinstance(default, tuple) else default
        if name == "data_dir":
            shown = "~/.local/share/listing-dedup (root: /var/lib/listing-dedup)"
        cell = "" if shown is None else f"`{shown}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {cell} | {field.description} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
