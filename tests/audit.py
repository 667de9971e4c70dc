"""Known vulnerabilities of the locked dependencies: `make audit`.

pip-audit calls a package that its service does not know "skipped" and ends as if all were well, so where no service
answers it would find nothing wrong with anything. This tells how many were looked at, and fails only on what was found.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
SERVICES = ("pypi", "osv")
LOCKS = tuple(ROOT / "requirements" / name for name in ("runtime.lock", "light.lock", "dev.lock", "uv.lock"))
"""The images', and what builds and tests them, with every extra that may be installed."""

TIMEOUT_SECONDS = 180


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """How many packages of a report were looked at, and what was found, a line each."""
    looked_at = [entry for entry in report["dependencies"] if "skip_reason" not in entry]
    found = [
        f"{entry['name']} {entry['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'nothing yet'}"
        for entry in looked_at
        for flaw in entry["vulns"]
    ]
    return len(looked_at), found


def ask(locks: Sequence[pathlib.Path], service: str) -> dict[str, Any] | None:
    """The report of one service; None where it does not answer."""
    program = pathlib.Path(sysconfig.get_path("scripts")) / "pip-audit"
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        arguments = [
            "--require-hashes",
            "--disable-pip",
            "--progress-spinner=off",
            "--timeout=10",
            "--format=json",
        ]
        try:
            subprocess.run(
                [
                    str(program),
                    *arguments,
                    f"--vulnerability-service={service}",
                    f"--output={report}",
                    *(f"--requirement={lock}" for lock in locks),
                ],
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
        if not report.exists():
            return None
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def main() -> int:
    """Ask one service after the other; 1 when a vulnerability is known, 0 also when none could be asked."""
    for service in SERVICES:
        report = ask(LOCKS, service)
        if report is None:
            print(f"{service}: does not answer")
            continue
        count, found = verdict(report)
        total = len(report["dependencies"])
        print(f"{service}: {count} of {total} packages looked at, {len(found)} vulnerabilities known")
        if count:
            print("\n".join(found))
            return 1 if found else 0
    print("NOTHING was audited: no service of vulnerabilities answers from here.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
