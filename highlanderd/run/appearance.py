"""What other nodes see of a run while it lives, and what they hear when they order it about.

It writes its presence as a daemon does. It takes no orders, and says so at once; a daemon may ask it whether it could
lead its program, before that is released to it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from highlanderd.core.cluster import ASK, LIFT, NodePresence
from highlanderd.errors import NotPermitted
from highlanderd.postgres.commands import Command, Commands
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.presence import Presence
from highlanderd.run.order import RunOrder
from highlanderd.structs import replace
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.next_change import Changes
from highlanderd.worker.presence import WorkerPresence


class RunAppearance:
    """A run as the cluster meets it, under the name of its node."""

    def __init__(self, order: RunOrder, node: str, instance: str, pool: Pool, fleet: Fleet, changes: Changes) -> None:
        self._node, self._program, self._fleet = node, order.name, fleet
        self._worker = WorkerPresence(node, instance, None, fleet, order.environment)
        self._presence = Presence(pool.server, pool.listener, present=self._present, change=lambda: changes.next)
        self._commands = Commands(
            pool.server, pool.ledger, pool.listener, node=node, instance=instance, carry_out=self._answer
        )

    async def run(self) -> None:
        """Be seen, and answer, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._presence.run())
            group.create_task(self._commands.run())

    async def end(self) -> None:
        """Be seen no more, once ``run`` was cancelled."""
        await self._presence.withdraw()

    def _present(self) -> NodePresence:
        """Return what is true now. Of its configuration, the command is all that its user has chosen."""
        now = self._worker.now()
        commands = ({key: of for key, of in one.digests.items() if key == "command"} for one in now.programs)
        programs = (replace(one, digests=found) for one, found in zip(now.programs, commands, strict=True))
        return replace(now, programs=tuple(programs))

    async def _answer(self, command: Command) -> dict[str, Any]:
        """Answer what another node has written for this one."""
        member = self._fleet.members.get(command.program)
        if command.verb == ASK and member is not None:
            return {"hindrance": self._worker.hindrance(member)}
        if command.verb == LIFT:
            return {}
        why = f"it is a `highlanderd run`, which takes no orders; `highlanderctl drain {self._node}` ends it"
        return {"error": {"code": NotPermitted.code, "message": why}}
