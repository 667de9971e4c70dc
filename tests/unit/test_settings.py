from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from psycopg import conninfo

from core import errors, settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(settings.PREFIX + name.upper(), raising=False)
    settings.get.cache_clear()
    yield
    settings.get.cache_clear()


def test_defaults_are_valid() -> None:
    assert settings.get().events_url == settings.get().broker_url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEDUP_MAX_PHOTO_BYTES", "0"),
        ("DEDUP_MAX_PHOTO_BYTES", "many"),
        ("DEDUP_KEY_PATTERN", "photos/(?P<name>.+)"),
        ("DEDUP_KEY_PATTERN", "("),
        ("DEDUP_BROKER_URL", "redis://127.0.0.1"),
        ("DEDUP_DATABASE_URL", "mysql://127.0.0.1"),
        ("DEDUP_EMBED_BATCH_WAIT_SECONDS", "30"),
        ("DEDUP_LOG_LEVEL", "loud"),
        ("DEDUP_DEVICE", "gpu"),
        ("DEDUP_BUCKETS", ""),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(errors.ConfigurationError, match=name):
        settings.get()


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDUP_BROKER", "amqp://x")
    with pytest.raises(errors.ConfigurationError, match="DEDUP_BROKER"):
        settings.get()


def test_an_unknown_variable_in_dot_env_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".env").write_text("DEDUP_MATCH_NEIGHBORS=5\n")
    with pytest.raises(errors.ConfigurationError, match="DEDUP_MATCH_NEIGHBORS"):
        settings.get()


def test_buckets_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDUP_BUCKETS", "photos, archive")
    assert settings.get().buckets == ("photos", "archive")


def test_dot_env_file_is_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".env").write_text("DEDUP_EVENT_QUEUE=uploads\n")
    assert settings.get().event_queue == "uploads"


def test_every_setting_is_described_and_the_readme_shows_the_table() -> None:
    readme = (pathlib.Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert all(field.description for field in settings.Settings.model_fields.values())
    assert settings.table() in readme, "run `python -m core.settings` and paste its table into the README"


def test_a_password_can_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "database-url"
    secret.write_text("postgresql://app:s3cret@db/dedup\n")
    monkeypatch.setenv("DEDUP_DATABASE_URL_FILE", str(secret))
    (tmp_path / ".env").write_text(f"DEDUP_BROKER_URL_FILE={tmp_path / 'broker-url'}\n")
    (tmp_path / "broker-url").write_text("amqps://app:s3cret@mq//")
    config = settings.get()
    assert config.database_url == "postgresql://app:s3cret@db/dedup"
    assert config.events_url == "amqps://app:s3cret@mq//"
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize("secret", settings.SECRETS)
def test_every_secret_has_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, secret: str
) -> None:
    scheme = "postgresql" if "database" in secret else "amqp"
    (tmp_path / "secret").write_text(f"{scheme}://app:s3cret@host/x")
    monkeypatch.setenv(f"DEDUP_{secret.upper()}_FILE", str(tmp_path / "secret"))
    assert getattr(settings.get(), secret) == f"{scheme}://app:s3cret@host/x"


def test_a_secret_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_text("amqp://app:s3cret@mq//")
    monkeypatch.setenv("DEDUP_BROKER_URL_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("DEDUP_BROKER_URL", "amqp://app:other@mq//")
    with pytest.raises(
        errors.ConfigurationError, match="DEDUP_BROKER_URL and DEDUP_BROKER_URL_FILE"
    ) as refused:
        settings.get()
    assert "s3cret" not in str(refused.value)
    assert "other" not in str(refused.value)


def test_a_secret_that_is_wrong_or_missing_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("DEDUP_BROKER_URL_FILE", str(tmp_path / "missing"))
    with pytest.raises(errors.ConfigurationError, match=r"DEDUP_BROKER_URL_FILE: .*missing cannot be read"):
        settings.get()
    (tmp_path / "missing").write_text("redis://app:s3cret@mq")
    with pytest.raises(errors.ConfigurationError, match="DEDUP_BROKER_URL") as refused:
        settings.get()
    assert "s3cret" not in str(refused.value)


def test_what_is_no_secret_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDUP_BUCKETS_FILE", "/run/secrets/buckets")
    with pytest.raises(errors.ConfigurationError, match="DEDUP_BUCKETS_FILE"):
        settings.get()


def test_an_authority_makes_postgres_prove_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    authority = tmp_path / "an authority.pem"
    authority.write_text("")
    monkeypatch.setenv("DEDUP_DATABASE_CA", str(authority))
    monkeypatch.setenv(
        "DEDUP_MIGRATION_DATABASE_URL", "postgresql://o@db/dedup?sslmode=verify-ca&options=-c%20x%3D1"
    )
    config = settings.get()
    ours = conninfo.conninfo_to_dict(config.database_url)
    assert (ours["sslmode"], ours["sslrootcert"]) == ("verify-full", str(authority))
    owners = conninfo.conninfo_to_dict(config.owner_database_url)
    assert (owners["sslmode"], owners["sslrootcert"], owners["options"]) == (
        "verify-ca",
        str(authority),
        "-c x=1",
    )


def test_an_authority_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    for name in ("DEDUP_DATABASE_CA", "DEDUP_BROKER_CA", "DEDUP_S3_CA"):
        monkeypatch.setenv(name, str(tmp_path / "missing.pem"))
    with pytest.raises(
        errors.ConfigurationError, match=r"DEDUP_DATABASE_CA.*\n.*DEDUP_BROKER_CA.*\n.*DEDUP_S3_CA"
    ):
        settings.get()
