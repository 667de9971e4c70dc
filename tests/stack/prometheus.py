"""Prometheus over the processes of a stack: the machine's own program, with its data in the stack's folder."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import yaml

from tests import deployment
from workers import embedded_host

ALERTS = deployment.ROOT / "deploy" / "prometheus" / "alerts.yml"
JOB = "listing-dedup"
_SCRAPE_SECONDS = 2
_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0


def write_targets(path: pathlib.Path, targets: Mapping[str, str]) -> None:
    """Write where each service tells its metrics, as Prometheus reads it (file_sd): host and port by service."""
    found = [
        {"targets": [address], "labels": {"job": JOB, "service": name}} for name, address in targets.items()
    ]
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")


class Prometheus:
    """A Prometheus that reads its targets from a file. A context manager; nothing where there is no program."""

    def __init__(self, folder: pathlib.Path, targets: pathlib.Path) -> None:
        self._folder = folder
        self._targets = targets
        self._program = shutil.which("prometheus")
        self._process: subprocess.Popen[bytes] | None = None
        self.url: str | None = None

    def __enter__(self) -> Prometheus:
        if self._program is None:
            return self
        self._folder.mkdir(exist_ok=True)
        configuration = self._folder / "prometheus.yml"
        configuration.write_text(yaml.safe_dump(self._configuration()), encoding="utf-8")
        address = f"{embedded_host.HOST}:{embedded_host.choose_port(self._folder / 'port')}"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={address}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C goes to the stack alone, which stops it last.
                start_new_session=True,
            )
        self.url = f"http://{address}"
        if not embedded_host.wait_until(self._answers, _READY_SECONDS):
            self.__exit__()
            raise SystemExit(f"Prometheus does not start:\n{embedded_host.tail(self._folder / 'log')}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _configuration(self) -> dict[str, Any]:
        rules = {"rule_files": [str(ALERTS)]} if ALERTS.is_file() else {}
        return {
            "global": {"scrape_interval": f"{_SCRAPE_SECONDS}s", "evaluation_interval": "15s"},
            "scrape_configs": [
                {
                    "job_name": JOB,
                    "file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": "5s"}],
                }
            ],
            **rules,
        }

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:  # noqa: S310 - our own
                return bool(answer.status == 200)
        except OSError:
            return False


def ask(url: str, expression: str) -> list[dict[str, Any]]:
    """What a Prometheus gives for an expression: ``{"metric": {…labels}, "value": [time, text]}`` each."""
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=30) as answer:  # noqa: S310 - our own
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found
