"""The files that an installation is made of, as the tests read them."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from core import connection_urls, settings
from workers import stopping

ROOT = pathlib.Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


def compose(environment: Mapping[str, str]) -> dict[str, Any]:
    """docker-compose.yml with its variables filled in as Compose does; KeyError for one that must be set and isn't."""
    found: dict[str, Any] = yaml.safe_load(interpolated(COMPOSE.read_text(encoding="utf-8"), environment))
    return found


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """A text with ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?error}`` filled in."""

    def fill(match: re.Match[str]) -> str:
        value = environment.get(match["name"], "")
        if value:
            return value
        if match["kind"] == "-":
            return match["text"]
        raise KeyError(match["name"])

    return _VARIABLE.sub(fill, text)


def variables(text: str) -> dict[str, str | None]:
    """Names of the variables in a text, each with what stands for it when it isn't set; None: it must be set."""
    return {
        match["name"]: match["text"] if match["kind"] == "-" else None for match in _VARIABLE.finditer(text)
    }


def known_settings() -> set[str]:
    """Every variable that our processes understand."""
    names = {settings.PREFIX + name.upper() for name in settings.Settings.model_fields}
    files = {f"{settings.PREFIX}{name.upper()}{connection_urls.FILE_SUFFIX}" for name in settings.SECRETS}
    return names | files


def least_grace_seconds(environment: Mapping[str, str]) -> float:
    """How long a process with these settings must be given between being told to stop and being killed."""
    given = environment.get("DEDUP_STOP_SECONDS", settings.Settings.model_fields["stop_seconds"].default)
    # Work in hand is given back in two steps; the rest is for what comes before and after.
    return float(given) + 2 * stopping.LAST_SECONDS + 5


def dotenv_example() -> dict[str, str]:
    """The variables of .env.example."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def dockerfile_targets() -> set[str]:
    """The names of the Dockerfile's stages."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    return set(re.findall(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE))
