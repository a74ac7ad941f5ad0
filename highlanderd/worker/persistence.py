"""Keeps what must outlive this worker: with the guardian for the next worker, on disk for the next daemon."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from highlanderd.children.guardian_link import GuardianLink
from highlanderd.config import Loaded
from highlanderd.postgres.server import Server
from highlanderd.structs import replace
from highlanderd.threads import in_thread
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.handover import WorkerHandover

log = logging.getLogger(__name__)

LAST_WRITE_WITHIN: Final = 1.0
"""Seconds for a write to the disk that an order or the end of the daemon waits for."""


class Persistence:
    """The handover as this worker would leave it now, and what the guardian and the disk have of it."""

    def __init__(self, handover: WorkerHandover, guardian: GuardianLink, fleet: Fleet, server: Server) -> None:
        self._handover, self._guardian, self._fleet, self._server = handover, guardian, fleet, server
        self._handed_over: WorkerHandover | None = None
        """What the guardian has."""
        self._writing: asyncio.Future[None] | None = None

    @property
    def restart_due(self) -> str | None:
        """Since when the guardian is of another version than its workers; None while it is of the same."""
        return self._handover.restart_due

    def keep(self) -> None:
        """Bring guardian and disk up to date. A disk that hangs holds nothing up."""
        self.hand_over()
        if self._server.memory.unkept:
            self._write()

    def _write(self) -> asyncio.Future[None]:
        if self._writing is None or self._writing.done():
            self._writing = in_thread(self._server.memory.keep, "memory")
        return self._writing

    async def unwritten(self) -> tuple[str, ...]:
        """Write what the disk has not, and return a sentence about what cannot be written; none if all is."""
        memory = self._server.memory
        if memory.unkept:
            await asyncio.wait([self._write()], timeout=LAST_WRITE_WITHIN)
        if not memory.unkept:
            return ()
        why = memory.trouble or f"its disk has not answered for {LAST_WRITE_WITHIN:g} s"
        return (
            f"this node cannot write into its state_dir what it must know of leases after a restart ({why}): mend that "
            "before its daemon is restarted, or another node could lead too early",
        )

    @property
    def latest(self) -> Loaded:
        """What was loaded last."""
        return self._handover.latest

    @property
    def connecting(self) -> Loaded:
        """What says how to connect."""
        return self._handover.connecting

    def reloaded(self, loaded: Loaded) -> None:
        """Replace the configuration of the programs, and the credentials of the dsn."""
        self._handover = replace(self._handover, latest=loaded)
        if self.connecting is loaded and loaded.configuration.embedded_directory is None:
            self._server.use_credentials(loaded.configuration.postgres.dsn.get_secret_value())

    def encoded(self) -> bytes:
        """Return what the next worker would be handed over now."""
        self._refresh()
        return self._handover.encode()

    def _refresh(self) -> None:
        facts: dict[str, Any] = {
            "wishes": dict(self._fleet.wishes),
            "beginnings": self._fleet.beginnings,
            "seen_ledger": self._server.seen_ledger,
            "memory": self._server.memory.facts(),
        }
        if any(getattr(self._handover, name) != fact for name, fact in facts.items()):
            self._handover = replace(self._handover, **facts)

    def hand_over(self) -> None:
        """Hand the guardian what has changed since the last time. A failure is logged, and tried again later."""
        self._refresh()
        if self._handover is self._handed_over:
            return
        try:
            self._guardian.remember(self._handover.encode())
        except OSError as error:
            log.error("cannot hand over what the next worker must know: %s; trying again", error.strerror)
        else:
            self._handed_over = self._handover

    async def write_last(self) -> None:
        """Write what was seen since the last round. A disk that hangs does not keep the daemon from ending."""
        if self._server.memory.unkept:
            await asyncio.wait([self._write()], timeout=LAST_WRITE_WITHIN)
