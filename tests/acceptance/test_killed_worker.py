"""What a killed worker held in its hands is done by another one."""

from __future__ import annotations

import os
import signal

from . import pictures
from . import system as acceptance

PROPERTIES = 12
EMBED_WORKERS = ("embed", "embed-2")


def test_killed_embed_workers_lose_nothing(system: acceptance.System, property_id: str) -> None:
    names = [f"{property_id}-{number:02d}" for number in range(PROPERTIES)]
    expected = {"a.jpg": "embedded", "b.jpg": "embedded", "c.jpg": "embedded"}
    for name in names:
        system.upload(name, "a.jpg", pictures.jpeg("bedroom"))
        system.upload(name, "b.jpg", pictures.jpeg("bathroom"))
        system.upload(name, "c.jpg", pictures.jpeg("bedroom", quality=60))

    taken = acceptance.until(
        lambda: _stop_with_photos_in_hand(system, property_id), "the workers are in the middle of a batch"
    )
    killed = {name: system.stack._processes[name] for name in EMBED_WORKERS}
    for process in killed.values():
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    # Stopped before they were killed, they had no time left to finish any.
    assert _in_hand(system, property_id) == taken
    system.settle()

    for name in names:
        assert system.statuses(name) == expected
        ((flagged, canonical),) = system.flags(name).items()
        assert {flagged, canonical} == {"a.jpg", "c.jpg"}
    again = {line["photo_id"] for name in EMBED_WORKERS for line in system.log(name) if "photo_id" in line}
    assert taken <= again
    assert all(system.stack._processes[name] is not process for name, process in killed.items())


def _stop_with_photos_in_hand(system: acceptance.System, property_id: str) -> set[int]:
    """Halt both workers if they have begun photos and finished none of those; else let them go on."""
    if not _in_hand(system, property_id):
        return set()
    pids = [system.stack._processes[name].pid for name in EMBED_WORKERS]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    # What they had sent before, the database still does.
    acceptance.until(lambda: not _statements_running(system), "the database is idle")
    taken = _in_hand(system, property_id)
    if not taken:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    return taken


def _in_hand(system: acceptance.System, property_id: str) -> set[int]:
    found = system.ask(
        "SELECT id FROM photo WHERE property_id LIKE %(like)s AND status = 'pending' AND attempts > 0",
        like=f"{property_id}-%",
    )
    return {row["id"] for row in found}


def _statements_running(system: acceptance.System) -> list[acceptance.Row]:
    return system.ask(
        "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND application_name = 'listing-dedup' "
        "AND wait_event_type IS DISTINCT FROM 'Client'"
    )
