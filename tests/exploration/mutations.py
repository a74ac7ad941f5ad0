"""Rules of the protocol left out one at a time: the search must find each of them, or it has no teeth.

Where the rule lives in the core, the real ``step`` is handed a doctored situation or event, or its answer is changed
(``broken_steps.py``); where it lives in SQL, in the session or in the processes, the world's stand-in is flawed (see
``Rules`` and ``Flaws``). Some rules are guarded twice: to see one of them fail, its second guard has to be left out as
well, and is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from highlanderd.core.effects import Look, Release, Renew, TakeOver, WriteSettled
from highlanderd.core.events import Exited, FoundUnhealthy, HookFinished
from tests.exploration import broken_steps as broken
from tests.exploration.world import LEASE, Rules, World
from tests.exploration.world_statements import Flaws
from tests.exploration.world_stories import (
    Story,
    befallen,
    divided,
    dumped,
    forgetful,
    lagging,
    led,
    maintained,
    overtaken,
    rejoined,
    releasing,
    renamed,
    replicated,
    revived,
    two_keys,
    waited,
)


class Mutation(NamedTuple):
    """One broken rule, and the kinds of misfortune, and how much of it, that show it soonest."""

    rules: Rules
    faults: int = 1
    orders: int = 0
    names: str = "AB"
    start: Story = led

    def world(self) -> World:
        """Return the world that the search starts from."""
        return self.start(self.rules, self.names, self.faults, self.orders)


def _rules(*kinds: str, **rules: Any) -> Rules:
    return Rules(kinds=frozenset(kinds), swift=True)._replace(**rules)


def _flawed(**flaws: Any) -> Flaws:
    return Flaws()._replace(**flaws)


EVERYTHING = Look, WriteSettled, TakeOver, Renew, Release

UNSETTLED = _flawed(compares_settled=False)
"""The takeover's own second guard: only on a settled ledger."""

