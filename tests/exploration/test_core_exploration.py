"""Every way through a small world, around the real machine, verdict, lease and memo; and proof that the search sees.

What is explored here, breadth first, from the moment at which the first node leads and the others know it:

* two nodes, and one misfortune of each kind, or one order of each kind, with every interleaving of messages and
  processes: *all* that can be reached for those in ``ALL_WAYS`` and for every order but the
  one that stops the program everywhere;
* the same misfortunes with everything prompt happening at once (``swift``): all of it for those in ``ALL_SWIFT``;
* three nodes, all kinds together, two misfortunes and an order, in either way;
* clocks that run 1 % fast and 1 % slow, either way round, for 50 ticks (two and a half leases): 6,000 worlds each;
* a new ledger, a changed lock key, a release under way, and a primary that lives on beside its promoted synchronous
  standby, where one wait for that standby may be cancelled, in either way;
* children that are asked whether they are ready and well: every moment at which they may be, with such misfortunes;
* a program that every node leaves to the first one for a moment, whether that is there or not;
* waiting nodes that share connections, and have one of their own for a takeover;
* waiting nodes that rest on surveys, and look when those advise it;
* renewals that another program's session asks for, on whichever server, and however late;
* a session that holds the locks of other programs, too, which a program may leave at any moment;
* a program with a schedule, whose one time has come;
* a hook before the program, which counts as a child: of every length, and failing at any moment;
* orders for another lease and for maintenance, alone: *all* that can be reached;
* what may befall a ledger (``SCENES``): leases that change while standbys lag and leaders are cut off, a ledger that is
  made anew, restored or put back, rows that arrive from another server, an old primary that is started again or serves
  on, lockers of a lapsed epoch, two keys of one program: *all* of it for those in ``ALL_SCENES``.

Where nothing else is said, a search ends at 1,000 worlds: ``make explore`` goes deeper. One world in 500 is also
followed without misfortune: somebody leads within four leases.
"""

from __future__ import annotations

import pytest

from tests.exploration.explore import explore
from tests.exploration.mutations import MUTATIONS
from tests.exploration.world import FAULTS, LEAVES, LENGTHS, ORDERS, PROBE_FAULTS, Rules, World
from tests.exploration.world_stories import SCENES, STORIES, led, overtaken, rejoined, waited
from tests.support.long import first_of

ALL_WAYS = frozenset({"cancel", "exit", "freeze guardian", "freeze keeper", "keeper"})
ALL_SCENES = frozenset(
    {
        "maintenance is ordered while the standby lags",
        "maintenance, and a standby that knows its ceiling alone",
        "the old primary is started again",
    }
)
ALL_SWIFT = ALL_WAYS | {"failover", "reset", "restart", "upgrade"}
PROBED = ("worker", "keeper", "exit", "cut", "freeze worker", "stop", "again")
PLACED = ("cut", "crash", "exit", "failover", "freeze worker", "worker", "release", "reserve")
WAITING = ("cut", "crash", "freeze worker", "isolate", "worker", "release", *sorted(ALL_SWIFT))
FOUND_LATE = frozenset(
    {
        "the deadline is not compared when the hook is over",
        "a preferred node does not wait for the lease",
        "what a ledger has promised is forgotten with it",
        "released is trusted across a change of timeline",
        "a takeover beside another unreleased row of the program",
        "a look counts from its sending",
        "what another session has renewed counts from the arrival of its answer",
    }
)
"""Broken rules that take a search many seconds."""

FIRST_WORLDS = 1_000
"""Where a search ends that does not claim to see all, and that ``make explore`` repeats."""
ALL = 10_000
"""More worlds than there are where a search claims to see all."""


def _unless(cheap: bool, case: str) -> object:
    """Return a case for ``parametrize``: what takes long is left to ``make test-long``."""
    return case if cheap else pytest.param(case, marks=pytest.mark.long)


def test_nobody_is_harmed_from_the_very_first_start_on() -> None:
    found = explore(waited(Rules(), "AB", 0, 0), ALL)
    assert found.complete, found
    assert not found.trace, found


@pytest.mark.parametrize("kind", [_unless(kind in ALL_WAYS, kind) for kind in FAULTS])
def test_no_single_misfortune_breaks_the_promise_whatever_follows(kind: str) -> None:
    found = explore(led(Rules(kinds=frozenset({kind})), "AB", 1, 0), _bound(kind in ALL_WAYS))
    assert not found.trace, found
    assert found.complete or kind not in ALL_WAYS, found


