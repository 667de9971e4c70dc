"""`make soak`: events out of order and twice, everything killed at random, and no difference in the end."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import os
import pathlib
import random
import shlex
import sys
import time
from collections.abc import Sequence

from core import settings
from tests.soak import harness

RESULTS = pathlib.Path(__file__).parents[2] / "docs" / "results" / "soak.csv"
_SHOWN = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Soak on each broker; exit code 1 where a table differs from what it must hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3, help="of traffic and faults, on each broker")
    parser.add_argument("--seed", type=int, help="of operations, events and faults; default: a new one")
    parser.add_argument("--broker", choices=[*harness.BROKERS, "both"], default="both")
    parser.add_argument("--output", action="store_true", help=f"write docs/results/{RESULTS.name}")
    arguments = parser.parse_args(argv)
    seed = random.randrange(2**31) if arguments.seed is None else arguments.seed
    for name in [name for name in os.environ if name.startswith(settings.PREFIX)]:
        del os.environ[name]
    brokers = harness.BROKERS if arguments.broker == "both" else (arguments.broker,)
    results = [_run(name, seed, arguments.minutes) for name in brokers]
    if arguments.output:
        command = (
            f"python -m tests.soak --minutes {arguments.minutes:g} --seed {seed} --broker {arguments.broker}"
        )
        _write(results, shlex.join(shlex.split(command)))
    return int(any(result.differences for result in results))


def _run(broker: str, seed: int, minutes: float) -> harness.Result:
    start = time.monotonic()

    def say(words: str) -> None:
        print(f"[{broker} {time.monotonic() - start:4.0f} s] {words}", flush=True)

    say(f"seed {seed}, {minutes:g} minutes")
    result = harness.run(broker, seed, minutes, say)
    for name, value in _figures(result).items():
        print(f"  {name:<24} {value}")
    for difference in result.differences[:_SHOWN]:
        print(f"    {difference}")
    return result


def _figures(result: harness.Result) -> dict[str, object]:
    faults = ", ".join(f"{name} {count}" for name, count in result.faults.items())
    return {
        "broker": result.broker,
        "seed": result.seed,
        "minutes": f"{result.minutes:g}",
        "photos": result.photos,
        "properties": result.properties,
        **dataclasses.asdict(result.counts),
        "faults": sum(result.faults.values()),
        "faults_by_kind": faults,
        "attempts": result.attempts,
        "attempts_again": result.rerun,
        "drain_seconds": f"{result.drain_seconds:.0f}",
        "differences": len(result.differences),
    }


def _write(results: Sequence[harness.Result], command: str) -> None:
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = [{**_figures(result), "date": date, "command": command} for result in results]
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
