"""`make stack`: docker-compose.yml's own processes until Ctrl-C, on parts that this machine has."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence

from core import errors
from core import settings as core_settings
from tests import deployment
from tests.stack import broker, prometheus, services
from workers import embedded, processes, scan

TARGETS = "targets.json"
"""File of the data folder: where each process tells its metrics, as Prometheus' file_sd."""

_UNTRAINED = (
    "the weights are random: near-identical pictures are found, and pictures that have nothing in common may be "
    "flagged, too. See DEDUP_BACKBONE_WEIGHTS."
)

PROMETHEUS = "prometheus.url"
"""Likewise: where Prometheus is; empty where there is none."""


def main() -> int:
    """Run until told to stop; exit code 0, or one of `dedup`'s."""
    try:
        _run()
    except errors.DedupError as error:
        print(error, file=sys.stderr)
        return processes.EXIT_CONFIGURATION
    except KeyboardInterrupt:
        print("Stopped while starting.", file=sys.stderr)
    return 0


def _run() -> None:
    model = scan.choose_model(fall_back=True)
    # A database stays with the weights that it was begun with.
    folder = core_settings.get().data_dir / f"stack-{model.bundle_id[:8]}"
    file = services.compose({"BUCKET": "photos"})
    profiles = deployment.dotenv_example()["COMPOSE_PROFILES"].split(",")
    ours = services.ours(file, profiles)
    given = services.settings(ours)
    if "DEDUP_BACKBONE_WEIGHTS" not in os.environ:
        given["DEDUP_BACKBONE_WEIGHTS"] = model.weights
    with contextlib.ExitStack() as parts:
        url = os.environ.get("DEDUP_BROKER_URL") or parts.enter_context(broker.rabbitmq())
        own = {"DEDUP_BROKER_URL": url} if url else {}
        stack = parts.enter_context(embedded.Stack(folder, {**given, **own}, {}))
        for name, arguments in services.ending(ours, stack.store).items():
            _once(stack, name, arguments)
        for name, arguments in services.lasting(ours).items():
            stack.start_process(name, arguments)
        targets = {name: urllib.parse.urlsplit(url).netloc for name, url in stack.health_urls().items()}
        prometheus.write_targets(folder / TARGETS, targets)
        watch = parts.enter_context(prometheus.Prometheus(folder / "prometheus", folder / TARGETS))
        (folder / PROMETHEUS).write_text(watch.url or "", encoding="utf-8")
        stack.write_environment(folder / "environment")
        print("Starting.", flush=True)
        while not _ready(stack):
            time.sleep(0.5)
        if model.untrained:
            print(f"No trained network at hand: {_UNTRAINED}", flush=True)
        print(_addresses(stack, targets, watch.url), flush=True)
        stack.run_until_interrupted()
        print("Stopping.", flush=True)


def _once(stack: embedded.Stack, name: str, arguments: Sequence[str]) -> None:
    """Run a service that ends."""
    path = stack.log_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-m", "workers", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **stack.environment},
            start_new_session=True,
            check=False,
        )
    if done.returncode:
        raise errors.ConfigurationError(f"{name} ended with {done.returncode}; see {path}")


def _ready(stack: embedded.Stack) -> bool:
    """Whether all processes are well.

    Raises:
        ConfigurationError: one of them cannot run.
    """
    stack.check()
    for url in stack.health_urls().values():
        try:
            urllib.request.urlopen(url, timeout=10).close()  # noqa: S310 - an address of our own
        except OSError:
            return False
    return True


def _addresses(stack: embedded.Stack, targets: Mapping[str, str], prometheus_url: str | None) -> str:
    environment = stack.environment
    place = environment["DEDUP_BROKER_URL"].rpartition("@")[2]
    width = max(map(len, targets))
    return "\n".join(
        [
            "The processes of docker-compose.yml:",
            *(f"  {name:{width}}  http://{address}/healthz  /metrics" for name, address in targets.items()),
            f"Postgres    {stack.postgres.url()}",
            f"            {stack.reader_url} (the listing system's login)",
            f"            {stack.editor_url} (a moderator's, for record_verdict)",
            f"Broker      {environment['DEDUP_BROKER_URL'].partition('://')[0]}://…@{place}",
            f"Look        psql '{stack.reader_url}' -c 'TABLE listing_duplicates'",
            f"S3 and SQS  {stack.store.endpoint_url} (bucket {stack.store.bucket}, queue {stack.store.queue})",
            f"Prometheus  {prometheus_url or 'none on the PATH (Debian: apt-get install prometheus)'}",
            f"Logs        {stack.log_file('ingest').parent}",
            f"dedup       (. {stack.data_dir / 'environment'}; dedup doctor)",
            f"Upload      (. {stack.data_dir / 'environment'}; aws --endpoint-url $DEDUP_S3_ENDPOINT_URL s3 cp a.jpg "
            f"s3://{stack.store.bucket}/properties/42/photos/a.jpg)",
            f"Backfills   and replays need a further process: (. {stack.data_dir / 'environment'}; dedup worker embed "
            "--bulk)",
            "Ports change at each start: read the environment file again after it.",
            "",
            "Ctrl-C stops it; the data stays.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
