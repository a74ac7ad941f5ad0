"""Write what this daemon says of itself into the ledger, for ``highlanderctl cluster`` and for standbys as a metric.

It is written on the listening session, about once a lease and when something has changed, a second apart at most.
Nobody leads or waits because of it: what cannot be written is tried again later.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict

from highlanderd.core.cluster import CandidatePresence, NodePresence
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.replies import WireLost
from highlanderd.postgres.server import Server
from highlanderd.postgres.sql import sharing
from highlanderd.system.linux import boottime

APART: Final = 1.0
"""Seconds between two writings at least: a burst of changes is written once."""

SOON: Final = 0.2
"""Seconds until it is tried again whether there is a session to write on."""

WITHDRAWN_WITHIN: Final = 5.0
"""Seconds that the end of a node may wait until its presence is taken back."""


class _Written(Struct):
    """What one session has written: the next one may be on another server."""

    backend: int
    """The pid of the session's backend."""
    until: float = 0.0
    """When the node was seen for so long that it has to be written again, by CLOCK_BOOTTIME in seconds."""
    programs: Mapping[str, CandidatePresence] | None = None
    """None while they are not written."""


class Presence:
    """What the ledger has of this node, and what is to be written."""

    def __init__(
        self,
        server: Server,
        listener: Listener,
        *,
        present: Callable[[], NodePresence],
        change: Callable[[], asyncio.Event],
        pressed: Callable[[], bool] = lambda: False,
    ) -> None:
        """``present`` returns what is true now, and ``change`` what is set at the next change.

        While ``pressed`` returns True, leases run out elsewhere: a new session's first writing waits, which is the
        longest.
        """
        self._server, self._listener = server, listener
        self._present, self._change, self._pressed = present, change, pressed
        self._written: _Written | None = None

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            changed = self._change()  # also what changes until the next writing is written then
            again: float | None = None
            try:
                again = await self._write()
            except WireLost:
                self._written = None
            except Exception as error:  # noqa: BLE001 - nothing that leads depends on it
                self._server.notes.unforeseen("cannot write this node's presence", error)
            await asyncio.sleep(SOON if again is None else APART)
            if again is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, again - boottime())):
                        await changed.wait()

    async def withdraw(self) -> None:
        """Take back what was written, by a node that never comes back. ``run`` must have been cancelled.

        What cannot be taken back in time is left: ``sharing.TIDY`` forgets it.
        """
        if self._listener.shares:
            node = self._present()
            with suppress(WireLost, TimeoutError):
                async with asyncio.timeout(WITHDRAWN_WITHIN):
                    await self._listener.inquire("withdrawn", sharing.WITHDRAWN, node.name, node.instance)

    async def _write(self) -> float | None:
        """Write what this session has not; return when to look again at the latest, and None for soon."""
        backend = self._listener.backend
        if backend is None or not self._listener.shares:
            return None
        if self._written is None or self._written.backend != backend:
            if self._pressed():
                return None
            self._written = _Written(backend)
        now, node, written = boottime(), self._present(), self._written
        again = now + self._server.lease.length
        if now >= written.until:
            values = (node.name, node.instance, node.version, node.advertise, node.started)
            if not await self._written_down("present", sharing.PRESENT, *values):
                return again
            written.until = again
        await self._write_candidates(node, written)
        return written.until

    async def _write_candidates(self, node: NodePresence, written: _Written) -> None:
        programs, known = {program.program: program for program in node.programs}, written.programs or {}
        changed = [asdict(program) for name, program in programs.items() if known.get(name) != program]
        if changed and not await self._written_down("candidates", sharing.CANDIDATES, node.name, json.dumps(changed)):
            return
        fewer = node.names is not None and (written.programs is None or known.keys() - programs.keys())
        names = json.dumps([*(node.names or ()), *programs])
        if fewer and not await self._written_down("removed", sharing.REMOVED, node.name, names):
            return
        written.programs = programs

    async def _written_down(self, name: str, sql: str, *values: str | None) -> bool:
        """Return whether the statement was carried out; warn when it was not. Raises WireLost."""
        reply = await self._listener.inquire(name, sql, *values)
        why = [] if reply.error is None else [f"other nodes do not see what this one could lead: {reply.error.text}"]
        self._server.notes.warn("presence", why)
        return reply.error is None
