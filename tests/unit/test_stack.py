"""What `make stack` runs is what docker-compose.yml says."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tests import deployment
from tests.stack import services
from workers import embedded_s3

PROFILES = ["cpu"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return services.compose()


def test_every_service_runs_or_has_something_in_its_place(compose: dict[str, Any]) -> None:
    every = services.ours(compose, ["cpu", "gpu", "bulk"])
    assert set(compose["services"]) - set(every) <= set(services.INSTEAD)
    assert set(every).isdisjoint(services.INSTEAD)
    assert deployment.dotenv_example()["COMPOSE_PROFILES"].split(",") == PROFILES
    default = services.ours(compose, PROFILES)
    assert set(every) - set(default) == {"worker-embed-gpu", "worker-bulk"}


def test_the_commands_are_those_of_the_file(compose: dict[str, Any], tmp_path: pathlib.Path) -> None:
    ours = services.ours(compose, PROFILES)
    store = embedded_s3.EmbeddedS3(tmp_path)
    lasting, ending = services.lasting(ours), services.ending(ours, store)
    assert set(lasting) == {"ingest", "worker-match", "sweep", "worker-embed"}
    assert list(ending) == ["store-setup", "migrate"]
    for name, arguments in {**lasting, **ending}.items():
        written = compose["services"][name]["command"]
        assert [argument.partition("=")[0] for argument in arguments] == [
            argument.partition("=")[0] for argument in written
        ]
        changed = [ours for ours, theirs in zip(arguments, written, strict=True) if ours != theirs]
        assert len(changed) == (name == "store-setup"), name


def test_the_settings_are_those_of_the_file(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEDUP_BACKBONE_WEIGHTS", raising=False)
    monkeypatch.setenv("DEDUP_LOG_LEVEL", "debug")
    ours = services.ours(compose, PROFILES)
    given = services.settings(ours)
    written = {name for service in ours.values() for name in service["environment"]}
    assert written == set(given) | (set(services.PLACES) & written)
    embed = compose["services"]["worker-embed"]["environment"]
    assert given["DEDUP_BACKBONE_WEIGHTS"] == embed["DEDUP_BACKBONE_WEIGHTS"]
    assert given["DEDUP_LOG_LEVEL"] == "debug"
