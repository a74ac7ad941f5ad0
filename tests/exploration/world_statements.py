"""The statements of the small world: what each does to its server, and what of it a mutation may leave out.

Each statement stands in for the constant of ``postgres/sql`` that its docstring names, committed by itself, with the
same conditions in the same order. ``tests/integration/test_session.py`` and ``test_session_servers.py`` hold the SQL
itself to them, on a real server. The verdict is not in here: it is the product's.
"""

from __future__ import annotations

from typing import NamedTuple

from highlanderd.core.effects import Release
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Observation, Row, ServerIdentity, Suspension
from highlanderd.core.schedule import Timetable
from highlanderd.core.states import Reservation
from highlanderd.core.verdict import Claim, Settle
from highlanderd.structs import replace
from tests.exploration.world_postgres import NAME_ID, Postgres, Who, meta

WORDS = "once"
"""The schedule: one time, which has come long ago."""
SUSPENSION = Suspension(drained=False, author="an operator", remark="")


class Reply(NamedTuple):
    """What a statement answered. ``granted`` is the lock's part, ``changed`` the row's."""

    granted: bool = True
    changed: bool = True
    observation: Observation | None = None
    acknowledged: bool = True
    """No WARNING came with it."""
    lengths: tuple[Lease, Lease] | None = None
    """Of a renewal: what the ledger wants next, and its pace."""
    blocked: bool = False
    """It waited for other transactions until its time limit ended it."""


class Flaws(NamedTuple):
    """What a mutation breaks in the SQL. The defaults are ``postgres/sql``."""

    compares_version: bool = True
    compares_settled: bool = True
    compares_place: bool = True
    compares_ceiling: bool = True
    update_needs_grant: bool = True
    settles_present: bool = False
    settles_generation: bool = True
    reads_other_rows: bool = True
    refuses_other_rows: bool = True
    """The takeover refuses beside another unreleased row of the program."""
    locks_name: bool = True
    closes_first: bool = True
    minds_suspension: bool = True
    """No takeover of a program that is stopped everywhere, whatever the look before it has shown."""
    compares_time: bool = True
    """The takeover for a scheduled time begins only if no time was run or skipped since the look."""
    minds_lock: bool = True
    """A session renews the term of another one's program only while the lock of that is held."""
    frees_what_is_of_no_use: bool = True
    """A joint session keeps no lock of a program whose row it could not renew."""
    compares_length: bool = True
    """And only under the lease that its row carries."""
    compares_session: bool = True
    """And only if its row was written for the session that has joined."""
    takes_closed_only: bool = True
    """The takeover changes a row that is released already, by its leader or by the closing."""


class LookAt(NamedTuple):
    """``LOOK_WITHOUT_HISTORY``: a plain SELECT of the server's identity, ``meta``, and the lock id's or program's rows.

    History only ever raises an epoch; without it, epochs have to be right as well.
    """

    lock_id: int
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Lock nothing."""
        others = tuple(row for row in pg.ledger.rows if row.lock_id != self.lock_id)
        others = others if self.flaws.reads_other_rows else ()
        suspension = SUSPENSION if pg.ledger.suspended else None
        observation = Observation(pg.server(), meta(pg), pg.row(self.lock_id), others, suspension=suspension)
        timetable = Timetable(WORDS, 0.0, pg.ledger.latest, pg.ledger.run_epoch)
        observation = replace(observation, clock=1.0, timetable=timetable)
        return pg, Reply(observation=observation)


class LockName(NamedTuple):
    """``NAME``: try the lock of the program's name."""

    flaws: Flaws

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Write nothing."""
        if not self.flaws.locks_name:
            return pg, Reply(changed=False)
        free = pg.free(NAME_ID, who)
        return pg.lock(NAME_ID, who) if free else pg, Reply(granted=free, changed=False)


class CloseIf(NamedTuple):
    """``CLOSE``: mark a term that was waited out as released, if it still is the version judged; no key changes."""

    row: Row
    server: ServerIdentity
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Never write system or timeline."""
        row, server = pg.row(self.row.lock_id), self.server
        same = row is not None and _as_judged(row, self.row, self.row.renewal) and not row.released
        here = (pg.system, pg.timeline) == (server.system, server.timeline)
        if row is None or not same or not here or not _same_place(pg, server, self.flaws):
            return pg, Reply(changed=False)
        row = replace(row, renewal=row.renewal + 1, released=True, reason="lapsed")
        return pg.write(replace(row, reserved_for=None, reserved_seconds=0.0)), Reply()


