"""What other sessions do that keeps a program from being led, and the alarm that names them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from msgspec import Struct

from highlanderd.core.lease import Lease
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.lock_connection import ProgramLock
from highlanderd.structs import replace
from highlanderd.system.linux import boottime


class _Shut(Struct, frozen=True):
    """The state in which takeovers find a lock taken."""

    since: float
    """When the first did, or when the latest alarm was raised."""
    latest: float
    asked: float
    """When it was last asked which session holds the lock; at first, when the first takeover found it taken."""
    holders: str = ""
    """The sessions that the latest answer has named."""


class Hindrance:
    """For how long a row was locked, or a lock taken. The session is named, after a whole lease by an alarm."""

    def __init__(self, listener: Listener, lock: ProgramLock, on_alarm: Callable[[str], None]) -> None:
        self._listener, self._lock, self._on_alarm = listener, lock, on_alarm
        self._row_locked_since: float | None = None
        self._shut: _Shut | None = None

    def note_row_locked(self, sent: float) -> None:
        """Note that a query which was sent at ``sent`` has waited for another transaction."""
        if self._row_locked_since is None:
            self._row_locked_since = sent

    def note_row_free(self) -> None:
        """Note that a query did not have to wait."""
        self._row_locked_since = None

    def watch(self, pid: int, pace: Lease) -> None:
        """Name the transactions that block the backend ``pid``, if the row has been locked for a whole lease.

        They are asked for half-way through its lock timeout: only a backend that already waits is blocked.
        """
        since = self._row_locked_since
        if since is not None and boottime() - since > pace.length:
            asyncio.get_running_loop().call_later(pace.renew_every / 2, lambda: _in_passing(self._name_blockers(pid)))

    async def _name_blockers(self, pid: int) -> None:
        blockers = await self._listener.blockers(pid)
        if blockers:
            self._on_alarm(
                f"{self._lock.program}: cannot write its row, because {blockers} holds a lock on it; end that session"
            )

    def note_lock_taken(self, pace: Lease) -> str:
        """Note that a takeover found a lock taken; return which sessions hold it, empty while that is not known.

        They are asked for once in each interval of renewals. Once in each lease of that, the alarm names them.
        """
        now, shut = boottime(), self._shut
        if shut is None or now - shut.latest > pace.length:  # an earlier case is another story
            shut = _Shut(now, now, now)
        if now - shut.asked > pace.renew_every:
            due = now - shut.since > pace.length
            _in_passing(self._name_holders(alarms=due))
            shut = replace(shut, asked=now, since=now if due else shut.since)
        self._shut = replace(shut, latest=now)
        return shut.holders

    async def _name_holders(self, *, alarms: bool) -> None:
        holders = await self._listener.holders(self._lock.advisory, self._lock.name_lock)
        if self._shut is not None:
            self._shut = replace(self._shut, holders=holders)
        if alarms and holders:
            self._on_alarm(
                f"{self._lock.program}: no node has led it for a whole lease, because its advisory lock was held by "
                f"{holders}; end that session if it still holds it, and if it should not be there, REVOKE CONNECT ON "
                "DATABASE ... FROM PUBLIC"
            )


def _in_passing(question: Coroutine[None, None, None]) -> None:
    """Run a question in the background. When the listener has no session, it ends without a word."""
    asyncio.ensure_future(question).add_done_callback(lambda done: done.cancelled() or done.exception())
