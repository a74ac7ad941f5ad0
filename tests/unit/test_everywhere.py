"""What an order to the whole cluster waits for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from highlanderd.core.cluster import ClusterOverview, ClusterProgram, UnableNode
from highlanderd.core.states import NOBODY
from highlanderd.errors import TimedOut
from highlanderd.listeners.everywhere import Patience, start
from tests.support.memory_node import MemoryNode, program

NIGHTLY = ClusterProgram(
    "nightly",
    lock_id=7,
    leader=None,
    epoch=7,
    since=None,
    ready=False,
    candidates=("web-2",),
    unable=(),
    stopped=None,
    drift=(),
    reason="next run at 2026-11-29T02:30:00Z",
    scheduled=True,
)


def _started(node: MemoryNode, shown: ClusterProgram) -> ClusterProgram | None:
    """Start a program everywhere, and look at the outcome once."""
    node.overview = ClusterOverview((), (shown,), {shown.name: shown})
    return asyncio.run(start(node, shown.name, NOBODY, Patience(0.0, lambda: False)))


def test_a_job_that_is_not_in_the_file_of_this_node_is_started_once_a_node_waits_for_its_times() -> None:
    assert _started(MemoryNode(), NIGHTLY) == NIGHTLY
    not_yet = replace(NIGHTLY, candidates=(), unable=(UnableNode("web-2", "stopped everywhere by ann"),))
    for waits in (not_yet, replace(NIGHTLY, scheduled=False)):
        with pytest.raises(TimedOut, match="no node leads nightly yet after 0 s"):
            _started(MemoryNode(), waits)


def test_what_is_between_two_runs_or_has_finished_is_started_though_no_node_leads_it() -> None:
    for facts in ({"idle": True}, {"finished": True}):
        assert _started(MemoryNode(program("nightly", "waiting", **facts)), NIGHTLY) == NIGHTLY
    with pytest.raises(TimedOut):
        _started(MemoryNode(program("nightly", "waiting")), NIGHTLY)
