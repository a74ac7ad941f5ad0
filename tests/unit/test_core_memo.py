"""What a keeper carries from one worker to the next."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fix_core import POLICY, go, leading, renewed, spawning, waiting

from highlanderd import memo
from highlanderd.core import words as w
from highlanderd.core.machine import adopt, deadline

LOST = w.Detached("lost")
MOMENTS = {
    "leading": leading(),
    "renewed": go(leading(), (2.0, w.Due()), (2.1, renewed(2.0)))[0],
    "stopping": go(leading(), (2.0, w.StopOrdered()))[0],
    "restarting": go(leading(), (2.0, w.RestartOrdered()))[0],
    "handing over": go(leading(), (2.0, w.ReleaseOrdered("there", 30.0)))[0],
    "fenced": go(leading(), (1.5, LOST), (7.0, w.Due()))[0],
    "killing": go(leading(), (2.0, w.Due()), (2.1, w.Overruled()))[0],
    "ending": go(leading(), (2.0, w.EndOrdered(w.Cause.SHUTDOWN)))[0],
}


@pytest.mark.parametrize("name", MOMENTS)
def test_term_wish_and_how_it_ends_survive_the_worker(name: str) -> None:
    situation = MOMENTS[name]
    state, want = memo.decode(memo.encode(situation), 42, 1.0)
    due = state.term.sent + state.term.lengths.renew_every
    assert want is situation.want
    assert isinstance(situation.state, w.Leading | w.Draining)
    assert state == replace(situation.state, renew_at=due)


def test_a_child_that_is_not_executed_yet_has_until_half_a_lease() -> None:
    state, _ = memo.decode(memo.encode(spawning()), 42, None)
    assert state == spawning().state


def test_a_fence_that_has_begun_is_not_called_back_by_the_next_worker() -> None:
    state, want = memo.decode(memo.encode(MOMENTS["fenced"]), 42, 1.0)
    situation, _ = go(adopt(state, want), (8.0, w.Attached(1)), (8.1, renewed(8.0)))
    assert deadline(situation, POLICY) == 9.0
    assert go(situation, (9.0, w.Due()))[1] == (w.Kill(),)


def test_a_child_whose_lease_ran_out_meanwhile_is_killed_first_of_all() -> None:
    state, want = memo.decode(memo.encode(MOMENTS["leading"]), 42, 1.0)
    adopted = adopt(state, want)
    assert deadline(adopted, POLICY) == 7.0
    assert go(adopted, (9.5, w.Due()))[1][0] == w.Kill()


def test_a_situation_without_a_child_has_no_memo() -> None:
    assert memo.encode(waiting()) == b""


@pytest.mark.parametrize(
    "broken",
    [b"", b"\xff", b"[]", b"{}", b'{"want": "maybe", "epoch": 1, "lease": 10, "began": 0, "sent": 0}', b"7", b"null"],
)
def test_a_memo_that_cannot_be_read_is_an_error_that_shows_it(broken: bytes) -> None:
    with pytest.raises(ValueError, match="memo cannot be read"):
        memo.decode(broken, 42, 1.0)