@pytest.mark.parametrize("kind", FAULTS)
def test_no_single_misfortune_breaks_the_promise_where_nothing_else_is_late(kind: str) -> None:
    found = explore(led(Rules(kinds=frozenset({kind}), swift=True), "AB", 1, 0), _bound(kind in ALL_SWIFT))
    assert not found.trace, found
    assert found.complete or kind not in ALL_SWIFT, found


@pytest.mark.parametrize("kind", first_of([*PROBE_FAULTS, *PROBED]))
def test_a_child_that_is_asked_whether_it_is_ready_and_well_breaks_nothing(kind: str) -> None:
    """It may be ready at any moment, or not in time, again and again; then its term ends."""
    rules = Rules(kinds=frozenset({kind}), swift=True, probes=True)
    found = explore(led(rules, "AB", int(kind not in ORDERS), int(kind in ORDERS)), _bound(whole=False))
    assert not found.trace, found


HOOKED = ("cut", "crash", "reset", "worker", "keeper", "freeze worker", "freeze keeper", "freeze node", "stop", "again")


@pytest.mark.parametrize("kind", first_of(HOOKED))
def test_a_hook_before_the_program_breaks_nothing_however_long_it_takes_and_whether_it_fails(kind: str) -> None:
    rules = Rules(kinds=frozenset({kind}), swift=True, hooks=True)
    found = explore(waited(rules, "AB", int(kind not in ORDERS), int(kind in ORDERS)), _bound(whole=False))
    assert not found.trace, found


@pytest.mark.parametrize("kind", first_of(PLACED))
def test_a_program_that_is_left_to_a_preferred_node_for_a_moment_harms_nothing(kind: str) -> None:
    rules = Rules(kinds=frozenset({kind}), swift=True, placed=True)
    found = explore(led(rules, "AB", int(kind not in ORDERS), int(kind in ORDERS)), _bound(whole=False))
    assert not found.trace, found


@pytest.mark.parametrize("kind", first_of(WAITING))
def test_waiting_nodes_that_share_connections_break_nothing(kind: str) -> None:
    """Each takes one of its own for a takeover, and gives it back when a look shows that it is of no use."""
    rules = Rules(kinds=frozenset({kind}), swift=True, shared=True)
    found = explore(led(rules, "AB", int(kind not in ORDERS), int(kind in ORDERS)), _bound(whole=False))
    assert not found.trace, found


@pytest.mark.parametrize("kind", first_of(WAITING))
def test_programs_that_rest_on_surveys_while_another_node_leads_break_nothing(kind: str) -> None:
    """A survey comes at any moment; what it shows of a version counts from then on, and some look only when advised."""
    rules = Rules(kinds=frozenset({kind}), swift=True, surveyed=True)
    found = explore(led(rules, "AB", int(kind not in ORDERS), int(kind in ORDERS)), _bound(whole=False))
    assert not found.trace, found


TOGETHER = ("reset", "stall", "cut", "restart", "isolate", "crash", "freeze worker", "worker", *sorted(ALL_SWIFT))


@pytest.mark.parametrize("kind", first_of((*TOGETHER, *ORDERS, *LENGTHS)))
def test_renewals_that_another_programs_session_asks_for_break_nothing(kind: str) -> None:
    """Whichever server that one is with, however late it comes, and whatever befalls the program's own session."""
    rules = Rules(kinds=frozenset({kind}), swift=True, batches=True)
    ordered = kind in {*ORDERS, *LENGTHS}
    found = explore(led(rules, "AB", int(not ordered), int(ordered)), _bound(whole=False))
    assert not found.trace, found


def test_a_late_renewal_of_another_session_takes_nothing_from_a_lease_that_was_made_longer() -> None:
    rules = Rules(kinds=frozenset({"cut A"}), swift=True, batches=True, reconnect="")
    found = explore(overtaken(rules, "AB", 1, 0), ALL)
    assert found.complete, found
    assert not found.trace, found


@pytest.mark.parametrize("kind", first_of((LEAVES, *TOGETHER, *ORDERS, *LENGTHS)))
def test_a_session_that_holds_the_locks_of_other_programs_too_breaks_nothing(kind: str) -> None:
    """It is lost, or the program leaves it with whatever is under way there; then it has one of its own."""
    rules = Rules(kinds=frozenset({kind, LEAVES}), swift=True, joint=True)
    ordered = kind in {*ORDERS, *LENGTHS}
    found = explore(rejoined(rules, "AB", 2 - ordered, int(ordered)), _bound(whole=False))
    assert not found.trace, found


