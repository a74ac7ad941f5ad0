"""Programs that another node leads, watched together: as long as surveys show renewals, none has to look by itself.

A survey brings the rows of all programs in one answer. It is compared with what each program's latest look has shown.
Anything but a renewal in good time makes that program look, and whatever concerns the ledger or the server makes all of
them look. So a survey begins no term: it says who has to look, and since when this node has known the row's version.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from highlanderd.core.lease import Lease
from highlanderd.core.observation import Observation
from highlanderd.postgres.ledger import LedgerFacts
from highlanderd.postgres.survey import IN_TIME, Survey

Standing = tuple[int, float, int, int]
"""Epoch, lease, system and timeline of a row: what a renewal leaves as it was."""


class LockWatcher(Protocol):
    """The session of a program that another node leads."""

    @property
    def watched_id(self) -> int:
        """Its lock id."""

    def advise(self) -> None:
        """Have its program look."""


class Watch:
    """Who is watched. All times are CLOCK_BOOTTIME in seconds."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._standing: dict[LockWatcher, Standing] = {}
        self._facts: LedgerFacts | None = None
        """Of the ledger, as those who are watched have seen it."""
        self._overdue: asyncio.TimerHandle | None = None

    def admit(self, watcher: LockWatcher, seen: Observation, now: float) -> bool:
        """Watch a program from now on, if surveys show all that its look has shown; return whether they do."""
        row, facts, server = seen.row, self._survey.facts, self._survey.server
        plain = seen.settled and not seen.elsewhere and all(one.released for one in seen.others)
        if row is None or facts is None or server is None or not plain or not self._survey.current(now):
            return False
        if (server.ledger, server.started) != (seen.server.ledger, seen.server.started) or row.system != server.system:
            return False
        if not self._standing:
            self._facts = facts
        self._standing[watcher] = row.epoch, row.trusted_for, row.system, row.timeline
        return True

    def dismiss(self, watcher: LockWatcher) -> None:
        """Watch a program no more."""
        self._standing.pop(watcher, None)

    def clear(self) -> None:
        """Watch nobody any more, and leave it to others to have them look."""
        self._standing.clear()

    def end(self) -> None:
        """Have all look who are watched: what they have seen of ledger and server may hold no more."""
        watched, self._standing = self._standing, {}
        for watcher in watched:
            watcher.advise()

    def expect(self, lease: Lease) -> None:
        """Have all look unless another survey comes in time: a takeover must not be late because surveys are."""
        if self._overdue is not None:
            self._overdue.cancel()
        self._overdue = asyncio.get_running_loop().call_later(lease.renew_every * IN_TIME, self.end)

    def compare(self, now: float) -> None:
        """Have those look for whom the latest survey shows anything but a renewal in good time."""
        if self._facts != self._survey.facts or self._survey.divided:
            self.end()
            return
        for watcher, standing in tuple(self._standing.items()):
            leader = self._survey.leaders.get(watcher.watched_id)
            if (
                leader is None
                or not leader.leads
                or (leader.epoch, leader.trusted_for, leader.system, leader.timeline) != standing
                or self._survey.silent(watcher.watched_id, leader.trusted_for, now)
            ):
                self.dismiss(watcher)
                watcher.advise()
