"""What a keeper carries from one worker to the next."""

from __future__ import annotations

import json
from typing import Any

import pytest

from highlanderd.core.effects import Kill, Renew
from highlanderd.core.events import (
    Attached,
    Detached,
    Due,
    EndOrdered,
    Overruled,
    ReleaseOrdered,
    Renewed,
    RestartOrdered,
    StopOrdered,
)
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.machine import adopt, deadline
from highlanderd.core.states import Cause, Draining, Leading, Shortening, Situation, Term, Want
from highlanderd.structs import replace
from highlanderd.worker import child_handover
from tests.support.core import LENGTHS, POLICY, go, leading, prolonged, renewed, spawning, waiting

LOST = Detached("lost")
MOMENTS = {
    "leading": leading(),
    "renewed": go(leading(), (2.0, Due()), (2.1, renewed(2.0)))[0],
    "in maintenance": prolonged(90.0),
    "lengthening": go(prolonged(10.0, wanted=90.0), (4.0, Due()))[0],
    "shortening": go(prolonged(90.0, wanted=10.0), (4.0, Due()))[0],
    "shortening and stopping": go(prolonged(90.0, wanted=10.0), (3.0, StopOrdered()), (4.0, Due()))[0],
    "under a ledger that grew": go(
        leading(), (2.0, Due()), (2.1, Renewed(2.0, Lengths(Lease(10.0), Lease(90.0), Lease(60.0))))
    )[0],
    "stopping": go(leading(), (2.0, StopOrdered()))[0],
    "restarting": go(leading(), (2.0, RestartOrdered()))[0],
    "handing over": go(leading(), (2.0, ReleaseOrdered("there", 30.0)))[0],
    "fenced": go(leading(), (1.5, LOST), (7.0, Due()))[0],
    "killing": go(leading(), (2.0, Due()), (2.1, Overruled()))[0],
    "ending": go(leading(), (2.0, EndOrdered(Cause.SHUTDOWN)))[0],
}


@pytest.mark.parametrize("name", MOMENTS)
def test_term_wish_and_how_it_ends_survive_the_worker(name: str) -> None:
    situation = MOMENTS[name]
    state, want = child_handover.decode(child_handover.ChildHandover().encode(situation), 42, 1.0, 90.0)
    due = state.term.sent + state.term.lengths.renew_every
    assert want is situation.want
    assert isinstance(situation.state, Leading | Draining)
    assert state == replace(situation.state, renew_at=due)


def test_a_child_that_is_not_executed_yet_has_until_half_a_lease() -> None:
    state, _ = child_handover.decode(child_handover.ChildHandover().encode(spawning()), 42, None, 90.0)
    assert state == spawning().state


def test_the_next_worker_trusts_an_unanswered_shortening_no_longer_than_the_one_that_sent_it() -> None:
    state, want = child_handover.decode(child_handover.ChildHandover().encode(MOMENTS["shortening"]), 42, 1.0, 90.0)
    adopted = adopt(state, want)
    assert deadline(adopted, POLICY) == 11.0
    asking, effects = go(adopted, (6.0, Attached(1)))
    assert effects == (Renew(6, Lease(10.0)),)
    assert isinstance(asking.state, Leading)
    assert asking.state.term.trusted_until == 14.0


FORMER: dict[str, dict[str, object]] = {
    "leading": {"want": "run", "epoch": 6, "lease": 10.0, "began": 1.0, "sent": 2.0},
    "stopping": {
        "want": "stop",
        "epoch": 6,
        "lease": 10.0,
        "began": 1.0,
        "sent": 2.0,
        "cause": "stopped",
        "kill_at": 5.0,
        "abstain_for": 0.0,
        "insistent": False,
    },
}
"""What a worker has left that knew one lease only."""


@pytest.mark.parametrize("name", FORMER)
def test_a_memo_of_the_former_version_is_a_term_with_one_lease(name: str) -> None:
    state, want = child_handover.decode(json.dumps(FORMER[name]).encode(), 42, 1.0, 90.0)
    assert want.value == FORMER[name]["want"]
    assert state.term == Term(6, LENGTHS, began=1.0, sent=2.0)
    assert state.renew_at == 4.0


def test_a_worker_of_the_former_version_reads_what_it_needs_of_a_term() -> None:
    """A package may be put back while children run on."""
    for name, facts in FORMER.items():
        assert facts.keys() <= json.loads(child_handover.ChildHandover().encode(MOMENTS[name])).keys()


def test_a_fence_that_has_begun_is_not_called_back_by_the_next_worker() -> None:
    state, want = child_handover.decode(child_handover.ChildHandover().encode(MOMENTS["fenced"]), 42, 1.0, 90.0)
    situation, _ = go(adopt(state, want), (8.0, Attached(1)), (8.1, renewed(8.0)))
    assert deadline(situation, POLICY) == 9.0
    assert go(situation, (9.0, Due()))[1] == (Kill(),)


def test_a_child_whose_lease_ran_out_meanwhile_is_killed_first_of_all() -> None:
    state, want = child_handover.decode(child_handover.ChildHandover().encode(MOMENTS["leading"]), 42, 1.0, 90.0)
    adopted = adopt(state, want)
    assert deadline(adopted, POLICY) == 7.0
    assert go(adopted, (9.5, Due()))[1][0] == Kill()


def test_a_situation_without_a_child_has_no_memo() -> None:
    assert child_handover.ChildHandover().encode(waiting()) == b""


@pytest.mark.parametrize(
    "broken",
    [b"", b"\xff", b"[]", b"{}", b'{"want": "maybe", "epoch": 1, "lease": 10, "began": 0, "sent": 0}', b"7", b"null"],
)
def test_a_memo_that_cannot_be_read_is_an_error_that_shows_it(broken: bytes) -> None:
    with pytest.raises(ValueError, match="memo cannot be read"):
        child_handover.decode(broken, 42, 1.0, 90.0)


def test_what_the_handovers_of_one_program_have_in_common_is_kept_only_while_it_holds() -> None:
    handover = child_handover.ChildHandover()
    for situation in (*MOMENTS.values(), waiting(), spawning(), *MOMENTS.values()):
        assert handover.encode(situation) == child_handover.ChildHandover().encode(situation)


def _with_term(**changed: Any) -> Situation:
    situation = leading()
    assert isinstance(situation.state, Leading)
    return replace(situation, state=replace(situation.state, term=replace(situation.state.term, **changed)))


@pytest.mark.parametrize(
    "next_one",
    [
        pytest.param(replace(leading(), want=Want.STOP), id="wish"),
        pytest.param(_with_term(epoch=99), id="epoch"),
        pytest.param(_with_term(lengths=Lengths(Lease(90.0), Lease(90.0), Lease(90.0))), id="lengths"),
        pytest.param(_with_term(began=0.5), id="began"),
        pytest.param(_with_term(shortening=Shortening(4.0, Lease(5.0))), id="shortening"),
        pytest.param(_with_term(sent=0.5), id="sent"),
    ],
)
def test_whatever_has_changed_since_the_last_handover_is_in_the_next_one(next_one: Situation) -> None:
    handover = child_handover.ChildHandover()
    former = handover.encode(leading())
    assert handover.encode(next_one) == child_handover.ChildHandover().encode(next_one) != former
