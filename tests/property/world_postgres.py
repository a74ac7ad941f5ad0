"""The server of the small world: one program's row, meta, one advisory lock, and the sessions that are connected.

Each function is one statement of ``ledger.py``, committed at once. The verdict is not in here: it is the product's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from highlanderd.core.lease import Claim, Lease, Meta, Row, Server, Settle, Sight
from highlanderd.core.words import Release

Who = tuple[str, int]
"""A session: its node and its number there."""

LOCK_ID = 7


class Backend(NamedTuple):
    """The server's end of one session."""

    who: Who
    idle_since: float
    orphaned: bool = False
    """Its client is gone and the server has not noticed yet: it keeps its lock."""


class Postgres(NamedTuple):
    """All that the coordinator is, as far as one program is concerned."""

    lease: Lease
    run: int = 1
    system: int = 1
    timeline: int = 1
    settled: tuple[int, int] | None = None
    offsets: tuple[tuple[int, int], ...] = ((1, 0),)
    """(system, epoch offset)."""
    row: Row | None = None
    row_backend: Who | None = None
    holder: Who | None = None
    backends: tuple[Backend, ...] = ()

    def backend(self, who: Who) -> Backend | None:
        """Give the server's end of a session, if it lives."""
        return next((one for one in self.backends if one.who == who), None)

    def connect(self, who: Who, now: float) -> Postgres:
        """Begin a session; it holds no lock."""
        return self._replace(backends=(*self.backends, Backend(who, now)))

    def end(self, who: Who) -> Postgres:
        """A session ends, whatever ended it, and its lock with it."""
        holder = None if self.holder == who else self.holder
        return self._replace(backends=tuple(one for one in self.backends if one.who != who), holder=holder)

    def orphan(self, who: Who) -> Postgres:
        """The client of a session is gone without a word."""
        backends = tuple(one._replace(orphaned=True) if one.who == who else one for one in self.backends)
        return self._replace(backends=backends)

    def touch(self, who: Who, now: float) -> Postgres:
        """A statement resets the idle timer."""
        backends = tuple(one._replace(idle_since=now) if one.who == who else one for one in self.backends)
        return self._replace(backends=backends)

    def restart(self) -> Postgres:
        """All sessions end; what was committed stays."""
        return self._replace(run=self.run + 1, backends=(), holder=None)

    def offset(self) -> int | None:
        """Give the epoch offset of the present system, once the ledger has settled on it."""
        return dict(self.offsets).get(self.system)


class Reply(NamedTuple):
    """What a statement answered. ``granted`` is the lock's part, ``changed`` the row's."""

    granted: bool = True
    changed: bool = True
    sight: Sight | None = None


class LookAt(NamedTuple):
    """A plain SELECT."""

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Lock nothing."""
        server = Server(pg.system, pg.timeline, str(pg.run), 0)
        return pg, Reply(sight=Sight(server, Meta(pg.lease, pg.settled, pg.offset()), pg.row))


class TakeOverIf(NamedTuple):
    """Try the lock, and only if it was granted update exactly the version judged."""

    claim: Claim
    node: str
    instance: str
    compares_version: bool = True

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Insert where there was no row."""
        if pg.holder not in (None, who):
            return pg, Reply(granted=False, changed=False)
        pg = pg._replace(holder=who)
        if not self._fits(pg):
            return pg, Reply(changed=False)
        renewal = pg.row.renewal + 1 if pg.row else 1
        row = Row(LOCK_ID, "beat", self.claim.epoch, renewal, self.node, self.instance, pg.system, pg.timeline, False)
        return pg._replace(row=row, row_backend=who), Reply()

    def _fits(self, pg: Postgres) -> bool:
        claim = self.claim
        if (pg.system, pg.timeline) != (claim.system, claim.timeline):
            return False
        settled = pg.settled == (pg.system, pg.timeline)
        if claim.judged is None or pg.row is None:
            return claim.judged is None and pg.row is None and settled
        if not self.compares_version:
            return True
        same_server = (pg.row.system, pg.row.timeline) == (claim.judged.system, claim.judged.timeline)
        here = (pg.row.system, pg.row.timeline) == (pg.system, pg.timeline)
        return pg.row.version == claim.judged.version and same_server and (settled or here)


class RenewIf(NamedTuple):
    """Prolong the term; on a session without the lock, take it back in the same statement."""

    epoch: int
    instance: str
    takes_lock: bool

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Change the row only if the term is still ours."""
        if self.takes_lock:
            if pg.holder not in (None, who):
                return pg, Reply(granted=False, changed=False)
            pg = pg._replace(holder=who)
        if not _ours(pg, self.epoch, self.instance) or pg.row is None:
            return pg, Reply(changed=False)
        row = replace(pg.row, renewal=pg.row.renewal + 1, system=pg.system, timeline=pg.timeline)
        return pg._replace(row=row, row_backend=who if self.takes_lock else pg.row_backend), Reply()


class TerminateOld(NamedTuple):
    """End our own former sessions: those that the worker remembers, and the one in the row if the row is ours."""

    epoch: int
    instance: str
    first: int
    """Number of the first session that this worker remembers."""

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Leave everybody else's."""
        old = {one.who for one in pg.backends if one.who[0] == who[0] and self.first <= one.who[1] < who[1]}
        if _ours(pg, self.epoch, self.instance) and pg.row_backend not in (None, who):
            old |= {one.who for one in pg.backends if one.who == pg.row_backend}
        for one in sorted(old):
            pg = pg.end(one)
        return pg, Reply()


class ReleaseIf(NamedTuple):
    """Mark the row released, whatever the server: it never writes system or timeline."""

    release: Release
    instance: str

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Change nothing when the term was overtaken."""
        if not _ours(pg, self.release.epoch, self.instance) or pg.row is None:
            return pg, Reply(changed=False)
        kept = self.release.reservation
        row = replace(
            pg.row,
            renewal=pg.row.renewal + 1,
            released=True,
            reason=self.release.cause.value,
            reserved_for=kept.node if kept else None,
            reserved_seconds=kept.seconds if kept else 0.0,
        )
        return pg._replace(row=row), Reply()


class UnlockAll(NamedTuple):
    """``pg_advisory_unlock_all()``."""

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Free the lock if this session has it."""
        return pg._replace(holder=None if pg.holder == who else pg.holder), Reply()


class Notify(NamedTuple):
    """Tell the listeners; who hears it is the world's affair."""

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Change nothing."""
        return pg, Reply()


class SettleOn(NamedTuple):
    """Write the literals that were waited for, where the server shows exactly these."""

    settle: Settle

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Give the system its epoch offset with it."""
        if (pg.system, pg.timeline) != (self.settle.system, self.settle.timeline):
            return pg, Reply(changed=False)
        offsets = pg.offsets
        if pg.offset() is None:
            offsets = (*offsets, (pg.system, (pg.row.epoch >> 32) + 1 if pg.row else 0))
        return pg._replace(settled=(pg.system, pg.timeline), offsets=offsets), Reply()


Statement = LookAt | TakeOverIf | RenewIf | TerminateOld | ReleaseIf | UnlockAll | Notify | SettleOn


def _ours(pg: Postgres, epoch: int, instance: str) -> bool:
    row = pg.row
    return row is not None and row.epoch == epoch and row.instance == instance and not row.released
