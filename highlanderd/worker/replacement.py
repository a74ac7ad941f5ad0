"""The replacement of the worker: one of the installed code takes the place of this one, and no child notices.

First the installed code has to load what it would be handed over (``rehearsal.py``). Then this worker ends, and the
process that has loaded it takes its place, or a new one where that has ended. Guardian and keepers stay as they are.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Final

from highlanderd import __version__
from highlanderd.children.guardian_link import GuardianLink
from highlanderd.core.status import DaemonProcess, ReplacementReport
from highlanderd.errors import HighlanderError, NeedsForce, enumerated
from highlanderd.system.linux import boottime
from highlanderd.threads import in_thread
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.persistence import Persistence
from highlanderd.worker.rehearsal import REFUSED, Rehearsal

log = logging.getLogger(__name__)

ANSWER_WITHIN: Final = 0.2
"""Seconds between the answer to the order and the worker's end."""
TRIES: Final = 2
"""How often the installed code is loaded before this machine counts as too busy."""
READY_WITHIN: Final = 0.5
"""Seconds in which a process that has loaded everything begins, on a busy machine."""
SLOWER: Final = 1.5
"""How many times as long as the rehearsal a worker takes that has to load: it also needs a log, a loop, listeners."""
RECONNECTED_WITHIN: Final = 0.5
"""Seconds in which a new worker takes its locks back: a few round trips for each program."""
ENDING: Final = "the daemon is ending; the one that is started next has the installed code"


class WorkerReplacement:
    """The end of this worker for the sake of the next one."""

    def __init__(
        self,
        node: str,
        command: Sequence[str],
        fleet: Fleet,
        persistence: Persistence,
        guardian: GuardianLink,
        *,
        on_connection_loss: str,
        end: Callable[[], None],
    ) -> None:
        self._node, self._command, self._fleet = node, tuple(command), fleet
        self._persistence, self._guardian = persistence, guardian
        self._stops_children = on_connection_loss == "stop"
        self._end = end
        self._under_way = False

    async def begin(self, *, force: bool) -> ReplacementReport:
        """Check the installed code, and end this worker soon.

        Raises ConfigurationError, NeedsForce, HighlanderError.
        """
        if self._fleet.ending:
            raise HighlanderError(ENDING)
        if self._under_way:
            raise HighlanderError("the worker is being replaced already; the first order is answered when that is done")
        led = self._led()
        if led and self._stops_children and not force:
            raise NeedsForce(
                f'a new worker has new sessions, and with [postgres] on_connection_loss = "stop" that stops '
                f"{enumerated(list(led))}; add --force, or renew when another node leads"
            )
        self._under_way = True
        try:
            rehearsal = await self._rehearsed(force)
        except BaseException:
            self._under_way = False
            raise
        self._persistence.hand_over()
        if rehearsal.spare is not None:
            self._guardian.name_successor(*rehearsal.spare, rehearsal.channel.detach())
        log.info("renewing: the installed code loads this machine's configuration; this worker gives way to the next")
        asyncio.get_running_loop().call_later(ANSWER_WITHIN, self._end)
        return ReplacementReport(self._node, DaemonProcess(os.getpid(), __version__), self._led(), rehearsal.warnings)

    def _led(self) -> dict[str, int]:
        programs = {name: member.program for name, member in self._fleet.members.items()}
        return {name: one.term.epoch for name, one in programs.items() if one.state == "leading" and one.term}

    async def _rehearsed(self, force: bool) -> Rehearsal:
        """Have the installed code load what it would be handed over; return once the next worker can begin in time.

        A rehearsal that has ended, or that the guardian may not be able to use, only shows how long the next worker
        will load. The first one reads files that later ones find in memory. Raises NeedsForce when the leases leave too
        little time, ConfigurationError or HighlanderError when the installed code does not load.
        """
        left = needed = 0.0
        for _ in range(TRIES):
            began = boottime()
            rehearsal = await self._rehearse()
            ready = rehearsal.spare is not None and self._persistence.restart_due is None
            needed = READY_WITHIN if ready else SLOWER * (boottime() - began)
            left = self._left()
            if not self._fleet.ending and (force or needed + RECONNECTED_WITHIN < left):
                return rehearsal
            in_thread(rehearsal.end, "rehearsal")  # which waits for its end, and leases run short
            if self._fleet.ending:
                raise HighlanderError(ENDING)
        raise NeedsForce(
            f"{REFUSED}: it takes {needed:.1f} s to begin, and the leases leave {left:.1f} s until children are "
            "fenced; this machine is too busy now, or PostgreSQL does not answer: try again later, or add --force"
        )

    async def _rehearse(self) -> Rehearsal:
        """Rehearse once, while this worker goes on. Raises ConfigurationError, HighlanderError."""
        try:
            return await in_thread(partial(Rehearsal, self._command, self._persistence.encoded()), "rehearsal")
        except OSError as error:
            raise HighlanderError(f"{REFUSED}: {error.strerror or error}") from error

    def _left(self) -> float:
        """Return the seconds until the first child is fenced if nothing is renewed from now on.

        A child that was due for that before has been fenced: it has nothing to lose.
        """
        now = boottime()
        moments = [
            member.program.term.fence_at(member.spawner.config.stop_timeout)
            for member in self._fleet.members.values()
            if member.program.term is not None
        ]
        return min((moment for moment in moments if moment > now), default=inf) - now - ANSWER_WITHIN
