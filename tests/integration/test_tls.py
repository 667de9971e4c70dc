"""Each connection is encrypted and the server must prove its name, by an authority that the settings name."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator

import botocore.exceptions
import psycopg
import pytest
import trustme

from core import database, errors, objects, settings
from tests import deployment
from tests.integration.conftest import Server
from workers import app, embedded_s3, ingest

RABBITMQ = ("127.0.0.1", 5672)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def authority_file(authority: trustme.CA, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def stranger_file(tmp_path: pathlib.Path) -> pathlib.Path:
    """An authority that signed nothing here."""
    path = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


@contextlib.contextmanager
def tls_in_front_of(
    target: tuple[str, int], certificate: trustme.LeafCert, *, postgres: bool = False
) -> Iterator[int]:
    """A port that speaks TLS and hands what it gets to `target`, as a load balancer before a broker or a store does.

    A client of Postgres asks for TLS first, by eight bytes, and is told "S" for yes.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopped = threading.Event()

        def serve() -> None:
            while not stopped.is_set():
                with contextlib.suppress(OSError):
                    client, _ = listener.accept()
                    threading.Thread(target=carry, args=(client,), daemon=True).start()

        def carry(client: socket.socket) -> None:
            # A client that does not trust us leaves during the handshake.
            with contextlib.suppress(OSError), contextlib.ExitStack() as open_sockets:
                open_sockets.enter_context(client)
                if postgres:
                    client.recv(8, socket.MSG_WAITALL)
                    client.sendall(b"S")
                inside = open_sockets.enter_context(context.wrap_socket(client, server_side=True))
                outside = open_sockets.enter_context(socket.create_connection(target))
                while True:
                    ready = [inside] if inside.pending() else select.select([inside, outside], [], [])[0]
                    for source in ready:
                        data = source.recv(65536)
                        if not data:
                            return
                        (outside if source is inside else inside).sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)


def config_with(**values: object) -> settings.Settings:
    return settings.Settings.model_validate({**settings.Settings().model_dump(), **values})


# The embedded server is built without TLS, so something that has it stands before it.
def test_postgres(
    server: Server, authority: trustme.CA, authority_file: pathlib.Path, stranger_file: pathlib.Path
) -> None:
    parts = urllib.parse.urlsplit(server.postgres.url())
    assert parts.hostname is not None
    assert parts.port is not None
    target = (parts.hostname, parts.port)
    certificate = authority.issue_cert("localhost")
    with server.database("test_tls") as owner, tls_in_front_of(target, certificate, postgres=True) as port:
        url = owner.replace(f"127.0.0.1:{parts.port}", f"localhost:{port}")
        trusting = config_with(database_url=url, database_ca=authority_file)
        with psycopg.connect(trusting.database_url) as connection:
            assert connection.pgconn.ssl_in_use
        with contextlib.closing(database.Database(trusting.owner_database_url)) as base, base.transaction():
            pass
        stranger = config_with(database_url=url, database_ca=stranger_file)
        with pytest.raises(errors.TransientError, match="certificate verify failed"):
            database.ask(stranger.database_url, b"SELECT 1")
        # The certificate is for a name; the address is not it.
        numbered = config_with(
            database_url=url.replace("@localhost", "@127.0.0.1"), database_ca=authority_file
        )
        with pytest.raises(errors.TransientError, match="does not match host name"):
            database.ask(numbered.database_url, b"SELECT 1")


