"""What others do to the ledger itself: replace it, lock it, write nonsense into it, change the sessions that use it."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Json

from highlanderd.errors import HighlanderError
from tests.support.nodes import Node
from tests.support.wait import wait_for

from .bed import Bed
from .faults import Bound, Missed, Strike, fault
from .faults_network import LONG
from .faults_processes import kill_tree

DISCONNECTED = Bound(1.1, lasting=True)
"""As any outage; a ledger that is another one is waited out from when it is first seen."""
LAPSED = Bound(1.3, 1)
"""What holds the row of a lost leader is closed out first: as a lost node, and what is left of the transactions."""
HANDOVER = Bound(0.2, 1)
"""An orderly handover, and a look that comes again after 2/10 L."""
EVERYBODY = "datname = current_database() AND pid <> pg_backend_pid()"
CHILDREN = f"{EVERYBODY} AND application_name NOT LIKE 'highlander%/%'"
QUIET = "UPDATE highlander.lease SET released_at = clock_timestamp(), reason = 'released';"
RENEWALS = "SELECT program, epoch, renewal FROM highlander.lease ORDER BY program"


def _admin(bed: Bed) -> str:
    return make_conninfo(bed.database.dsn, user=bed.server.user)


def _end_sessions(bed: Bed, which: str) -> None:
    bed.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {which}")


def _printed(bed: Bed, program: str, *arguments: str, given: str = "") -> str:
    command = [str(bed.server.programs.program(program)), "--dbname", _admin(bed), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise Missed
    return done.stdout


# ------------------------------------------------------------------------------------------------- another ledger


def _replace(bed: Bed, chance: Random, how: str, put: Callable[[Node], None]) -> Strike:
    """Drop the ledger while the node of some leader is cut off; ``put`` puts another one in its place."""
    if bed.server_struck:
        raise Missed
    _, node = bed.some_leader(chance)
    bed.network.mute(node.name)
    bed.network.deafen(node.name)
    _end_sessions(bed, CHILDREN)  # those of the lost node would hold their locks for a lease
    bed.sql("DROP SCHEMA highlander CASCADE")
    put(chance.choice([other for other in bed.nodes if other is not node]))
    return Strike(f"the ledger {how}, {node.name} cut off", bed.nodes, lambda: bed.network.heal(node.name))


@fault("ledger restored from a dump, one node cut off", DISCONNECTED, lasts=LONG, alone=True)
def restore_ledger(bed: Bed, chance: Random) -> Strike:
    """The dump is older than the last terms. It shows rows that nobody renews any more, or that all read released."""
    quiet = chance.choice((True, False))
    dump = _printed(bed, "pg_dump", "--schema=highlander")
    program, node = bed.some_leader(chance)
    before = bed.oracle.epochs()
    with suppress(HighlanderError):
        node.control.order(program, "release", {"force": True})()
    wait_for(lambda: bed.oracle.epochs() != before, what="a term that the dump does not have")

    def put(_: Node) -> None:
        script = dump + QUIET if quiet else dump
        _printed(bed, "psql", "-X", "-q", "--single-transaction", "-v", "ON_ERROR_STOP=1", given=script)

    return _replace(bed, chance, f"dropped and restored{' as of a quiet moment' if quiet else ''}", put)


@fault("ledger dropped and made anew, one node cut off", DISCONNECTED, lasts=LONG, alone=True)
def make_ledger_anew(bed: Bed, chance: Random) -> Strike:
    """A daemon that is started again makes it, and remembers the epochs that it has seen."""

    def put(maker: Node) -> None:
        bed.sql(f'CREATE SCHEMA highlander AUTHORIZATION "{bed.database.role}"')
        maker.signal(signal.SIGTERM)
        maker.ended()
        bed.start(maker)
        wait_for(lambda: bed.sql("SELECT to_regclass('highlander.meta')") != [(None,)], what="the new ledger is there")

    return _replace(bed, chance, "dropped and made anew", put)


# ------------------------------------------------------------------------------------------------------- locks


class Assertions:
    """Six connections that call assert_leader for a term in transactions of 0.2 s, so that one always holds the row."""

    def __init__(self, dsn: str, lock_id: int, epoch: int, timeout: str) -> None:
        self.held = threading.Event()
        self._over = threading.Event()
        self._dsn, self._term, self._timeout = dsn, (lock_id, epoch), timeout
        self._threads = [threading.Thread(target=self._call, args=(number,), daemon=True) for number in range(6)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """End them all."""
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def _call(self, number: int) -> None:
        self._over.wait(number / 30)
        while not self._over.is_set():
            with suppress(psycopg.Error), psycopg.connect(self._dsn, autocommit=True) as connection:
                connection.execute(f"SET statement_timeout = '{self._timeout}'".encode())
                while not self._over.is_set():
                    self._assert(connection)

    def _assert(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        try:
            with connection.transaction():
                connection.execute("SELECT highlander.assert_leader(%s, %s)", self._term)
                self.held.set()
                self._over.wait(0.2)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            self._over.wait(0.02)


def _lose_under_assertions(bed: Bed, chance: Random, timeout: str) -> Strike:
    program, node = bed.some_leader(chance)
    life = bed.oracle.present()[program]
    assertions = Assertions(bed.database.dsn, life.lock_id, life.epoch, timeout)
    if not assertions.held.wait(5):
        assertions.end()
        raise Missed
    kill_tree(bed, node)
    return Strike(f"{node.name} killed under transactions that assert {life}", [node], assertions.end)


@fault("host lost under assert_leader", LAPSED, lasts=(1.6, 1.8), alone=True)
def lose_under_assertions(bed: Bed, chance: Random) -> Strike:
    """Somebody else asserts the lost term again and again, in transactions that overlap."""
    return _lose_under_assertions(bed, chance, "0")


@fault("host lost under assert_leader, statement_timeout", LAPSED, lasts=(1.6, 1.8), alone=True)
def lose_under_limited_assertions(bed: Bed, chance: Random) -> Strike:
    """The same, where the sessions have a limit of their own."""
    return _lose_under_assertions(bed, chance, "2s")


@contextmanager
def _or_missed(held: psycopg.Connection[tuple[object, ...]]) -> Iterator[None]:
    try:
        yield
    except psycopg.Error:
        held.close()
        raise Missed from None


def _hold(bed: Bed, statement: str, *values: object) -> Callable[[], None]:
    """Run a statement in a transaction that stays open; call the result to end it."""
    if bed.server_struck:
        raise Missed
    held = psycopg.connect(_admin(bed), connect_timeout=5)
    with _or_missed(held):
        held.execute(statement.encode(), values)

    def let_go() -> None:
        with suppress(psycopg.Error):
            held.rollback()
        held.close()

    return let_go


@fault("row of the ledger locked", DISCONNECTED, lasts=(2.0, 2.0), alone=True)
def lock_row(bed: Bed, chance: Random) -> Strike:
    """A bystander looks at a row FOR UPDATE, and forgets about it for two leases."""
    program, node = bed.some_leader(chance)
    let_go = _hold(bed, "SELECT 1 FROM highlander.lease WHERE program = %s FOR UPDATE", program)
    return Strike(f"the row of {program} locked", [node], let_go)


def _others_live(bed: Bed, program: str, before: dict[str, int]) -> None:
    """See to it that no other program has another child."""
    after = bed.oracle.epochs()
    changed = [name for name in before if name != program and after[name] != before[name]]
    assert not changed, f"children of {', '.join(changed)} were replaced: epochs {before} before, {after} afterwards"


@fault("history locked", HANDOVER, lasts=(2.0, 2.0), alone=True)
def lock_history(bed: Bed, chance: Random) -> Strike:
    """A bystander keeps everybody from the history for two leases, and a program is handed over meanwhile."""
    program, node = bed.some_leader(chance)
    before = bed.oracle.epochs()
    let_go = _hold(bed, "LOCK TABLE highlander.term IN ACCESS EXCLUSIVE MODE")
    _release(node, program, bed.lease)

    def undo() -> None:
        let_go()
        _others_live(bed, program, before)

    return Strike(f"the history locked, {program} released", [node], undo)


def _release(node: Node, program: str, lease: float) -> None:
    try:
        node.control.order(program, "release", {"wait": False, "for": lease, "force": True})()
    except HighlanderError:
        raise Missed from None


# ------------------------------------------------------------------------------------------------- bad values


@fault("nonsense in the ledger", Bound(0.2, 1, lasting=True), lasts=(0.75, 0.75), alone=True)
def write_nonsense(bed: Bed, chance: Random) -> Strike:
    """Nobody can read where epochs begin, and a program is handed over meanwhile."""
    program, node = bed.some_leader(chance)
    before = bed.oracle.epochs()
    [(offsets,)] = bed.sql("SELECT offsets FROM highlander.meta")
    bed.sql("UPDATE highlander.meta SET offsets = jsonb_build_object(settled_system::text, 'nonsense')")
    try:
        _release(node, program, bed.lease)
    except Missed:
        bed.sql("UPDATE highlander.meta SET offsets = %s", [Json(offsets)])
        raise

    def undo() -> None:
        bed.sql("UPDATE highlander.meta SET offsets = %s", [Json(offsets)])
        _others_live(bed, program, before)

    return Strike(f"nonsense in the ledger's offsets, {program} released", [node], undo)


# -------------------------------------------------------------------------------------------------- their sessions


LOGIN_TRIGGER = """
CREATE FUNCTION public.greet() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF session_user = '{role}' THEN
        SET synchronous_commit = off;
    END IF;
