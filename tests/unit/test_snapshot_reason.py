"""Why a program is in its state is not told of a leader who leads no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from highlanderd.core.states import Waiting
from highlanderd.worker.snapshot import _reason


@pytest.mark.parametrize(
    ("leads", "judged", "reason"),
    [
        (True, "led by a", "led by a"),
        (False, "led by a", ""),
        (False, "reserved for c", "reserved for c"),
        (False, "led by b", "led by b"),
    ],
)
def test_a_leader_that_has_released_leads_no_more(leads: bool, judged: str, reason: str) -> None:
    leader = SimpleNamespace(node="a", instance="1", leads=leads)
    situation = SimpleNamespace(state=Waiting(0.0), reason=judged)
    policy = SimpleNamespace(node="b", instance="2")
    program = SimpleNamespace(name="beat", situation=situation, policy=policy)
    member: Any = SimpleNamespace(program=program, lock_id=7, session=SimpleNamespace(connected=True))
    listener = SimpleNamespace(leaders={7: leader}, terms_of=lambda _name: {})
    pool: Any = SimpleNamespace(listener=listener, last_error="")
    assert _reason(member, pool, ()) == reason
