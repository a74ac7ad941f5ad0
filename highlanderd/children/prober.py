"""Finds out whether a program's child is ready, and then whether it is well, as the keys ``ready`` and ``alive`` say.

What is found reaches the machine as ``FoundReady``, ``FoundUnready`` and ``FoundUnhealthy``; nothing is decided here.
A child is asked for as long as its term goes on: while PostgreSQL is away, too, and by a new worker. One question at a
time is open, and each has an end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from highlanderd.children.checks import HostNames, ProbedChild, Unwell, ask, described, reason
from highlanderd.config import ProgramConfig
from highlanderd.config.probes import Delay, ExecCheck, Notify, Probe
from highlanderd.core.events import FoundReady, FoundUnhealthy, FoundUnready
from highlanderd.core.states import Ready, Running
from highlanderd.system import linux

log = logging.getLogger(__name__)

Finding = FoundReady | FoundUnready | FoundUnhealthy
Post = Callable[[Finding], None]

ANEW: Final = 1.0
"""Seconds between two questions whether a child is ready, unless its ``period`` is shorter."""
LATE: Final = 0.5
"""Seconds by which a time-out may come late. Beyond that this worker stood still, and the answer may have come."""
KEEPERS_PATIENCE: Final = 5.0
"""Seconds in addition to a command's own time: its keeper ends it, and says so."""
OLD_KEEPER: Final = Delay(1.0)
"""What counts where the keeper is of a version that hears no child and runs no command."""


class Prober:
    """Asks the child of one program. ``names`` looks up the hosts that probes name."""

    def __init__(self, config: ProgramConfig, names: HostNames) -> None:
        self.config = config
        self._names = names
        self._asked: tuple[object, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def apply(self, config: ProgramConfig) -> None:
        """Go by this configuration from now on. What is being asked is given up if that has changed."""
        former, self.config = self.config, config
        if (former.ready, former.alive) != (config.ready, config.alive):
            self.stop()

    def follow(self, child: ProbedChild | None, running: Running | Ready | None, post: Post) -> None:
        """Ask this child whether it is ready, or well once it is; nobody while none is running."""
        asked = () if child is None or running is None else (child, type(running), running.since)
        if asked == self._asked:
            return
        self.stop()
        self._asked = asked
        if child is not None and running is not None:
            ready = isinstance(running, Ready)
            asking = self._while_well(child, post) if ready else self._until_ready(child, running.since, post)
            self._task = asyncio.get_running_loop().create_task(asking, name=f"probe {self.config.name}")
            self._task.add_done_callback(self._conclude)

    def stop(self) -> None:
        """Ask nobody any more."""
        task, self._task, self._asked = self._task, None, ()
        if task is not None:
            task.cancel()

    def _conclude(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: its probe has failed, which is a fault of highlanderd", self.config.name, exc_info=error)

    # --------------------------------------------------------------------------------------------------------- ready

    async def _until_ready(self, child: ProbedChild, since: float, post: Post) -> None:
        ready = self.config.ready
        if _too_old(child, ready):
            log.warning("%s: its keeper is too old to ask it; restart the daemon after this upgrade", self.config.name)
            ready = OLD_KEEPER
        match ready:
            case Delay(seconds):
                await asyncio.sleep(max(0.0, since + seconds - linux.boottime()))
            case Notify():
                await self._hear(child, post)
            case Probe():
                await self._ask_until_good(ready, child, post)
        post(FoundReady(linux.boottime()))

    async def _hear(self, child: ProbedChild, post: Post) -> None:
        """Wait until the child says that it is ready; pass on what it says before."""
        told: tuple[str, float] | None = None
        while (report := child.report) is None or report.ready is None:
            if report is not None and told != (said := (report.says, report.extended or 0.0)):
                told, (says, until) = said, said
                post(FoundUnready(f"it says: {says}" if says else "it has not said READY=1", until))
            await child.news()

    async def _ask_until_good(self, probe: Probe, child: ProbedChild, post: Post) -> None:
        told = None
        while (why := await self._ask(probe, child)) != "":
            if why is not None and why != told:
                told = why
                post(FoundUnready(why))
            await asyncio.sleep(min(ANEW, probe.period))

    # ---------------------------------------------------------------------------------------------------------- well

    async def _while_well(self, child: ProbedChild, post: Post) -> None:
        alive = self.config.alive
        if alive is None or _too_old(child, alive):
            return
        if isinstance(alive, Notify):
            child.watch(self.config.alive_timeout)
            while (report := child.report) is None or report.unhealthy is None:
                await child.news()
            why = report.unhealthy
        else:
            why = await self._ask_until_bad(alive, child)
        post(FoundUnhealthy(f"not alive: {why}", linux.boottime()))

    async def _ask_until_bad(self, probe: Probe, child: ProbedChild) -> str:
        """Return why, once so many answers in a row were not good."""
        loop, failures, why = asyncio.get_running_loop(), 0, ""
        began = loop.time()
        while failures < probe.threshold:
            await asyncio.sleep(max(0.0, began + probe.period - loop.time()))
            began = loop.time()
            found = await self._ask(probe, child)
            if found is not None:
                failures, why = failures + 1 if found else 0, found
        return f"{why}, {failures} times in a row" if failures > 1 else why

    async def _ask(self, probe: Probe, child: ProbedChild) -> str | None:
        """Return why the answer was not good, empty if it was; None when the lack of one says nothing."""
        loop = asyncio.get_running_loop()
        ours = isinstance(probe.check, ExecCheck)
        until = loop.time() + probe.timeout + (KEEPERS_PATIENCE if ours else 0.0)
        try:
            async with asyncio.timeout_at(until):
                await ask(probe.check, self._names, child, probe.timeout)
            return ""
        except TimeoutError:
            if ours or loop.time() > until + LATE:
                return None
            why = f"did not answer within {probe.timeout:g} s"
        except Unwell as refusal:
            why = str(refusal)
        except OSError as error:
            why = f"cannot be asked: {reason(error)}"
        return f"{described(probe.check)} {why}"


def _too_old(child: ProbedChild, how: object) -> bool:
    """Return whether its keeper is of a version that can do none of this; other questions are this worker's own."""
    of_keeper = isinstance(how, Notify) or (isinstance(how, Probe) and isinstance(how.check, ExecCheck))
    return of_keeper and child.report is not None and child.report.probe is None
