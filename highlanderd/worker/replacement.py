"""The replacement of the worker: one of the installed code takes the place of this one, and no child notices.

First the installed code has to load what it would be handed over. It does so below this worker: as the daemon's user,
in the unit's sandbox, by the command that the guardian executes for a worker. Then this worker ends, and the
guardian starts the next one. Guardian and keepers stay as they are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from highlanderd import __version__
from highlanderd.core.status import DaemonProcess, ReplacementReport
from highlanderd.errors import CONFIGURATION_INVALID, DONE, ConfigurationError, HighlanderError, NeedsForce, enumerated
from highlanderd.system import linux
from highlanderd.system.linux import boottime
from highlanderd.threads import in_thread
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.persistence import Persistence

log = logging.getLogger(__name__)

CHECK_WITHIN: Final = 60.0
"""Seconds to load a large configuration on a slow machine."""
ANSWER_WITHIN: Final = 0.2
"""Seconds between the answer to the order and the worker's end."""
TRIES: Final = 2
"""How often the installed code is loaded before this machine counts as too busy."""
SLOWER: Final = 1.5
"""A worker that starts needs more than the check: its own log, its loop, its listeners."""
RECONNECTED_WITHIN: Final = 0.5
"""Seconds in which a new worker takes its locks back: a few round trips for each program."""
MOST_LINES: Final = 50
"""Lines of what the installed code says that are passed on."""
REFUSED: Final = "the installed code cannot take over; the present worker goes on"


class WorkerReplacement:
    """The end of this worker for the sake of the next one."""

    def __init__(
        self,
        node: str,
        command: Sequence[str],
        fleet: Fleet,
        persistence: Persistence,
        *,
        on_connection_loss: str,
        end: Callable[[], None],
    ) -> None:
        self._node, self._command, self._fleet, self._persistence = node, tuple(command), fleet, persistence
        self._stops_children = on_connection_loss == "stop"
        self._end = end
        self._under_way = False

    async def begin(self, *, force: bool) -> ReplacementReport:
        """Check the installed code, and end this worker soon.

        Raises ConfigurationError, NeedsForce, HighlanderError.
        """
        if self._fleet.ending:
            raise HighlanderError("the daemon is ending; the one that is started next has the installed code")
        if self._under_way:
            raise HighlanderError("the worker is being replaced already; 'highlanderctl version' says when it is over")
        led = self._led()
        if led and self._stops_children and not force:
            raise NeedsForce(
                f'a new worker has new sessions, and with [postgres] on_connection_loss = "stop" that stops '
                f"{enumerated(list(led))}; add --force, or renew when another node leads"
            )
        self._under_way = True
        try:
            warnings = await self._checked(force)
        except BaseException:
            self._under_way = False
            raise
        self._persistence.hand_over()
        log.info("renewing: the installed code loads this machine's configuration; this worker gives way to the next")
        asyncio.get_running_loop().call_later(ANSWER_WITHIN, self._end)
        return ReplacementReport(self._node, DaemonProcess(os.getpid(), __version__), self._led(), warnings)

    def _led(self) -> dict[str, int]:
        programs = {name: member.program for name, member in self._fleet.members.items()}
        return {name: one.term.epoch for name, one in programs.items() if one.state == "leading" and one.term}

    async def _checked(self, force: bool) -> tuple[str, ...]:
        """Check the installed code; return its warnings once it loads fast enough for the leases that run meanwhile.

        Its first run reads files that later ones find in memory.
        """
        left = seconds = 0.0
        for _ in range(TRIES):
            began = boottime()
            warnings = await self._check()
            seconds, left = boottime() - began, self._left()
            if force or SLOWER * seconds + RECONNECTED_WITHIN < left:
                return warnings
        raise NeedsForce(
            f"{REFUSED}: it takes {seconds:.1f} s to load, and the leases leave {left:.1f} s until children are "
            "fenced; this machine is too busy now, or PostgreSQL does not answer: try again later, or add --force"
        )

    def _left(self) -> float:
        """Return the seconds until the first child is fenced if nothing is renewed from now on."""
        moments = [
            member.program.term.fence_at(member.spawner.config.stop_timeout)
            for member in self._fleet.members.values()
            if member.program.term is not None
        ]
        return min(moments, default=inf) - boottime() - ANSWER_WITHIN

    async def _check(self) -> tuple[str, ...]:
        """Have the installed code load what it would be handed over; return its warnings."""
        try:
            handover = linux.memfd("handover", self._persistence.encoded())
            code, said = await in_thread(lambda: self._rehearse(handover), "replacement")
        except subprocess.TimeoutExpired:
            raise HighlanderError(f"{REFUSED}: it has not loaded within {CHECK_WITHIN:g} s") from None
        except OSError as error:
            raise HighlanderError(f"{REFUSED}: {error.strerror or error}") from error
        if code == CONFIGURATION_INVALID:
            raise ConfigurationError((f"{REFUSED}, because it does not load this machine's configuration:", *said))
        if code != DONE:
            raise HighlanderError("\n".join((f"{REFUSED}; it ended with code {code}:", *said)))
        return said

    def _rehearse(self, handover: int) -> tuple[int, tuple[str, ...]]:
        """Run the installed code until it has loaded; return its exit code and what it said."""
        try:
            run = subprocess.run(
                [*self._command, "--check", "--handover", str(handover)],
                pass_fds=(handover,),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=CHECK_WITHIN,
                check=False,
            )
        finally:
            os.close(handover)
        return run.returncode, tuple(run.stderr.decode("utf-8", "replace").splitlines()[-MOST_LINES:])