END
$$;
CREATE EVENT TRIGGER greet ON login EXECUTE FUNCTION public.greet();
"""


@fault("login trigger", DISCONNECTED, lasts=LONG, alone=True, needs=("login triggers",))
def greet(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001 - there is no choice
    """Each new session begins with synchronous_commit off: it is refused, and nothing is led through one."""
    for statement in LOGIN_TRIGGER.format(role=bed.database.role).split("\n\n"):
        bed.sql(statement)
    old = [pid for (pid,) in bed.sql(f"SELECT pid FROM pg_stat_activity WHERE {EVERYBODY}")]
    _end_sessions(bed, EVERYBODY)
    wait_for(lambda: not bed.sql("SELECT 1 FROM pg_stat_activity WHERE pid = ANY (%s)", [old]), what="all are ended")
    written = bed.sql(RENEWALS)

    def undo() -> None:
        now = bed.sql(RENEWALS)
        bed.sql("DROP FUNCTION public.greet() CASCADE")
        _end_sessions(bed, CHILDREN)  # they brought nothing along that would have refused it
        assert now == written, f"a session that must be refused wrote to the ledger: {written} before, {now} afterwards"

    return Strike("a login trigger, every backend terminated", bed.nodes, undo)


# -------------------------------------------------------------------------------------------------------- two keys


@fault("two lock keys for one program", HANDOVER, lasts=(1.0, 1.5), alone=True)
def part_keys(bed: Bed, chance: Random) -> Strike:
    """One node has another lock key for a program than the others, which all of them want to lead.

    Epochs of two keys are not comparable: it is the program that does not count.
    """
    program, node = "deaf", chance.choice(bed.nodes)
    leader = next(other for other in bed.nodes if other.name == bed.oracle.present()[program].node)
    bed.configure(node, {program: "another"})
    node.signal(signal.SIGHUP)
    if leader is not node:
        _release(leader, program, bed.lease)

    def undo() -> None:
        bed.configure(node)
        node.signal(signal.SIGHUP)

    return Strike(f"another lock key for {program} on {node.name}", bed.nodes, undo)
