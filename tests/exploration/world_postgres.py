"""The server of the small world: one program's rows, meta, advisory locks, and the sessions that are connected."""

from __future__ import annotations

from typing import NamedTuple

from highlanderd.core.lease import Lease
from highlanderd.core.observation import Meta, Row, ServerIdentity

Who = tuple[str, int]
"""A session: its node and its number there."""

LOCK_ID, FORMER_ID, OTHER_ID, NAME_ID = 7, 6, 8, 1
"""The program's lock id, the one that it had before its key was changed, another node's for it, and its name's."""

LAST_LOCKERS = 2
"""Ticks for which transactions of others go on that were under way when they became the last ones."""


class Backend(NamedTuple):
    """The server's end of one session."""

    who: Who
    idle_since: float
    idle_limit: float
    """``idle_session_timeout``: the ledger's lease as its client knew it."""
    orphaned: bool = False
    """Its client is gone and the server has not noticed yet: it keeps its lock."""
    joint: bool = False
    """It holds the locks of other programs, too, as long as its client is there."""


class Ledger(NamedTuple):
    """What is committed, and what a standby therefore has, or had."""

    lease: Lease
    """The pace of everything."""
    ceiling: Lease
    """The longest lease that any leader may have been promised."""
    maintenance: Lease | None = None
    """What leaders are to write during maintenance."""
    place: str = "1"
    """Oids of database and tables, and the ledger's own id."""
    settled: tuple[int, int, str] | None = None
    settled_place: str = ""
    """Where it was last settled; no ``UNSETTLE`` clears it."""
    offsets: tuple[tuple[int, int], ...] = ((1, 0),)
    """(system, epoch offset)."""
    rows: tuple[Row, ...] = ()
    row_backends: tuple[tuple[int, Who], ...] = ()
    """By lock id, the session that is written in the row."""
    suspended: bool = False
    """The program is stopped everywhere; a drained node is the same for that node."""
    latest: int = 0
    """The latest scheduled time that was begun: 0, or the only one, which is 1."""
    run_epoch: int | None = None
    """The epoch of the term that was begun for it."""
    reserved_at: float = 0.0
    """When the row was released, for the world's own judgement on reservations."""

    def row(self, lock_id: int) -> Row | None:
        """Return the row of a lock id."""
        return next((row for row in self.rows if row.lock_id == lock_id), None)

    @property
    def wanted(self) -> Lease:
        """What leaders are to write at present."""
        return self.maintenance or self.lease


class Postgres(NamedTuple):
    """All that the coordinator is, as far as one program is concerned."""

    ledger: Ledger
    run: int = 1
    system: int = 1
    timeline: int = 1
    holders: tuple[tuple[int, Who], ...] = ()
    """By lock id, who has the advisory lock."""
    backends: tuple[Backend, ...] = ()
    standby: Ledger | None = None
    """What the standby that will be promoted has; it receives nothing any more."""
    isolated: bool = False
    """A primary whose synchronous standby is out of reach: what it writes is never acknowledged."""
    lockers: tuple[int, int] | None = None
    """Lock id and epoch for which transactions of others overlap that called ``assert_leader``."""
    lockers_end: float = 0.0
    """When the last of them ends, once the function refuses new ones."""
    subscribed: tuple[Row, ...] | None = None
    """What logical replication from the first server has brought so far; None where there is none."""

    def row(self, lock_id: int) -> Row | None:
        """Return the row of a lock id."""
        return self.ledger.row(lock_id)

    def holder(self, lock_id: int) -> Who | None:
        """Return the session that has the lock."""
        return dict(self.holders).get(lock_id)

    def backend(self, who: Who) -> Backend | None:
        """Return the server's end of a session, if it lives."""
        return next((one for one in self.backends if one.who == who), None)

    def connect(self, who: Who, now: float, idle_limit: float, *, joint: bool = False) -> Postgres:
        """Begin a session; it holds no lock."""
        return self._replace(backends=(*self.backends, Backend(who, now, idle_limit, joint=joint)))

    def end(self, who: Who) -> Postgres:
        """A session ends, whatever ended it, and its locks with it."""
        if self.backend(who) is None:
            return self
        return self.unlock(who)._replace(backends=tuple(one for one in self.backends if one.who != who))

    def free(self, lock_id: int, who: Who) -> bool:
        """Whether the lock can be granted to this session."""
        return self.holder(lock_id) in (None, who)

    def lock(self, lock_id: int, who: Who) -> Postgres:
        """Grant the lock to a session."""
        others = tuple(one for one in self.holders if one[0] != lock_id)
        return self._replace(holders=tuple(sorted((*others, (lock_id, who)))))

    def unlock(self, who: Who) -> Postgres:
        """Free all locks of a session."""
        return self._replace(holders=tuple(one for one in self.holders if one[1] != who))

    def orphan(self, who: Who) -> Postgres:
        """The client of a session is gone without a word."""
        backends = tuple(one._replace(orphaned=True) if one.who == who else one for one in self.backends)
        return self._replace(backends=backends)

    def touch(self, who: Who, now: float) -> Postgres:
        """A statement resets the idle timer."""
        backends = tuple(one._replace(idle_since=now) if one.who == who else one for one in self.backends)
        return self._replace(backends=backends)

    def limit(self, who: Who, idle_limit: float) -> Postgres:
        """Set the idle timeout of a session."""
        backends = tuple(one._replace(idle_limit=idle_limit) if one.who == who else one for one in self.backends)
        return self._replace(backends=backends)

    def server(self) -> ServerIdentity:
        """Say which server answers."""
        return ServerIdentity(self.system, self.timeline, str(self.run), 0, self.ledger.place)

    def held_up(self, row: Row) -> bool:
        """Whether a change of this row's key columns has to wait for transactions of others."""
        return self.lockers == (row.lock_id, row.epoch)

    def restart(self) -> Postgres:
        """All sessions end; what was committed stays."""
        return self._replace(run=self.run + 1, backends=(), holders=(), lockers=None)

    def upgrade(self) -> Postgres:
        """Run on under a new system identifier, as after pg_upgrade."""
        return self.restart()._replace(system=self.system + 1, timeline=1)

    def promoted(self) -> Postgres:
        """Return the standby as the new primary."""
        new = self.restart()._replace(timeline=self.timeline + 1, standby=None, isolated=False)
        return new if self.standby is None else new._replace(ledger=self.standby)

    def write(self, row: Row, who: Who | None = None) -> Postgres:
        """Commit a row; ``who`` is written into it when given."""
        rows = tuple(one for one in self.ledger.rows if one.lock_id != row.lock_id)
        rows = tuple(sorted((*rows, row), key=lambda one: one.lock_id))
        backends = self.ledger.row_backends
        if who is not None:
            backends = tuple(sorted((*(one for one in backends if one[0] != row.lock_id), (row.lock_id, who))))
        return self._replace(ledger=self.ledger._replace(rows=rows, row_backends=backends))

    def offset(self) -> int | None:
        """Return the epoch offset of the present system, once the ledger has settled on it."""
        return dict(self.ledger.offsets).get(self.system)


def meta(pg: Postgres) -> Meta:
    """Say what the ledger says of itself."""
    ledger = pg.ledger
    return Meta(ledger.lease, ledger.settled, pg.offset(), ledger.wanted, ledger.ceiling)