class TakeOverIf(NamedTuple):
    """``TAKE_OVER`` and ``FIRST_TAKE_OVER``: try the locks, and only if granted update exactly the version judged."""

    claim: Claim
    lock_id: int
    node: str
    instance: str
    flaws: Flaws
    alone: bool | None = None
    """Whether no other row of the program was unreleased when the statement began; None when it begins now."""

    def begun(self, pg: Postgres) -> TakeOverIf:
        """Return the statement with what it will see of other rows, whatever others commit before it is granted."""
        return self._replace(alone=self._alone(pg))

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Insert where there was no row."""
        alone = self._alone(pg) if self.alone is None else self.alone
        pg, granted = _granted(pg, self.lock_id, who, self.flaws)
        if not granted:
            return pg, Reply(granted=False, changed=False)
        if not (self._fits(pg) and (alone or not self.flaws.refuses_other_rows)):
            return pg, Reply(changed=False)
        before = pg.row(self.lock_id)
        if before is not None and pg.held_up(before):
            return pg, Reply(changed=False, blocked=True)
        renewal = before.renewal + 1 if before else 1
        epoch, server, lease = self.claim.epoch, (pg.system, pg.timeline), self.claim.lengths.trusted.length
        row = Row(self.lock_id, "beat", epoch, renewal, self.node, self.instance, *server, False, lease)
        if self.claim.run is not None:
            pg = pg._replace(ledger=pg.ledger._replace(latest=self.claim.run.at, run_epoch=epoch))
        return pg.write(row, who), Reply()

    def _alone(self, pg: Postgres) -> bool:
        return all(row.released or row.lock_id == self.lock_id for row in pg.ledger.rows)

    def _fits(self, pg: Postgres) -> bool:
        claim, row = self.claim, pg.row(self.lock_id)
        if pg.ledger.suspended and self.flaws.minds_suspension:
            return False
        if claim.run is not None and claim.run.after != pg.ledger.latest and self.flaws.compares_time:
            return False
        if (pg.system, pg.timeline) != (claim.server.system, claim.server.timeline):
            return False
        if not _same_place(pg, claim.server, self.flaws):
            return False
        if self.flaws.compares_settled and not Observation(pg.server(), meta(pg), row).settled:
            return False
        if self.flaws.compares_ceiling and claim.lengths.trusted.length > pg.ledger.ceiling.length:
            return False
        if claim.judged is None or row is None:
            return claim.judged is None and row is None
        closed = claim.judged in claim.closing and self.flaws.closes_first
        if self.flaws.closes_first and self.flaws.takes_closed_only and not row.released:
            return False  # a late renewal has the number that the closing would have had
        return not self.flaws.compares_version or _as_judged(row, claim.judged, claim.judged.renewal + closed)


class RenewIf(NamedTuple):
    """``RENEW``, and on a session without the lock ``REATTACH``, which takes it back in the same statement."""

    lock_id: int
    epoch: int
    instance: str
    asked: Lease
    takes_lock: bool
    flaws: Flaws

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Change the row only if the term is still ours, and the ledger promises a lease as long as the one asked."""
        if self.takes_lock:
            pg, granted = _granted(pg, self.lock_id, who, self.flaws)
            if not granted:
                return pg, Reply(granted=False, changed=False)
        row = _ours(pg, self.lock_id, self.epoch, self.instance)
        promised = self.asked.length <= pg.ledger.ceiling.length or not self.flaws.compares_ceiling
        if row is None or not promised:
            return pg, Reply(changed=False)
        row = replace(row, renewal=row.renewal + 1, system=pg.system, timeline=pg.timeline)
        row = replace(row, trusted_for=self.asked.length)
        return pg.write(row, who if self.takes_lock else None), Reply(lengths=(pg.ledger.wanted, pg.ledger.lease))


class HoldIf(NamedTuple):
    """``HOLD_MANY``, for one of many: RENEW where the joint session holds the lock already, and else REATTACH."""

    lock_id: int
    epoch: int
    instance: str
    asked: Lease
    held: bool
    flaws: Flaws

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Keep no lock that was granted for nothing."""
        renew = RenewIf(self.lock_id, self.epoch, self.instance, self.asked, not self.held, self.flaws)
        after, reply = renew.on(pg, who)
        if reply.changed or self.held:
            return after, reply
        return after.unlock(who) if self.flaws.frees_what_is_of_no_use else after, reply


class UnlockOne(NamedTuple):
    """``UNLOCK_ONE``, if the lock is held as far as the client knows; ``leaves`` says that the program has left."""

    held: bool
    leaves: bool

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Of a joint session nobody is left that this world knows, once the program has left it."""
        if self.leaves:
            return pg.end(who), Reply(changed=False)
        return pg.unlock(who) if self.held else pg, Reply(changed=False)


