"""What docker-compose.yml runs, run for real without containers: its settings, its broker's configuration and
definitions, its database's logins, and each command until it is ready; then one photo through all of them.

The host names of the containers are replaced by addresses of this machine, the store by moto."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import kombu
import numpy as np
import psycopg
import pytest
from PIL import Image
from prometheus_client import parser

from tests import deployment
from tests.soak import rabbitmq
from workers import embedded_postgres, embedded_programs, embedded_s3

from . import system as acceptance
from .conftest import open_folder

pytestmark = pytest.mark.slow

SECRETS = {
    "POSTGRES_APP_PASSWORD": "apppassword7351",
    "POSTGRES_READER_PASSWORD": "readerpassword7352",
    "RABBITMQ_PASSWORD": "mqpassword7353",
    "RABBITMQ_STORE_PASSWORD": "storepassword7354",
    "GRAFANA_PASSWORD": "grafanapassword7355",
    "STORE_ACCESS_KEY": embedded_s3.ACCESS_KEY_ID,
    "STORE_SECRET_KEY": embedded_s3.SECRET_ACCESS_KEY,
    "WEIGHTS": "untrained",
    "BUCKET": "uploads",
    "LOG_LEVEL": "debug",
}
READY = {
    "ingest": "ingest_ready",
    "worker-match": "match_worker_ready",
    "worker-embed": "embed_worker_ready",
    "worker-bulk": "embed_worker_ready",
}


class Node(rabbitmq.Node):
    """A RabbitMQ node that is started by the file's entry point, with its configuration and definitions."""

    def __init__(self, folder: pathlib.Path, service: dict[str, Any]) -> None:
        super().__init__(folder)
        here = deployment.ROOT / "deploy/compose"
        configuration = folder.with_suffix(".conf")
        definitions = folder.with_suffix(".json")
        text = (here / "rabbitmq.conf").read_text(encoding="utf-8")
        assert service["environment"]["DEFINITIONS"] in text
        configuration.write_text(text.replace(service["environment"]["DEFINITIONS"], str(definitions)))
        self._environment |= {
            "RABBITMQ_PASSWORD": service["environment"]["RABBITMQ_PASSWORD"],
            "RABBITMQ_STORE_PASSWORD": service["environment"]["RABBITMQ_STORE_PASSWORD"],
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "DEFINITIONS": str(definitions),
        }
        done = subprocess.run(
            ["/bin/sh", str(here / "rabbitmq-start.sh"), "true"], env=self._environment, check=False
        )
        assert done.returncode == 0

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{rabbitmq.HOST}:{self._port}"


