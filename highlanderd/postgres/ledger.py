"""One ledger: its names, the SQL that creates and migrates it, and what the answers to its statements mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from math import inf

from msgspec import Struct

from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.observation import LedElsewhere, Meta, Observation, Row, ServerIdentity, Suspension
from highlanderd.core.schedule import Timetable
from highlanderd.core.status import MaintenanceStatus
from highlanderd.errors import one_line
from highlanderd.postgres.replies import Statement, duration
from highlanderd.postgres.sql.connecting import CREATE
from highlanderd.postgres.sql.dialect import FRAGMENTS, NEEDED, VERSION
from highlanderd.postgres.sql.upkeep import GUARD, MIGRATE


class Ledger(Struct, frozen=True):
    """One ledger's names: a schema of one namespace."""

    schema: str
    namespace: str
    lease: float
    """Seconds; what a ledger is created with."""

    @property
    def channel(self) -> str:
        """The channel on which releases are notified."""
        return self.schema

    def statement(self, name: str, sql: str, version: int = VERSION) -> Statement:
        """Return a statement for this ledger under ``version`` of its schema."""
        return _statement(name, sql, self.schema, version)

    def script(self, after: int = 0, *, offset: int = 0) -> str:
        """Return the SQL that creates the ledger, or that migrates it from version ``after`` of its schema.

        ``offset`` is the epoch offset of a new ledger on its first server: epochs begin above ``offset << 32``.
        """
        parts = [
            resources.files(__package__).joinpath(f"schema/{number}.sql") for number in range(after + 1, VERSION + 1)
        ]
        text = "\n".join(part.read_text("utf-8") for part in parts)
        values = {
            "schema": identifier(self.schema),
            "schema_text": literal(identifier(self.schema)),
            "namespace": literal(self.namespace),
            "lease": literal(f"{self.lease:g} seconds"),
            "offset": str(offset),
        }
        return _filled(text, values)

    def creation(self, offset: int = 0) -> Statement:
        """Return one statement that creates the ledger unless it is there; safe under many nodes at once."""
        values = {
            "name": literal(f"highlanderd {self.schema}"),
            "table": literal(f"{identifier(self.schema)}.meta"),
            "script": literal(self.script(offset=offset)),
        }
        return Statement("create", _filled(CREATE, values))

    def printed(self, version: int) -> str:
        """Return the SQL by which an administrator migrates the ledger, to be run in one transaction."""
        return _filled(GUARD, _names(self.schema)).lstrip() + "\n" + self.script(version)

    def migration(self, version: int) -> Statement:
        """Return the statement that migrates the ledger from ``version`` to this daemon's, or changes nothing."""
        values = {
            **_names(self.schema),
            "name": literal(f"highlanderd {self.schema}"),
            "from": str(version),
            "script": literal(self.script(version)),
        }
        return Statement(f"migrate_from_{version}", _filled(MIGRATE, values))

    def grants(self, role: str) -> str:
        """Return the SQL that lets ``role`` use a ledger that another role owns."""
        schema, name = identifier(self.schema), identifier(role)
        text = f"GRANT USAGE ON SCHEMA {schema} TO {name};\n"
        for tables, privileges in NEEDED:
            where = ", ".join(f"{schema}.{table}" for table in tables.split())
            text += f"GRANT {privileges} ON {where} TO {name};\n"
        return text


@cache
def _statement(name: str, sql: str, schema: str, version: int) -> Statement:
    version = min(version, VERSION)
    return Statement(f"{name}_{version}", _filled(_filled(sql, FRAGMENTS[version]), _names(schema)))