@pytest.mark.long
@pytest.mark.parametrize("shared", ["joint", "batches"])
@pytest.mark.parametrize("name", SCENES)
def test_nothing_that_befalls_a_ledger_breaks_the_promise_where_sessions_serve_many(name: str, shared: str) -> None:
    """They hold the locks of many programs, or renew for many."""
    scene = SCENES[name]
    found = explore(
        scene._replace(rules=scene.rules._replace(joint=shared == "joint", batches=shared == "batches")).world(
            swift=True
        ),
        FIRST_WORLDS,
    )
    assert not found.trace, found


SCHEDULED = ("cut", "crash", "failover", "freeze worker", "freeze node", "worker", "reset", "release", "reserve")


@pytest.mark.parametrize("kind", first_of(SCHEDULED))
def test_a_scheduled_run_that_is_repeated_until_it_is_done_harms_nothing(kind: str) -> None:
    """What lapsed is closed before anything else; each takeover is for the one time, and writes it."""
    rules = Rules(kinds=frozenset({kind}), swift=True, scheduled=True)
    found = explore(waited(rules, "AB", int(kind not in ORDERS), int(kind in ORDERS)), _bound(whole=False))
    assert not found.trace, found


@pytest.mark.parametrize("kind", [_unless(kind != "reserve", kind) for kind in ORDERS])
def test_no_single_order_breaks_the_promise_whatever_follows(kind: str) -> None:
    found = explore(led(Rules(kinds=frozenset({kind})), "AB", 0, 1), _bound(kind != "suspend"))
    assert not found.trace, found
    assert found.complete or kind == "suspend", found


@pytest.mark.parametrize("kind", LENGTHS)
def test_no_order_for_another_lease_breaks_the_promise_whatever_follows(kind: str) -> None:
    found = explore(led(Rules(kinds=frozenset({kind})), "AB", 0, 1), ALL)
    assert not found.trace, found
    assert found.complete, found


@pytest.mark.parametrize("name", SCENES)
def test_nothing_that_befalls_a_ledger_breaks_the_promise(name: str) -> None:
    found = explore(SCENES[name].world(swift=True), _bound(name in ALL_SCENES))
    assert not found.trace, found
    assert found.complete or name not in ALL_SCENES, found


@pytest.mark.parametrize("swift", [True, False])
def test_two_misfortunes_and_an_order_break_nothing_as_far_as_the_search_goes(swift: bool) -> None:
    found = explore(led(Rules(swift=swift), "ABC", 2, 1), FIRST_WORLDS)
    assert not found.trace, found


@pytest.mark.parametrize("kind", first_of(["cut", "crash", "freeze worker", "failover"]))
@pytest.mark.parametrize("rates", first_of([(0.99, 1.01), (1.01, 0.99)]))
def test_clocks_that_run_apart_break_nothing(kind: str, rates: tuple[float, float]) -> None:
    rules = Rules(kinds=frozenset({kind}), swift=True, rates=rates)
    found = explore(_for_a_while(rules), 6_000)
    assert not found.trace, found


def _bound(whole: bool) -> int:
    return ALL if whole else FIRST_WORLDS


def _for_a_while(rules: Rules) -> World:
    world = led(rules, "AB", 1, 0)
    return world._replace(rules=rules._replace(horizon=world.now + 50))


@pytest.mark.parametrize("swift", [True, False])
@pytest.mark.parametrize("story", sorted(STORIES.keys() - {"led"}))
def test_other_beginnings_break_nothing(story: str, swift: bool) -> None:
    rules = Rules(kinds=frozenset({"cancel"}), swift=swift)
    found = explore(STORIES[story](rules, "AB", int(story == "divided"), 0), FIRST_WORLDS)
    assert not found.trace, found


@pytest.mark.parametrize("fault", first_of(["worker A", "exit A", "cut A", "freeze worker A", "reset A"]))
def test_a_program_that_is_stopped_everywhere_at_any_moment_harms_nothing(fault: str) -> None:
    rules = Rules(kinds=frozenset({"suspend", "resume", fault}), swift=True)
    found = explore(led(rules, "AB", 1, 2), _bound(whole=False))
    assert not found.trace, found


@pytest.mark.long
def test_what_an_operator_said_last_outlives_the_worker() -> None:
    kinds = frozenset({"again A", "stop A", "start A", "worker A"})
    found = explore(led(Rules(kinds=kinds, reconnect=""), "AB", 1, 2), ALL)
    assert not found.trace, found


@pytest.mark.parametrize("name", [_unless(name not in FOUND_LATE, name) for name in MUTATIONS])
def test_the_search_finds_a_broken_rule(name: str) -> None:
    found = explore(MUTATIONS[name].world(), 60_000)
    assert found.trace, f"{name} was not found among {found}"
