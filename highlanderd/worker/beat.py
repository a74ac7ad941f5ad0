"""The beat: what the worker does ten times a lease, whatever else happens.

It shows the guardian that the event loop runs, looks after the keepers, and has everything kept that must outlive this
worker. A process that is frozen, this one or another, must be noticed within 3/10 of a lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from highlanderd.children.guardian_link import GuardianLink
from highlanderd.postgres.pool import Pool
from highlanderd.system.linux import boottime
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.next_change import Changes
from highlanderd.worker.notices import Notices, summary
from highlanderd.worker.persistence import Persistence
from highlanderd.worker.quiet import quietly
from highlanderd.worker.unkillable import UnkillableLog


class Beat:
    """One round after the other. ``wake`` makes the next one due at once."""

    def __init__(
        self,
        guardian: GuardianLink,
        fleet: Fleet,
        pool: Pool,
        persistence: Persistence,
        notices: Notices,
        changes: Changes,
        *,
        wake: asyncio.Event,
        shut: Callable[[], Iterable[str]],
        on_frozen: Callable[[], None],
        on_late: Callable[[float], None],
    ) -> None:
        self._guardian, self._fleet, self._pool = guardian, fleet, pool
        self._persistence, self._notices, self._wake = persistence, notices, wake
        self._changes = changes
        self._next: asyncio.Event | None = None
        """The next change after those that the following know of."""
        self._states: Sequence[str] = ()
        self._leases: Sequence[float] = ()
        """Those of all terms, in seconds."""
        self._shut = shut
        """Returns why listeners are shut."""
        self._on_frozen, self._on_late = on_frozen, on_late
        """Called when the guardian does not answer; and with the seconds by which a round came late."""
        self._log_unkillable = quietly(UnkillableLog().update)
        self._show = quietly(self._notify)
        self._latest = boottime()
        """When the latest round was made."""

    @property
    def regular(self) -> bool:
        """Whether the event loop has run within the last 3/10 of a lease."""
        return boottime() - self._latest < 0.3 * self._pool.server.lease.length

    async def run(self) -> None:
        """Make rounds until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            self._look()
            lease = min([self._pool.server.lease.length, *self._leases])  # the shortest that anything rests on
            self._round(lease)
            due = loop.time() + lease / 10
            with suppress(TimeoutError):
                async with asyncio.timeout(lease / 10):
                    await self._wake.wait()
            self._on_late(max(0.0, loop.time() - due))
            self._fleet.abandon_unprovable()
            self._log_unkillable(self._fleet.members.values())

    def _round(self, lease: float) -> None:
        self._show()  # before the sign of life: systemd takes an extension as one of the watchdog, too
        if not self._guardian.ping(lease) and not self._guardian.lost:
            self._on_frozen()
        self._guardian.check(boottime(), lease)
        self._pool.review()
        self._persistence.keep()
        self._latest = boottime()

    def _look(self) -> None:
        """Look at all programs, which may be a thousand, if any has changed, come or gone."""
        if self._next is not self._changes.next or len(self._states) != len(self._fleet.members):
            self._next = self._changes.next
            programs = [member.program for member in self._fleet.members.values()]
            self._states = [program.state for program in programs]
            self._leases = [term.lengths.trusted.length for program in programs if (term := program.term) is not None]

    def _notify(self) -> None:
        """Show the service manager how things stand, and that a drain goes on: it must not be cut short."""
        self._notices.status(summary(self._states, self._pool.last_error, self._shut()))
        if self._fleet.ending and self._fleet.members:
            self._notices.draining()