@dataclasses.dataclass(frozen=True)
class Machine:
    """The services that we did not write, on this machine's own addresses."""

    compose: dict[str, Any]
    postgres: embedded_postgres.EmbeddedPostgres
    addresses: dict[str, str]
    logs: pathlib.Path
    ports: dict[str, int] = dataclasses.field(default_factory=dict)

    def environment(self, service: str) -> dict[str, str]:
        """A service's settings, with this machine's addresses for the containers' names."""
        given = self.compose["services"][service]["environment"]
        settings = {name: self._here(str(value)) for name, value in given.items()}
        if "DEDUP_HEALTH_PORT" in settings:
            # Containers have an address each.
            settings["DEDUP_HEALTH_PORT"] = str(self.ports.setdefault(service, _free_port()))
        return settings

    def command(self, service: str) -> list[str]:
        """A service's command, likewise."""
        return [self._here(argument) for argument in self.compose["services"][service]["command"]]

    def _here(self, text: str) -> str:
        for theirs, ours in self.addresses.items():
            text = text.replace(theirs, ours)
        return text

    def run(self, service: str, arguments: list[str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a service that ends, or another command under its settings."""
        return subprocess.run(
            acceptance.command(*(arguments or self.command(service))),
            cwd=deployment.ROOT,
            env={**os.environ, **self.environment(service)},
            capture_output=True,
            text=True,
            timeout=acceptance.DEADLINE_SECONDS,
            check=False,
        )

    def start(self, service: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """Run a service that lasts."""
        return acceptance.process(self.logs / service, *self.command(service), **self.environment(service))

    def log(self, service: str) -> str:
        """What a service has logged."""
        return (self.logs / service).read_text(encoding="utf-8", errors="replace")

    def ask(self, statement: str) -> list[Any]:
        """The first column of a statement, as the owner."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            return [row[0] for row in connection.execute(statement.encode()).fetchall()]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    if not (rabbitmq.SCRIPTS / "rabbitmq-server").exists():
        pytest.skip(f"no rabbitmq-server in {rabbitmq.SCRIPTS}")
    folder = open_folder()
    postgres = embedded_postgres.EmbeddedPostgres(folder)
    store = embedded_s3.EmbeddedS3(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        postgres.start()
        stack.callback(postgres.stop)
        postgres.install_extensions()
        # The embedded server has an owner of the same name.
        password = urllib.parse.urlsplit(postgres.url()).password
        assert password is not None
        compose = deployment.compose({**SECRETS, "POSTGRES_OWNER_PASSWORD": password})
        store.start()
        stack.callback(store.stop)
        node = Node(folder / "rabbitmq", compose["services"]["rabbitmq"])
        stack.enter_context(node)
        _make_logins(postgres, compose["services"]["postgres"]["environment"])
        addresses = {
            "@postgres:5432": "@" + postgres.url().rpartition("@")[2].partition("/")[0],
            "@rabbitmq:5672": f"@{node.address}",
            "http://store:9000": store.endpoint_url,
            # Moto takes no other store's targets.
            "arn:rustfs:sqs:us-east-1:primary:amqp": f"arn:aws:sqs:us-east-1:123456789012:{store.queue}",
        }
        yield Machine(compose, postgres, addresses, folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_logins(postgres: embedded_postgres.EmbeddedPostgres, environment: dict[str, str]) -> None:
    """As the image's entry point does: the script in the owner's name."""
    # With no other user to run as, it is the wheel's own folder that is given.
    programs = embedded_programs.install(pathlib.Path("/"), None)
    host, _, port = postgres.url().rpartition("@")[2].partition("/")[0].partition(":")
    done = subprocess.run(
        [str(deployment.ROOT / "deploy/compose/postgres-init.sh")],
        env={
            **environment,
            "PATH": f"{programs}:{os.defpath}",
            "PGHOST": host,
            "PGPORT": port,
            "PGPASSWORD": environment["POSTGRES_PASSWORD"],
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_command_runs_and_a_photo_goes_through_all(machine: Machine) -> None:
    migrated = machine.run("migrate")
    assert migrated.returncode == 0, migrated.stderr
    for _ in range(2):
        prepared = machine.run("store-setup")
        assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    lasting = [name for name in machine.compose["services"] if name in READY or name == "sweep"]
    with contextlib.ExitStack() as stack:
        for name in lasting:
            stack.enter_context(machine.start(name))
        for name, line in READY.items():
            acceptance.until(lambda name=name, line=line: line in machine.log(name), f"{name} is ready")  # type: ignore[misc]
        acceptance.until(
            lambda: machine.ask("SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN \"dedup_verdict\"'"),
            "sweep listens",
        )
        for name in lasting:
            check = machine.compose["services"][name]["healthcheck"]["test"]
            assert check[:2] == ["CMD", "dedup"]
            acceptance.until(
                lambda name=name, check=check: machine.run(name, check[2:]).returncode == 0,  # type: ignore[misc]
                f"the health check of {name} succeeds",
            )
        assert _measured_queues(machine) >= {"embed", "embed.bulk", "match", "match.bulk", "dedup-events"}
        _upload_and_tell(machine)
        acceptance.until(
            lambda: machine.ask("SELECT id FROM photo WHERE status = 'embedded' AND matched_at IS NOT NULL"),
            "the photo is embedded and matched",
        )
    secrets = [
        value
        for name, value in machine.compose["services"]["migrate"]["environment"].items()
        if "URL" in name
    ]
    passwords = {urllib.parse.urlsplit(value).password for value in secrets} - {None}
    passwords |= {SECRETS["STORE_SECRET_KEY"], SECRETS["RABBITMQ_STORE_PASSWORD"]}
    assert len(passwords) == 5
    for name in lasting:
        assert machine.log(name) or name == "sweep"  # which has nothing to tell
        assert not [secret for secret in passwords if str(secret) in machine.log(name)], (
            f"{name} logs a password"
        )
    # Each as the login that it was given, and none as the owner.
    logins = machine.environment("ingest")["DEDUP_DATABASE_URL"]
    assert "dedup_app:apppassword7351@" in logins
    assert machine.ask("SELECT pg_has_role('dedup_app', 'dedup_worker', 'MEMBER')") == [True]


def test_the_listing_systems_login_reads_the_flags_and_no_table(machine: Machine) -> None:
    place = machine.postgres.url().rpartition("@")[2]
    with psycopg.connect(
        f"postgresql://dedup_listing:readerpassword7352@{place}", autocommit=True
    ) as connection:
        assert connection.execute("SELECT * FROM listing_duplicates").fetchall() == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM photo")


def test_the_stores_login_may_send_events_and_nothing_else(machine: Machine) -> None:
    for method, queue in (("basic_get", "embed"), ("queue_declare", "mine")):
        with (
            _as_store(machine) as connection,
            pytest.raises(connection.channel_errors, match="ACCESS_REFUSED"),
            connection.channel() as channel,
        ):
            getattr(channel, method)(queue)


def test_no_guest(machine: Machine) -> None:
    address = machine.addresses["@rabbitmq:5672"]
    with (
        kombu.Connection(f"amqp://guest:guest{address}//") as connection,
        pytest.raises(Exception, match="ACCESS_REFUSED"),
    ):
        connection.connect()


def _as_store(machine: Machine) -> kombu.Connection:
    """The connection that the store's own settings name."""
    return kombu.Connection(machine.environment("store")["RUSTFS_NOTIFY_AMQP_URL_PRIMARY"])


def _measured_queues(machine: Machine) -> set[str]:
    """The queues of RabbitMQ whose lengths the sweep tells Prometheus."""
    url = f"http://127.0.0.1:{machine.ports['sweep']}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = list(parser.text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    assert {
        sample.labels["part"]: sample.value for sample in samples if sample.name == "dedup_scrape_ok"
    } == {"database": 1, "broker": 1, "events": 1}
    return {sample.labels["queue"] for sample in samples if sample.name == "dedup_queue_messages"}


def _upload_and_tell(machine: Machine) -> None:
    settings = machine.environment("ingest")
    store = machine.environment("store")
    s3 = boto3.client(
        "s3",
        endpoint_url=settings["DEDUP_S3_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
    )
    path = machine.logs / "photo.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(path)
    key = acceptance.key_of("1", "a.png")
    etag = s3.put_object(Bucket="uploads", Key=key, Body=path.read_bytes())["ETag"].strip('"')
    record = acceptance.record(
        "s3:ObjectCreated:Put", key, bucket="uploads", etag=etag, sequencer="18A1B2C3D4E5F607"
    )
    # As RustFS writes it.
    message = {"EventName": "s3:ObjectCreated:Put", "Key": f"uploads/{key}", "Records": [record]}
    with _as_store(machine) as connection, connection.Producer(serializer="json") as producer:
        producer.publish(
            message,
            exchange=store["RUSTFS_NOTIFY_AMQP_EXCHANGE_PRIMARY"],
            routing_key=store["RUSTFS_NOTIFY_AMQP_ROUTING_KEY_PRIMARY"],
            mandatory=True,
        )
