"""The tests' own tools: what one test leaves behind is not in the way of the next one."""

from __future__ import annotations

import pytest

from . import system as acceptance


@pytest.mark.parametrize("turn", [1, 2])
def test_a_message_that_nobody_takes_is_gone_in_the_next_test(system: acceptance.System, turn: int) -> None:
    # A worker of the queue may have been there in an earlier module; none is now.
    system.ask("SELECT pgmq.create('embed_bulk')")
    system.settle(deadline_seconds=20)
    system.ask("SELECT pgmq.send('embed_bulk', '{}')")
    assert not system._is_quiet(), f"turn {turn}: left for the next one"