MUTATIONS: Final[Mapping[str, Mutation]] = {
    "trust counts from the arrival of the answer": Mutation(
        _rules("stall A", "cut A", reconnect="", trusts_from_arrival=True), faults=2
    ),
    "what another session has renewed counts from the arrival of its answer": Mutation(
        _rules("freeze worker A", "cut A", batches=True, reconnect="", trusts_from_arrival=True), faults=2
    ),
    "what another session has renewed is told to a program that has lost its own": Mutation(
        _rules("stall A", "reset A", batches=True, minds_loss=False), faults=2
    ),
    "another session renews a term whose lock nobody holds": Mutation(
        _rules("reset A", batches=True, sql=_flawed(minds_lock=False))
    ),
    "a lock is freed before what was asked on its joint session is done": Mutation(
        _rules("leave A", "stall A", joint=True, unlocks_in_order=False), faults=2, start=rejoined
    ),
    "another session's late statement shortens a lease": Mutation(
        _rules("cut A", batches=True, reconnect="", sql=_flawed(compares_length=False)), start=overtaken
    ),
    "a look counts from its sending": Mutation(
        _rules("stall B", "cut A", reconnect="", looks_from_sending=True),
        start=befallen("a message stalls", "B"),
    ),
    "a command tag counts as acknowledged": Mutation(_rules(counts_tags=True, reconnect="B"), faults=0, start=divided),
    "an answer with a WARNING counts as acknowledged": Mutation(
        _rules("cancel A", counts_warnings=True, reconnect="B"), start=divided
    ),
    "silence is counted for the row, not for its version": Mutation(
        _rules("cut", step=broken.counts_silence_of_the_row)
    ),
    "others wait 0.85 of a lease": Mutation(_rules("cut", step=broken.waiting(0.85))),
    "others wait one lease, though clocks run apart": Mutation(
        _rules("cut", step=broken.waiting(1.0), rates=(0.99, 1.01), horizon=50, reconnect="")
    ),
    "silence is counted for the row in surveys": Mutation(
        _rules("cut A", surveyed=True, counts_versions=False, reconnect="")
    ),
    "the lock is taken on a connection that others use, too": Mutation(
        _rules(shared=True, takes_own=False), faults=0, start=waited
    ),
    "the advisory lock alone": Mutation(_rules("reset", step=broken.waiting(0.0))),
    "the leader trusts for 1.5 leases": Mutation(_rules("cut", lease=broken.Trusting(LEASE))),
    "that a child is ready is not handed over": Mutation(
        _rules("worker A", step=broken.keeps_readiness_to_itself, probes=True)
    ),
    "a child that does not answer counts as gone": Mutation(
        _rules("unhealthy A", step=broken.releases_at(FoundUnhealthy), probes=True)
    ),
    "a hook that has failed counts as gone": Mutation(
        _rules(step=broken.releases_at(HookFinished), hooks=True), faults=0, start=waited
    ),
    "the deadline is not compared when the hook is over": Mutation(
        _rules("freeze node A", keeper_compares_at_exec=False, hooks=True), start=waited
    ),
    "the lost session is not minded": Mutation(_rules("cut", step=broken.never_fences)),
    "ours is trusted across a failover": Mutation(
        _rules("failover", "release A", step=broken.looking(broken.trusts_ours), sql=UNSETTLED, reconnect="A"),
        orders=1,
    ),
    "released is trusted across a change of timeline": Mutation(
        _rules(
            "failover",
            "release A",
            step=broken.looking(broken.trusts_released),
            sql=UNSETTLED,
            reconnect="A",
        ),
        orders=1,
    ),
    "a lapsed term is renewed again": Mutation(_rules("cut", step=broken.renews_lapsed_terms)),
    "knowledge is kept across a change of the server's run": Mutation(
        _rules("failover", "reset B", step=broken.looking(broken.knows_across_runs), reconnect="B"),
        faults=2,
    ),
    "what was meant for a lost session reaches the next": Mutation(
        _rules("busy A", "reset A", reach_successors=EVERYTHING), start=befallen("busy", "A")
    ),
    "settled is written for the present timeline": Mutation(
        _rules(
            *("failover", "busy B"),
            step=broken.looking(broken.unsuspecting),
            sql=_flawed(settles_present=True),
            reach_successors=(WriteSettled,),
        ),
        start=befallen("busy", "B", waited),
    ),
    "the update is sent without the grant": Mutation(
        _rules("reset", swift=False, sql=_flawed(update_needs_grant=False))
    ),
    "a takeover that does not compare the version, nor whether the term is closed": Mutation(
        _rules("cut B", "reset A", reconnect="", sql=_flawed(compares_version=False, takes_closed_only=False)),
        faults=2,
        start=releasing,
    ),
    "epochs without the timeline": Mutation(
        _rules("failover", step=broken.counts_on_in_epochs, reconnect="A"), start=releasing
    ),
    "reservations are looked at after released": Mutation(
        _rules("reserve A", swift=False, step=broken.doctored(broken.forgets_reservations)),
        orders=1,
        faults=0,
        names="ABC",
    ),
    "rows under another lock id are not looked at": Mutation(
        _rules("cut", sql=_flawed(reads_other_rows=False, refuses_other_rows=False, locks_name=False)),
        faults=0,
        start=renamed,
    ),
    "a program that is stopped everywhere is taken over": Mutation(
        _rules("suspend", "release A", step=broken.forgets_the_suspension, sql=_flawed(minds_suspension=False)),
        orders=2,
    ),
    "a stop during the takeover is forgotten": Mutation(
        _rules("exit A", "stop B", step=broken.forgets_the_wish), orders=1
    ),
    "a reattach calls a fence back": Mutation(_rules("cut A", step=broken.calls_fences_back)),
    "released and unlocked before the tree is empty": Mutation(_rules("exit", step=broken.releases_at(Exited))),
    "a second child under one epoch": Mutation(_rules("keeper", step=broken.spawns_again, guardian_refuses=False)),
    "an order of a dead worker is read after the next has begun": Mutation(
        _rules("worker", guardian_hears_last_words=False), names="A", start=waited
    ),
    "a child that was prepared does not wait for its term": Mutation(_rules(gate_waits=False), faults=0, start=waited),
    "a prepared child survives a refusal, and any order lets it go on": Mutation(
        _rules("release", discards_prepared=False, compares_prepared=False, swift=False),
        faults=0,
        orders=1,
        start=waited,
    ),
    "orphans of a dead keeper are forgotten": Mutation(_rules("keeper", guardian_counts_orphans=False)),
    "the next worker is not told of orphans": Mutation(
        _rules("keeper A", "worker A", guardian_tells_of_orphans=False), faults=2
    ),
    "a keeper without a deadline": Mutation(_rules("worker", keeper_keeps_deadline=False)),
    "a frozen keeper is left alone": Mutation(
        _rules("freeze keeper A", "cut A", guardian_kills_frozen_keepers=False, reconnect=""),
        start=befallen("freeze keeper", "A"),
    ),
    "a keeper does not compare the deadline at exec": Mutation(
        _rules("freeze node A", keeper_compares_at_exec=False), start=waited
    ),
    "a term counts from the arrival of its grant": Mutation(
        _rules("freeze node A", step=broken.spawns_late), start=waited
    ),
    "a lock without an idle timeout": Mutation(_rules("crash", idle_timeout=False)),
    "leaders use a longer lease before every standby has the ceiling": Mutation(
        _rules(ceiling_first=False, reconnect=""), faults=0, start=lagging
    ),
    "the ledger's lease is waited for after a failover, not the ceiling": Mutation(
        _rules(step=broken.looking(broken.settles_by_the_lease), reconnect=""), faults=0, start=forgetful
    ),
    "the ceiling is lowered by somebody who has not watched": Mutation(
        _rules(watches=False, reconnect=""), faults=0, start=forgetful
    ),
    "a shorter lease counts only from the answer": Mutation(
        _rules("cut A", "relax", step=broken.shortens_by_the_answer, reconnect=""), orders=1, start=maintained
    ),
    "the ledger's lease is waited for, not the row's": Mutation(
        _rules("cut A", step=broken.doctored(broken.rows_lease_ignored), reconnect=""), start=maintained
    ),
    "the time in which a program is left to a preferred node is waited for, not the lease": Mutation(
        _rules("cut A", step=broken.doctored(broken.left_to_others_only), placed=True, reconnect="")
    ),
    "a scheduled time that has come is waited for, not the lease": Mutation(
        _rules("cut A", step=broken.doctored(broken.left_to_others_only), scheduled=True, reconnect="")
    ),
    "a preferred node does not wait for the lease": Mutation(
        _rules("cut B", "release A", step=broken.hastens_the_preferred, placed=True, reconnect="B"), orders=1
    ),
    "what a ledger has promised is forgotten with it": Mutation(
        _rules("recreate", "cut A", step=broken.looking(broken.forgets_promises), reconnect=""),
        faults=2,
        start=maintained,
    ),
    "released is trusted in a ledger that was restored": Mutation(
        _rules("restore", "cut A", step=broken.looking(broken.trusts_released), sql=UNSETTLED, reconnect=""),
        faults=2,
        start=dumped,
    ),
    "knowledge is kept across a change of the ledger": Mutation(
        _rules("recreate", "cut A", step=broken.looking(broken.knows_across_places), reconnect=""), faults=2
    ),
    "a row that goes backwards has moved, and no more": Mutation(
        _rules("rewind", "cut A", step=broken.looking(broken.bears_rewinding), reconnect=""),
        faults=2,
        start=dumped,
    ),
    "epochs go by the ledger alone": Mutation(
        _rules(
            "recreate",
            step=broken.looking(broken.forgets_epochs),
            sql=_flawed(settles_generation=False),
            reconnect="",
        )
    ),
    "a row that arrives from another server is over": Mutation(
        _rules(step=broken.looking(broken.replicated_counts_as_over), reconnect=""),
        faults=0,
        start=replicated,
    ),
    "hosts are not asked": Mutation(_rules(asks_hosts=False, meets_both=True, reconnect=""), faults=0, start=revived),
    "a takeover beside another unreleased row of the program": Mutation(
        _rules("stall B", "reset A", sql=_flawed(refuses_other_rows=False), snapshots=True, reconnect=""),
        faults=2,
        start=two_keys,
    ),
    "a takeover without the lock of the program's name": Mutation(
        _rules(sql=_flawed(locks_name=False), snapshots=True, swift=False, reconnect=""), faults=0, start=two_keys
    ),
    "a lapsed term is not closed before the takeover": Mutation(
        _rules("lockers", "crash A", sql=_flawed(closes_first=False), reconnect=""), faults=2
    ),
}
