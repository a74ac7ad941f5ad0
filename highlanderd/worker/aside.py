"""Programs that do not contend on this node.

The file, a limit or a quarantine keeps them away, or their task has failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from highlanderd.config import ProgramConfig, needs
from highlanderd.worker.member import Member
from highlanderd.worker.quiet import quietly

log = logging.getLogger(__name__)

NEVER: Final = 'the key "never" names this node'
"""The reason of a program that the configuration keeps from this node."""

SIT_OUT: Final = 60.0
"""Seconds for which a program stays away whose task has failed."""


class SetAside:
    """Says what keeps a program from contending here, and shows it as stopped meanwhile."""

    def __init__(
        self,
        node: str,
        quarantined: Mapping[str, str],
        *,
        on_alarm: Callable[[str], None],
        on_change: Callable[[], None],
        limits: Callable[[], needs.Limits] = needs.limits,
    ) -> None:
        """``quarantined`` are the programs that workers have died of, and how; ``limits`` says what this host has."""
        self._node, self._quarantined = node, dict(quarantined)
        self._on_alarm, self._on_change = on_alarm, on_change
        self._find_limits, self._limits = limits, needs.Limits()
        self._wanted: Mapping[str, ProgramConfig] = {}
        self._affordable: frozenset[str] = frozenset()
        """The programs that this node has descriptors and processes for: the others are led elsewhere."""

    def want(self, programs: Mapping[str, ProgramConfig]) -> None:
        """Go by these programs from now on."""
        self._wanted = programs
        self._limits = self._find_limits()  # a unit's TasksMax may have been raised since the last time
        self._affordable = needs.affordable(programs, self._limits)

    def barred(self, name: str, node: str | None = None) -> bool:
        """Return whether the configuration says that a node, this one by default, never runs a program."""
        return name in self._wanted and (node or self._node) in self._wanted[name].never

    def quarantine(self, name: str) -> str:
        """Return what workers have died of that handled this program; empty for none."""
        if name not in self._quarantined:
            return ""
        return (
            f"quarantined: two workers have died while they handled it, the last one by {self._quarantined[name]}; "
            "the log says when. 'highlanderctl start' tries again"
        )

    def lift(self, name: str) -> bool:
        """Lift a quarantine; return whether there was one."""
        return self._quarantined.pop(name, None) is not None

    def why(self, name: str) -> str:
        """Return what keeps a program from contending here; empty when it may."""
        return self._trouble(name) or (NEVER if self.barred(name) else "")

    def _trouble(self, name: str) -> str:
        """Return what keeps a program away that should contend here."""
        if quarantine := self.quarantine(name):
            return quarantine
        return (
            "" if name in self._affordable or name not in self._wanted else needs.shortage(self._wanted, self._limits)
        )

    async def stay(self, member: Member) -> None:
        """Contend for nothing until that may have changed. Only what the configuration wants is no alarm."""
        if trouble := self._trouble(member.program.name):
            self._show(member, trouble)
        else:
            member.program.fail(NEVER)
        member.set_aside = True
        member.session.close()
        await member.recalled.wait()

    async def contain(self, member: Member, error: Exception) -> None:
        """Kill the child of a program whose task has failed, and show why until it is tried again.

        Its row is not released: others wait. It leaves early if it is to, or if an operator starts it.
        """
        name, child = member.program.name, member.program.child
        log.error("%s: its task has failed", name, exc_info=error, extra={"program": name})
        member.recalled.clear()  # what was ordered before is no answer to this
        self._show(
            member, f"its task has failed ({error!r}), which is a fault of highlanderd; tried again after {SIT_OUT:g} s"
        )
        if child is not None:
            quietly(child.kill)()
        if not member.leaves.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(SIT_OUT):
                    await member.recalled.wait()

    def _show(self, member: Member, why: str) -> None:
        """Show a program as stopped, whatever it was doing, and raise an alarm."""
        self._on_alarm(f"{member.program.name}: {why}")
        member.program.fail(why)
        self._on_change()
