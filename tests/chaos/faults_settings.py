"""An administrator changes settings that would end leaders' sessions or spoil their writes: these bring their own.

The settings hold for every session that begins from then on, so all are ended once. The children's own sessions bring
nothing along: they suffer, and count again afterwards.
"""

from __future__ import annotations

from random import Random

from .bed import Bed
from .faults import Bound, Missed, Strike, Striking, fault

HURTFUL = {
    "lock_timeout": "1",
    "statement_timeout": "1",
    "idle_session_timeout": "1000",
    "idle_in_transaction_session_timeout": "1",
    "default_transaction_read_only": "on",
}
"""Milliseconds, where they are numbers."""
TOGETHER = "role with all of these"
LONG = (1.2, 1.5)
"""Leases: as long as an idle session may be silent, and longer."""
NOTHING = Bound()
"""The lock is taken back at once, and every renewal comes through."""

EVERYBODY = "datname = current_database() AND pid <> pg_backend_pid()"
CHILDREN = f"{EVERYBODY} AND application_name NOT LIKE 'highlander%/%'"


def _end_sessions(bed: Bed, which: str) -> None:
    bed.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {which}")


def _unharmed(bed: Bed, before: dict[str, int]) -> None:
    """See to it that the children are the same ones as before; they are to count again from now on."""
    _end_sessions(bed, CHILDREN)
    after = bed.oracle.epochs()
    assert after == before, f"children were replaced: epochs {before} before, {after} afterwards"


def _of_role(*settings: str) -> Striking:
    def strike(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001 - there is no choice
        before, role = bed.oracle.epochs(), bed.database.role
        for setting in settings:
            bed.sql(f"ALTER ROLE \"{role}\" SET {setting} = '{HURTFUL[setting]}'")
        _end_sessions(bed, EVERYBODY)

        def undo() -> None:
            bed.sql(f'ALTER ROLE "{role}" RESET ALL')
            _unharmed(bed, before)

        said = ", ".join(f"{setting} = {HURTFUL[setting]}" for setting in settings)
        return Strike(f"ALTER ROLE ... SET {said}, every backend terminated", bed.nodes, undo)

    return strike


for _setting in HURTFUL:
    fault(f"role with {_setting}", NOTHING, lasts=LONG, alone=True)(_of_role(_setting))
fault(TOGETHER, NOTHING, lasts=LONG, alone=True)(_of_role(*HURTFUL))


@fault("server set read-only", NOTHING, lasts=LONG, alone=True)
def read_only(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """What an administrator does before maintenance. The daemons' sessions override it, and so lead on."""
    if bed.server_struck:
        raise Missed
    before = bed.oracle.epochs()
    bed.server.configure(default_transaction_read_only="on")
    _end_sessions(bed, EVERYBODY)

    def undo() -> None:
        bed.sql("ALTER SYSTEM RESET default_transaction_read_only")
        bed.sql("SELECT pg_reload_conf()")
        _unharmed(bed, before)

    return Strike("ALTER SYSTEM SET default_transaction_read_only = on, every backend terminated", bed.nodes, undo)
