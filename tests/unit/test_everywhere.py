"""What an order to the whole cluster waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from highlanderd.core.cluster import ClusterNode, ClusterOverview, ClusterProgram, Held, UnableNode
from highlanderd.core.states import NOBODY, Author
from highlanderd.core.status import MigrationReport
from highlanderd.errors import HighlanderError, NeedsForce, NoSuchNode, TimedOut
from highlanderd.listeners.everywhere import Patience, drain, start, stop
from highlanderd.structs import replace
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
        with pytest.raises(TimedOut, match="no node has nightly ready yet after 0 s"):
            _started(MemoryNode(), waits)


def test_what_is_between_two_runs_or_has_finished_is_started_though_no_node_leads_it() -> None:
    for facts in ({"idle": True}, {"finished": True}):
        assert _started(MemoryNode(program("nightly", "waiting", **facts)), NIGHTLY) == NIGHTLY
    with pytest.raises(TimedOut):
        _started(MemoryNode(program("nightly", "waiting")), NIGHTLY)


def test_what_a_started_program_waits_for_is_told_before_the_ledger_says_so() -> None:
    fresh = replace(NIGHTLY, reason="")
    why = "finished on a; `start` runs it again"
    node = MemoryNode(program("nightly", "waiting", finished=True, reason=why))
    assert _started(node, fresh) == replace(fresh, reason=why)
    assert _started(MemoryNode(), fresh) == fresh


def _shown(*terms: ClusterProgram) -> Overtaken:
    return Overtaken(*(ClusterOverview((), (one,), {one.name: one}) for one in terms))


def test_a_start_is_not_done_while_the_leader_drains_for_the_stop_that_it_lifts() -> None:
    stopped = replace(NIGHTLY, leader="a", ready=True, stopped=Held("ann", "", "2026-01-02T03:04:05.678Z"))
    ready_still, draining = replace(stopped, stopped=None), replace(stopped, ready=False, stopped=None)
    again = replace(draining, epoch=8)
    up, patience = replace(again, ready=True), Patience(60.0, lambda: False)
    terms = _shown(stopped, ready_still, draining, again, up)
    assert asyncio.run(start(terms, "nightly", NOBODY, patience)) == up
    never_drained = _shown(stopped, ready_still)
    assert asyncio.run(start(never_drained, "nightly", NOBODY, patience)) == ready_still
    was_up = _shown(up, up)
    assert asyncio.run(start(was_up, "nightly", NOBODY, Patience(0.0, lambda: False))) == up


class Refusing(MemoryNode):
    """Refuses to drain node b once that is written."""

    async def drain(self, node: str, by: Author, confirm: Callable[[], Awaitable[None]]) -> None:
        if node == "b":
            raise NeedsForce("no other node could lead beat now")
        await super().drain(node, by, confirm)


@pytest.mark.parametrize("force", [True, False])
def test_a_drain_of_several_nodes_is_judged_for_all_and_says_what_stands(force: bool) -> None:
    node = Refusing()
    nodes = tuple(ClusterNode(name, "i", "1", None, None, None, present=True) for name in "ab")
    node.overview, node.migration = ClusterOverview(nodes, (), {}), MigrationReport(3, migrated=False, waits_for=())
    patience = Patience(0.0, lambda: False)
    stands = "no other node could lead beat now; drained are a, until 'highlanderctl resume a'"
    with pytest.raises(NeedsForce, match=f"^{stands}$"):
        asyncio.run(drain(node, ["a", "b"], NOBODY, patience, force=force))
    node.orders.clear()
    if not force:
        with pytest.raises(NoSuchNode):
            asyncio.run(drain(node, ["a", "nix"], NOBODY, patience, force=False))
        assert node.orders == []


class Overtaken(MemoryNode):
    """Shows first that an order stands, and from the second look on that it stands no longer."""

    def __init__(self, *overviews: ClusterOverview) -> None:
        super().__init__()
        self.overviews = list(overviews)

    async def cluster(self) -> ClusterOverview:
        return self.overviews.pop(0) if len(self.overviews) > 1 else self.overviews[0]


def test_an_order_that_a_later_one_overtakes_is_not_waited_for_and_does_not_stand() -> None:
    held, patience = Held("ann", "", "2026-01-02T03:04:05.678Z"), Patience(5.0, lambda: False)

    def shown(leader: str | None, stopped: Held | None, drained: Held | None = None) -> ClusterOverview:
        one = replace(NIGHTLY, leader=leader, candidates=(), stopped=stopped)
        return ClusterOverview(
            (ClusterNode("a", "i", "1", None, None, drained, present=True),), (one,), {one.name: one}
        )

    with pytest.raises(HighlanderError, match=r"^a later order has overtaken this one: nightly was started everywhere"):
        asyncio.run(stop(Overtaken(shown("a", held), shown("a", None)), "nightly", NOBODY, patience))
    with pytest.raises(HighlanderError, match=r"^a later order has overtaken this one: nightly was stopped everywhere"):
        asyncio.run(
            start(Overtaken(shown(None, held), shown(None, None), shown(None, held)), "nightly", NOBODY, patience)
        )
    resumed = Overtaken(shown("a", None, held), shown("a", None))
    with pytest.raises(HighlanderError, match=r"^a later order has overtaken this one: a was resumed"):
        asyncio.run(drain(resumed, ["a"], NOBODY, patience, force=True))
    kept = Overtaken(shown("a", held), shown(None, held))
    assert asyncio.run(stop(kept, "nightly", NOBODY, patience)) == replace(NIGHTLY, candidates=(), stopped=held)
