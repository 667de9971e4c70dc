from __future__ import annotations

import pytest

from core import embedding
from workers import embed


@pytest.mark.parametrize(
    ("device", "batch_size", "tasks"), [("cpu", None, 3), ("cuda", 64, 13), ("cuda", 256, 33)]
)
def test_tasks_of_a_backfill_hold_what_is_in_flight(device: str, batch_size: int | None, tasks: int) -> None:
    assert embed.bulk_tasks(embedding.photos_in_flight(None, device, batch_size)) == tasks