class RenewManyIf(NamedTuple):
    """``RENEW_MANY``, for one of many: it renews only what stays as it is."""

    lock_id: int
    epoch: int
    instance: str
    asked: Lease
    own: Who
    """The session that holds the program's lock."""
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Take no lock; a try that succeeds is over with its transaction."""
        row = _ours(pg, self.lock_id, self.epoch, self.instance)
        lengths = pg.ledger.wanted, pg.ledger.lease
        if row is None or not (self._stays(pg, row) and self.asked.length <= pg.ledger.ceiling.length):
            return pg, Reply(changed=False, lengths=lengths)
        return pg.write(replace(row, renewal=row.renewal + 1, trusted_for=self.asked.length)), Reply(lengths=lengths)

    def _stays(self, pg: Postgres, row: Row) -> bool:
        held = pg.holder(self.lock_id) is not None or not self.flaws.minds_lock
        alike = row.trusted_for == self.asked.length or not self.flaws.compares_length
        here = (row.system, row.timeline) == (pg.system, pg.timeline)
        theirs = dict(pg.ledger.row_backends).get(self.lock_id) == self.own or not self.flaws.compares_session
        return held and alike and here and theirs


class TerminateOld(NamedTuple):
    """``TERMINATE_OLD``: end our own former sessions, those that the worker remembers and the one in our row."""

    lock_id: int
    epoch: int
    instance: str
    first: int
    """Number of the first session that this worker remembers."""

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Leave everybody else's."""
        old = {one.who for one in pg.backends if one.who[0] == who[0] and self.first <= one.who[1] < who[1]}
        written = dict(pg.ledger.row_backends).get(self.lock_id)
        if written is not None and written != who and _ours(pg, self.lock_id, self.epoch, self.instance):
            old.add(written)
        spared = {one.who for one in pg.backends if one.joint and not one.orphaned}
        for one in sorted(old - spared):
            pg = pg.end(one)
        return pg, Reply()


class ReleaseIf(NamedTuple):
    """``RELEASE``: mark the row released, whatever the server; it never writes system or timeline."""

    lock_id: int
    release: Release
    instance: str
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Change nothing when the term was overtaken."""
        row = _ours(pg, self.lock_id, self.release.epoch, self.instance)
        if row is None:
            return pg, Reply(changed=False)
        kept: Reservation | None = self.release.reservation
        row = replace(
            row,
            renewal=row.renewal + 1,
            released=True,
            reason=self.release.cause.value,
            reserved_for=kept.node if kept else None,
            reserved_seconds=kept.seconds if kept else 0.0,
        )
        return pg.write(row), Reply()


class UnlockAll(NamedTuple):
    """``UNLOCK``."""

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Free the locks that this session has; that writes nothing."""
        return pg.unlock(who), Reply(changed=False)


class Notify(NamedTuple):
    """``NOTIFY``: tell the listeners; who hears it is the world's affair."""

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Change nothing."""
        return pg, Reply(changed=False)


class SettleOn(NamedTuple):
    """``SETTLE``: write the literals that were waited for, where the server shows exactly these."""

    settle: Settle
    generation: int
    """The upper half of the highest epoch that the node has ever seen."""
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Return the system its epoch offset with it."""
        settle, present = self.settle, (pg.system, pg.timeline, pg.ledger.place)
        if not self.flaws.settles_present:
            if present[:2] != (settle.system, settle.timeline):
                return pg, Reply(changed=False)
            if self.flaws.compares_place and pg.ledger.place != settle.place:
                return pg, Reply(changed=False)
        offsets, before = dict(pg.ledger.offsets), pg.ledger.settled_place
        generation = self.generation if self.flaws.settles_generation else -1
        if pg.system in offsets and before in ("", pg.ledger.place):
            offsets[pg.system] = max(offsets[pg.system], generation + 2 - pg.timeline)
        else:
            offsets[pg.system] = max(generation, *(row.epoch >> 32 for row in pg.ledger.rows), -1) + 1
        ledger = pg.ledger._replace(settled=present, settled_place=pg.ledger.place, offsets=tuple(offsets.items()))
        return pg._replace(ledger=ledger), Reply()


class Unsettle(NamedTuple):
    """``UNSETTLE``: what this ledger holds has gone back, and everybody has to wait once more."""

    system: int
    timeline: int

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Change nothing where it is not settled for that server."""
        settled = pg.ledger.settled
        if settled is None or settled[:2] != (self.system, self.timeline):
            return pg, Reply(changed=False)
        return pg._replace(ledger=pg.ledger._replace(settled=None)), Reply()


Statement = (
    LookAt
    | LockName
    | CloseIf
    | TakeOverIf
    | RenewIf
    | HoldIf
    | TerminateOld
    | ReleaseIf
    | UnlockAll
    | UnlockOne
    | Notify
    | SettleOn
    | Unsettle
)
WRITES = CloseIf | TakeOverIf | RenewIf | HoldIf | ReleaseIf | SettleOn | Unsettle


def _ours(pg: Postgres, lock_id: int, epoch: int, instance: str) -> Row | None:
    row = pg.row(lock_id)
    ours = row is not None and row.epoch == epoch and row.instance == instance and not row.released
    return row if ours else None


def _granted(pg: Postgres, lock_id: int, who: Who, flaws: Flaws) -> tuple[Postgres, bool]:
    """Try the lock of the name and then the program's own; what was granted stays until it is unlocked."""
    for one in (NAME_ID, lock_id) if flaws.locks_name else (lock_id,):
        if pg.free(one, who):
            pg = pg.lock(one, who)
        elif flaws.update_needs_grant:
            return pg, False
    return pg, True


def _as_judged(row: Row, judged: Row, renewal: int) -> bool:
    same = row.version == (judged.epoch, renewal)
    return same and (row.system, row.timeline) == (judged.system, judged.timeline)


def _same_place(pg: Postgres, server: ServerIdentity, flaws: Flaws) -> bool:
    return pg.ledger.place == server.place or not flaws.compares_place
