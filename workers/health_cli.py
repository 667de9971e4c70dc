"""The command `dedup health`: for the health check of a container, whose image needs no other HTTP client then."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Annotated

import typer

from core import errors, settings

_SECONDS = 5.0

UrlOption = Annotated[
    str | None,
    typer.Option(
        help="Address to ask, with or without a path; default: this machine's, by DEDUP_HEALTH_PORT."
    ),
]
LiveOption = Annotated[
    bool,
    typer.Option("--live", help="Ask only whether a new start would help (/livez), not whether all is well."),
]


def register(app: typer.Typer) -> None:
    """Add the command to `dedup`."""
    app.command("health")(health)


def health(url: UrlOption = None, live: LiveOption = False) -> None:
    """Ask a running process how it is; exit code 1 when it is not well, 75 when it does not answer."""
    told = ask(_named(url, live) if url else _address(live))
    print(json.dumps(told, ensure_ascii=False))
    if told.get("reasons"):
        raise typer.Exit(1)


def ask(url: str) -> dict[str, object]:
    """What a process tells of itself.

    Raises:
        TransientError: it does not answer, or something else does.
    """
    if not url.startswith(("http://", "https://")):
        raise errors.ConfigurationError(f"--url {url}: must start with http:// or https://.")
    try:
        try:
            with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - the scheme is checked
                body = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                body = error.read()
        told = json.loads(body)
        if "reasons" not in told:
            raise ValueError(f"it says {told}")
    except (OSError, ValueError, TypeError) as error:
        raise errors.TransientError(
            f"{url} tells no health ({error}); is DEDUP_HEALTH_PORT set for the process, and does it run?"
        ) from error
    return dict(told)


def _path(live: bool) -> str:
    return "/livez" if live else "/healthz"


def _named(url: str, live: bool) -> str:
    parts = urllib.parse.urlsplit(url)
    return url if parts.path else parts._replace(path=_path(live)).geturl()


def _address(live: bool) -> str:
    config = settings.get()
    if config.health_port is None:
        raise errors.ConfigurationError("Set DEDUP_HEALTH_PORT to the process's port, or give --url.")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.health_host, config.health_host)  # noqa: S104
    return f"http://{host}:{config.health_port}{_path(live)}"
