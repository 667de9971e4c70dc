"""`dedup` on a machine whose clock is wrong by so many hours; what measures time (the monotonic clock) runs on."""

from __future__ import annotations

import datetime
import os

import time_machine

HOURS = "SKEWED_TEST_HOURS"
"""Environment variable: how many hours the clock is ahead; negative: behind."""


def main() -> None:
    """Run the command line by such a clock."""
    ahead = datetime.timedelta(hours=float(os.environ[HOURS]))
    with time_machine.travel(datetime.datetime.now(datetime.UTC) + ahead, tick=True):
        # Imported by that clock, too.
        from workers import cli

        cli.main()


if __name__ == "__main__":
    main()
