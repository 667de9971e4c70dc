from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

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
