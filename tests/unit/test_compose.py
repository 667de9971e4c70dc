"""docker-compose.yml, the Dockerfile and what they name. No engine runs here: what only one can show is in
docs/deploy.md."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sysconfig
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml
from check_jsonschema import builtin_schemas

from core import settings
from tests import deployment
from workers import app, cli, dead_letters, event_queue

SECRETS = {name: "x" * 32 for name, value in deployment.dotenv_example().items() if value == ""}
OURS = (
    "migrate",
    "ingest",
    "worker-match",
    "sweep",
    "worker-embed",
    "worker-embed-gpu",
    "worker-bulk",
    "store-setup",
)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return deployment.compose(SECRETS)


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = pathlib.Path(sysconfig.get_path("scripts")) / name
    return subprocess.run(
        [str(program), *arguments],
        cwd=deployment.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_fits_the_compose_specification(compose: dict[str, Any]) -> None:
    schema = builtin_schemas.get_builtin_schema("vendor.compose-spec")
    validator = jsonschema.validators.validator_for(schema)(schema)
    raw = yaml.safe_load(deployment.COMPOSE.read_text(encoding="utf-8"))
    for content in (raw, compose):
        assert [error.message for error in validator.iter_errors(content)] == []
    wrong = {**compose, "services": {"ingest": {**compose["services"]["ingest"], "restarts": "always"}}}
    assert any("restarts" in error.message for error in validator.iter_errors(wrong))


def test_the_dockerfile_has_no_fault_that_its_linter_knows() -> None:
    done = tool("hadolint", "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_everything_that_a_service_names_is_there(compose: dict[str, Any]) -> None:
    services, targets = compose["services"], deployment.dockerfile_targets()
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, f"{name} depends on {other}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{other} has no health check"
            if how["condition"] == "service_completed_successfully":
                assert services[other]["restart"].startswith("on-failure"), f"{other} never ends"
            assert not set(services[other].get("profiles", [])) - set(service.get("profiles", []))
        assert set(service["networks"]) <= set(compose["networks"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./deploy/"):
                assert (deployment.ROOT / source).is_file(), f"{name} mounts {source}"
            elif not source.startswith("./"):
                assert source in compose["volumes"], f"{name} mounts {source}"
        if "build" in service:
            assert service["build"]["target"] in targets
            assert service["image"] == f"listing-dedup:{service['build']['target']}"
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert set(compose["volumes"]) <= used
    assert {network for service in services.values() for network in service["networks"]} == set(
        compose["networks"]
    )


def test_every_setting_is_one_that_the_processes_know(compose: dict[str, Any]) -> None:
    known = deployment.known_settings()
    for name in OURS:
        given = {key for key in compose["services"][name]["environment"] if key.startswith("DEDUP_")}
        assert given
        assert given <= known, f"{name}: {given - known}"
    dockerfile = (deployment.ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"DEDUP_\w+", dockerfile)) <= known


def test_no_password_has_a_default() -> None:
    example = deployment.dotenv_example()
    variables = deployment.variables(deployment.COMPOSE.read_text(encoding="utf-8"))
    assert set(variables) | {"COMPOSE_PROFILES"} == set(example)
    secret = {name for name in variables if re.search("PASSWORD|KEY", name)}
    assert len(secret) == 8
    for name in secret:
        assert variables[name] is None, f"{name} has a default in docker-compose.yml"
        assert example[name] == "", f"{name} has a value in .env.example"
    for name in set(variables) - secret:
        assert variables[name] == example[name]


def test_a_secret_that_is_not_set_stops_it() -> None:
    for name in SECRETS:
        with pytest.raises(KeyError, match=name):
            deployment.compose({key: value for key, value in SECRETS.items() if key != name})


def test_every_service_is_confined_and_limited(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["user"] not in ("root", "0", "0:0"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "/tmp" in [mount.partition(":")[0] for mount in service["tmpfs"]], name  # noqa: S108 - in a container
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert service["restart"].startswith(("unless-stopped", "on-failure")), name
        assert not service.get("privileged"), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"
        if service["restart"] == "unless-stopped":
            assert service["healthcheck"]["test"][0] == "CMD", name
        if "build" not in service:
            assert not service["image"].endswith(":latest"), name
            assert ":" in service["image"], name


def test_every_process_may_end_in_peace(compose: dict[str, Any]) -> None:
    for name in OURS:
        service = compose["services"][name]
        grace = float(service["stop_grace_period"].removesuffix("s"))
        assert grace >= deployment.least_grace_seconds(service["environment"]), name


def test_the_gpu_is_reserved_for_the_profile_that_uses_it(compose: dict[str, Any]) -> None:
    reserved = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in compose["services"].items()
        if "reservations" in service["deploy"]["resources"]
    }
    assert list(reserved) == ["worker-embed-gpu"]
    assert reserved["worker-embed-gpu"][0]["capabilities"] == ["gpu"]
    assert compose["services"]["worker-embed-gpu"]["profiles"] == ["gpu"]
    # So that `docker compose up --scale worker-embed=3` works as it is.
    assert deployment.dotenv_example()["COMPOSE_PROFILES"] in compose["services"]["worker-embed"]["profiles"]


def test_the_gpus_image_can_compile_and_load_what_it_compiled(compose: dict[str, Any]) -> None:
    dockerfile = (deployment.ROOT / "Dockerfile").read_text(encoding="utf-8")
    stage = dockerfile.partition(" AS cuda\n")[2]
    assert re.search(r"apt-get install .*\bgcc libc6-dev\b", stage)
    assert re.findall(r"^USER (.*)$", stage, flags=re.MULTILINE)[-1] == "10001:10001"
    caches = dict(re.findall(r"\b((?:TORCHINDUCTOR|TRITON)_CACHE_DIR)=(\S+)", stage))
    assert {pathlib.PurePath(folder).parent.as_posix() for folder in caches.values()} == {"/tmp"}  # noqa: S108
    assert len(caches) == 2
    on_gpu = [service for service in compose["services"].values() if service["image"] == "listing-dedup:cuda"]
    assert [service["tmpfs"] for service in on_gpu] == [["/tmp:exec"]]  # noqa: S108


def test_every_command_is_one_of_dedup(compose: dict[str, Any]) -> None:
    dockerfile = (deployment.ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["dedup"]' in dockerfile
    commands = [compose["services"][name]["command"] for name in OURS]
    checks = [
        compose["services"][name]["healthcheck"]["test"]
        for name in OURS
        if name not in ("migrate", "store-setup")
    ]
    assert {tuple(check[:2]) for check in checks} == {("CMD", "dedup")}
    for arguments in [*commands, *(check[2:] for check in checks)]:
        assert understood(arguments), arguments
    assert not understood(["worker", "embed", "--bulky"])


def understood(arguments: list[str]) -> bool:
    """Whether `dedup` knows the command and takes these options; nothing is run."""
    command: Any = typer.main.get_command(cli.app)
    rest = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands.get(rest.pop(0) if rest else None)
    try:
        return command is not None and command.make_context(command.name, rest) is not None
    except Exception as error:
        # Typer has a copy of click of its own, whose errors of usage have no public name.
        if getattr(error, "exit_code", None) == 2:
            return False
        raise


def test_the_brokers_definitions_are_what_the_workers_declare() -> None:
    text = (deployment.ROOT / "deploy/compose/rabbitmq-definitions.json").read_text(encoding="utf-8")
    definitions = json.loads(text)
    assert [user["password"] for user in definitions["users"]] == [
        "@RABBITMQ_PASSWORD@",
        "@RABBITMQ_STORE_PASSWORD@",
    ]
    queues = {queue["name"]: queue for queue in definitions["queues"]}
    exchanges = {exchange["name"]: exchange["type"] for exchange in definitions["exchanges"]}
    config = settings.Settings(event_broker_url="amqp://broker", event_queue="dedup-events")
    of_events = event_queue.events(config), event_queue.dead_letters(config)
    for queue in (*app.app.conf.task_queues, dead_letters._QUEUE, *of_events):
        assert queues[queue.name]["arguments"] == (queue.queue_arguments or {})
        assert exchanges[queue.exchange.name] == queue.exchange.type
        assert {
            "source": queue.exchange.name,
            "destination": queue.name,
            "routing_key": queue.routing_key,
        }.items() <= (
            next(entry for entry in definitions["bindings"] if entry["destination"] == queue.name).items()
        )
    assert set(queues) == {*app.TASK_QUEUES, app.DEAD_LETTERS, *(queue.name for queue in of_events)}


def test_a_password_that_would_break_out_of_the_definitions_is_refused(tmp_path: pathlib.Path) -> None:
    script = deployment.ROOT / "deploy/compose/rabbitmq-start.sh"

    def start(password: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(script), "true"],
            env={
                **os.environ,
                "RABBITMQ_PASSWORD": password,
                "RABBITMQ_STORE_PASSWORD": "y" * 20,
                "DEFINITIONS": str(tmp_path / "definitions.json"),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    for wrong in ("", 'x", "tags": ["administrator"], "z": "', "a/b", "a&b"):
        refused = start(wrong)
        assert refused.returncode == 78
        assert "letters and digits only" in refused.stderr
    assert start("x" * 20).returncode == 0
    definitions = json.loads((tmp_path / "definitions.json").read_text())
    assert [user["password"] for user in definitions["users"]] == ["x" * 20, "y" * 20]
    assert (tmp_path / "definitions.json").stat().st_mode & 0o077 == 0


def test_the_image_without_torch_has_the_versions_of_the_others() -> None:
    def pins(name: str) -> dict[str, str]:
        text = (deployment.ROOT / "requirements" / name).read_text(encoding="utf-8")
        found = re.findall(r"^([a-z0-9-]+)==(\S+)(.*)$", text, flags=re.MULTILINE)
        return {package: version for package, version, rest in found if "'never'" not in rest}

    light, full = pins("light.lock"), pins("runtime.lock")
    assert light.items() <= full.items()
    assert not {name for name in light if re.match("torch|nvidia|triton|cuda", name)}
    assert {"celery", "psycopg", "boto3", "numpy"} <= set(light)
