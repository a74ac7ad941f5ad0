"""The handover of a child to the next worker: the facts of its term, and of its end when that has begun.

Its keeper holds them as bytes that it never reads. What the next worker can find out for itself is not among them.
"""

from __future__ import annotations

import json
from typing import Any

from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.states import (
    Author,
    Cause,
    Draining,
    Killing,
    Leading,
    Preparing,
    Ready,
    Reservation,
    Running,
    Shortening,
    Situation,
    Spawning,
    Stopping,
    Term,
    Want,
)


class ChildHandover:
    """The handovers of one program. Of those that follow each other, what they have in common is encoded once."""

    def __init__(self) -> None:
        self._facts: tuple[object, ...] = ()
        self._encoded = b""

    def encode(self, situation: Situation) -> bytes:
        """Return the handover of a situation that is leading or draining; empty for any other, which has no child."""
        state = situation.state
        if not isinstance(state, Leading | Draining):
            return b""
        term = state.term
        rest = state.child if isinstance(state, Leading) else state
        facts = (situation.want, term.epoch, term.lengths, term.began, term.shortening, rest)
        if facts != self._facts:
            self._facts, self._encoded = facts, json.dumps(_facts(situation.want, state))[:-1].encode()
        return b'%b, "sent": %b}' % (self._encoded, repr(term.sent).encode())


def _facts(want: Want, state: Leading | Draining) -> dict[str, Any]:
    """Return all but when the last acknowledged renewal was sent."""
    term = state.term
    facts: dict[str, Any] = {
        "want": want.value,
        "epoch": term.epoch,
        "lease": term.lengths.trusted.length,
        "wanted": term.lengths.wanted.length,
        "pace": term.lengths.pace.length,
        "began": term.began,
    }
    if term.shortening is not None:
        facts["shortening"] = [term.shortening.sent, term.shortening.lease.length]
    if isinstance(state, Leading):
        facts["readiness"] = _readiness(state.child)
    if isinstance(state, Draining):
        facts["cause"] = state.cause.value
        facts["kill_at"] = state.phase.kill_at if isinstance(state.phase, Stopping) else None
        facts["abstain_for"] = state.abstain_for
        facts["insistent"] = state.insistent
        facts["status"], facts["by"] = state.status, [state.by.name, state.by.remark]
        if state.reservation is not None:
            facts["reservation"] = [state.reservation.node, state.reservation.seconds]
    return facts


def _readiness(child: Spawning | Preparing | Running | Ready) -> list[object]:
    """Return whether the child is ready, and since when; or until when it may become so, as far as that is known."""
    match child:
        case Ready(at=at):
            return [True, at]
        case Running(ready_by=ready_by):
            return [False, ready_by]
        case Spawning() | Preparing():
            return [False, None]


def decode(
    memo: bytes, pid: int | None, started: float | None, ready_timeout: float, *, preparing: bool = False
) -> tuple[Leading | Draining, Want]:
    """Return the state and the operator's wish that a child goes on with which was found alive.

    ``started`` is None until its program is executed; from then on it has ``ready_timeout`` to become ready.
    ``preparing``: its keeper has executed ``before_start``, so that there is a child in any case.

    Raises ValueError for bytes that this version cannot read.
    """
    try:
        facts = json.loads(memo)
        term = _term(facts)
        want = Want(facts["want"])
        renew_at = term.sent + term.lengths.renew_every
        if "cause" in facts:
            kill_at, reservation = facts["kill_at"], facts.get("reservation")
            phase = Killing() if kill_at is None else Stopping(kill_at)
            reserved = None if reservation is None else Reservation(*reservation)
            cause, abstain_for, insistent = Cause(facts["cause"]), facts["abstain_for"], facts["insistent"]
            status, by = facts.get("status"), Author(*facts.get("by", ()))
            return Draining(term, phase, cause, renew_at, abstain_for, reserved, insistent, status, by), want
        child = None if pid is None or started is None else _child(facts, pid, started, ready_timeout)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a keeper's memo cannot be read: {memo!r}") from error
    if child is not None:
        return Leading(term, child, renew_at), want
    if preparing:
        return Leading(term, Preparing(), renew_at), want
    return Leading(term, Spawning(term.sent + term.lengths.spawn_within), renew_at), want


def _child(facts: dict[str, Any], pid: int, started: float, ready_timeout: float) -> Running | Ready:
    """Return the child. Early versions asked no child whether it was ready, and left nothing about it."""
    ready, moment = facts.get("readiness", (True, started))
    when = float(started + (0.0 if ready else ready_timeout) if moment is None else moment)
    if when != when:
        raise ValueError("what is no number is no time")
    return Ready(pid, started, when) if ready else Running(pid, started, when)


def _term(facts: dict[str, Any]) -> Term:
    """Return the term. Early versions had one lease for all purposes, and left only that one."""
    length = facts["lease"]
    lengths = Lengths(Lease(length), Lease(facts.get("wanted", length)), Lease(facts.get("pace", length)))
    sent, shorter = facts.get("shortening", (0.0, None))
    shortening = None if shorter is None else Shortening(sent, Lease(shorter))
    return Term(facts["epoch"], lengths, facts["began"], facts["sent"], shortening)