def test_the_systems_authorities_are_those_of_ssl_cert_file(
    server: Server,
    authority: trustme.CA,
    authority_file: pathlib.Path,
    stranger_file: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = urllib.parse.urlsplit(server.postgres.url())
    assert parts.hostname is not None
    assert parts.port is not None
    target = (parts.hostname, parts.port)
    with tls_in_front_of(target, authority.issue_cert("localhost"), postgres=True) as port:
        url = server.postgres.url().replace(f"127.0.0.1:{parts.port}", f"localhost:{port}")
        url += ("&" if parts.query else "?") + "sslmode=verify-full&sslrootcert=system"
        config = config_with(database_url=url)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
        assert database.ask(config.database_url, b"SELECT 1 AS one") == {"one": 1}
        monkeypatch.setenv("SSL_CERT_FILE", str(stranger_file))
        with pytest.raises(errors.TransientError, match="certificate verify failed"):
            database.ask(config.database_url, b"SELECT 1")
        # What psycopg's wheel takes for the system's is a folder of the machine it was built on. Images name theirs.
        dockerfile = (deployment.ROOT / "Dockerfile").read_text(encoding="utf-8")
        assert "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" in dockerfile


def test_a_database_without_tls_is_refused_once_an_authority_is_named(
    server: Server, authority_file: pathlib.Path
) -> None:
    plain = config_with(database_url=server.postgres.url(), database_ca=authority_file)
    with pytest.raises(errors.TransientError, match="does not support SSL"):
        database.ask(plain.database_url, b"SELECT 1")


@pytest.fixture
def broker() -> tuple[str, int]:
    try:
        socket.create_connection(RABBITMQ, timeout=5).close()
    except OSError as error:
        if "CI" in os.environ:
            pytest.fail(f"no RabbitMQ listens on {RABBITMQ[0]}:{RABBITMQ[1]} ({error})")
        pytest.skip("no RabbitMQ listens on 127.0.0.1:5672")
    return RABBITMQ


# By its address, since kombu makes 127.0.0.1 of localhost.
def test_the_broker(
    broker: tuple[str, int], authority: trustme.CA, authority_file: pathlib.Path, stranger_file: pathlib.Path
) -> None:
    with tls_in_front_of(broker, authority.issue_cert("127.0.0.1")) as port:
        url = f"amqps://guest:guest@127.0.0.1:{port}//"
        with app.connection(url, config_with(broker_ca=authority_file)) as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            assert isinstance(connection.connection.transport.sock, ssl.SSLSocket)
        for config in (config_with(broker_ca=stranger_file), config_with()):
            with (
                app.connection(url, config) as connection,
                pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"),
            ):
                connection.connect()
    with tls_in_front_of(broker, authority.issue_cert("elsewhere.test")) as port:
        url = f"amqps://guest:guest@127.0.0.1:{port}//"
        with (
            app.connection(url, config_with(broker_ca=authority_file)) as connection,
            pytest.raises(OSError, match="IP address mismatch"),
        ):
            connection.connect()


def test_ingest_and_celery_connect_the_same_way(authority_file: pathlib.Path) -> None:
    url = "amqps://guest:guest@localhost//"
    config = config_with(broker_url=url, broker_ca=authority_file)
    expected = {"ca_certs": str(authority_file), "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
    with contextlib.closing(database.Database(config.database_url)) as base:
        assert ingest.Ingest(config, base).connection.ssl == expected
    assert app.tls_options(url, config) == expected
    assert app.tls_options("amqp://guest:guest@localhost//", config) is None


def test_s3(
    open_tmp: pathlib.Path,
    authority: trustme.CA,
    authority_file: pathlib.Path,
    stranger_file: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", embedded_s3.ACCESS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", embedded_s3.SECRET_ACCESS_KEY)
    store = embedded_s3.EmbeddedS3(open_tmp)
    store.start()
    try:
        target = ("127.0.0.1", int(store.endpoint_url.rpartition(":")[2]))
        with tls_in_front_of(target, authority.issue_cert("localhost")) as port:
            endpoint = f"https://localhost:{port}"
            trusting = config_with(s3_endpoint_url=endpoint, s3_ca=authority_file)
            with contextlib.closing(objects.client(trusting)) as s3:
                s3.put_object(Bucket="photos", Key="k", Body=b"photo")
                assert objects.fetch(s3, "photos", "k", 10).data == b"photo"
            for wrong in (stranger_file, None):
                config = config_with(s3_endpoint_url=endpoint, s3_ca=wrong)
                with (
                    contextlib.closing(objects.client(config)) as s3,
                    pytest.raises(botocore.exceptions.SSLError),
                ):
                    s3.head_bucket(Bucket="photos")
    finally:
        store.stop()