def _names(schema: str) -> dict[str, str]:
    tables = {f"{table}_table": literal(f"{identifier(schema)}.{table}") for table in ("meta", "lease")}
    return {"schema": identifier(schema), **tables}


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def identifier(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a string for SQL; dollar quotes keep backslashes and quotes as they are."""
    tag = "text"
    while f"${tag}$" in text:
        tag += "_"
    return f"${tag}${text}${tag}$"


class LedgerView(Struct, frozen=True):
    """The answer to one look."""

    observation: Observation
    version: int
    """Of the schema."""
    compatible_from: int
    backend: int


def look(rows: list[tuple[str | None, ...]], lock_id: int) -> LedgerView:
    """Read the rows of a LOOK about ``lock_id``. Raises ValueError for values that no ledger holds."""
    system, timeline, started, position, place, version, compatible, lease, wanted, ceiling, *rest = rows[0][:16]
    settled_system, settled_timeline, settled_place, offset, floor, elsewhere = rest
    server = ServerIdentity(_integer(system), _integer(timeline), str(started), _integer(position), place or "")
    settled = None
    if settled_system is not None:
        settled = _integer(settled_system), _integer(settled_timeline), settled_place or ""
    meta = Meta(
        lease=_lease(lease),
        settled=settled,
        offset=None if offset is None else _integer(offset),
        wanted=_lease(wanted),
        ceiling=_lease(ceiling),
        floor=int(floor or 0),
    )
    found = [_row(row[16:-4]) for row in rows if row[16] is not None]
    ours = next((row for row in found if row.lock_id == lock_id), None)
    others = tuple(row for row in found if row.lock_id != lock_id)
    order, clock, planned, backend = rows[0][-4:]
    observation = Observation(
        *(server, meta, ours, others, _elsewhere(elsewhere)),
        suspension=suspension(order),
        clock=None if clock is None else float(clock),
        timetable=_timetable(planned),
    )
    return LedgerView(observation, _integer(version), _integer(compatible), _integer(backend))


def _elsewhere(rows: str | None) -> tuple[LedElsewhere, ...]:
    return tuple(
        LedElsewhere(program, node, (lock_id, epoch, renewal), _lease(str(seconds)))
        for program, node, lock_id, epoch, renewal, seconds in json.loads(rows or "[]")
    )


def suspension(order: str | None) -> Suspension | None:
    """Read the order that keeps a program from being led. Whatever it says of its author, it holds."""
    if order is None:
        return None
    drained, author, remark, since = json.loads(order)
    return Suspension(bool(drained), one_line(str(author or "")), one_line(str(remark or "")), str(since or ""))


def _timetable(text: str | None) -> Timetable | None:
    """Read what the ledger keeps of a schedule."""
    if text is None:
        return None
    words, taken_up, latest, epoch, held_from, held_until, version, set_back = json.loads(text)
    return Timetable(
        words=str(words),
        taken_up=float(taken_up),
        latest=int(latest),
        epoch=None if epoch is None else int(epoch),
        held=None if held_from is None or held_until is None else (float(held_from), float(held_until)),
        set_back=bool(set_back),
        version=str(version),
    )


def _lease(seconds: str | None) -> Lease:
    length = float(seconds or 0)
    if not 0 < length < inf:
        raise ValueError(f"the ledger holds a lease of {seconds} seconds")
    return Lease(length)


def _row(values: tuple[str | None, ...]) -> Row:
    lock_id, program, epoch, renewal, node, instance, system, timeline, released, trusted_for, *rest = values
    reason, reserved, seconds, ended_ago = rest
    return Row(
        lock_id=_integer(lock_id),
        program=program or "",
        epoch=_integer(epoch),
        renewal=_integer(renewal),
        node=node or "",
        instance=instance or "",
        system=_integer(system),
        timeline=_integer(timeline),
        released=released == "t",
        trusted_for=_lease(trusted_for).length,
        reason=reason or "",
        reserved_for=reserved,
        reserved_seconds=duration(seconds),
        ended_ago=duration(ended_ago),
    )


class LedgerFacts(Struct, frozen=True):
    """What the ledger says of itself. Lengths are seconds."""

    version: int
    compatible_from: int
    namespace: str
    ledger: str
    lease: float
    ceiling: float
    wanted: float
    """What leaders are to write into their rows at present."""
    where: tuple[int, int, str]
    """System, timeline and place: while they stay, nothing that was committed is lost."""
    settled: bool
    offsets: str
    maintenance: MaintenanceStatus | None


def facts(row: tuple[str | None, ...]) -> LedgerFacts:
    """Read the answer to FACTS. Raises ValueError for values that no ledger holds."""
    version, compatible, namespace, identity, lease, ceiling, wanted, *where, settled, offsets = row[:-7]
    system, timeline, place = where
    active, outage, length, since, until, author, reason = row[-7:]
    maintenance = None
    if active == "t":
        maintenance = MaintenanceStatus(
            outage=duration(outage),
            lease=duration(length),
            since=since or "",
            until=until or "",
            author=author or "",
            reason=reason or "",
        )
    return LedgerFacts(
        version=_integer(version),
        compatible_from=_integer(compatible),
        namespace=namespace or "",
        ledger=identity or "",
        lease=_lease(lease).length,
        ceiling=_lease(ceiling).length,
        wanted=_lease(wanted).length,
        where=(_integer(system), _integer(timeline), place or ""),
        settled=settled == "t",
        offsets=offsets or "",
        maintenance=maintenance,
    )


class RenewalAnswer(Struct, frozen=True):
    """What the answer to a renewal says of the ledger."""

    lengths: Lengths
    version: int
    compatible_from: int


def written(values: Sequence[str | None], asked: Lease) -> RenewalAnswer:
    """Read the first columns of the answer to RENEW or REATTACH. Raises ValueError for values that no ledger holds."""
    wanted, pace, version, compatible = values[:4]
    return RenewalAnswer(Lengths(asked, _lease(wanted), _lease(pace)), _integer(version), _integer(compatible))


def _integer(value: str | None) -> int:
    if value is None:
        raise ValueError("the ledger holds a null where a number belongs")
    return int(value)
