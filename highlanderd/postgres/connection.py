"""One verified connection, which ``Server`` opens, and what uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct

from highlanderd.core.lease import Lease
from highlanderd.postgres.replies import Statement, Value
from highlanderd.postgres.sql.dialect import VERSION
from highlanderd.postgres.wire import Wire
from highlanderd.system.linux import boottime

RECONNECT_PAUSE: Final = 0.2
"""Seconds before a session that we dropped ourselves is replaced: the reason may still be there."""


class Connection(Struct, frozen=True):
    """A connection to a server that was found fit, and what is known of it."""

    wire: Wire
    pid: int
    identified: int
    """When it said who it is, in microseconds of the server's clock: with ``pid`` this names one backend for ever."""
    opened: float
    """When it was found fit, on the loop's clock."""
    lease: Lease
    """The ledger's lease, which this session's timeouts were set for."""
    version: int = VERSION
    """The version of the ledger's schema, or ours if the ledger's is later."""

    def say(self, statement: Statement, values: Sequence[Value]) -> None:
        """Send a statement whose answer does not matter."""
        self.wire.ask([(statement, values)], self.lease.answer_within).add_done_callback(lambda done: done.exception())

    def keep_alive(self, asked: float) -> float:
        """Send something if nothing was asked for half a lease: the server ends sessions that are silent for one.

        ``asked`` is when something was asked last, in CLOCK_BOOTTIME seconds. Return when that is now.
        """
        now = boottime()
        if now - asked <= self.lease.length / 2:
            return asked
        self.wire.keep_alive(self.lease.answer_within)
        return now


class Client(Protocol):
    """What needs a connection: the session of a program, or the listener."""

    @property
    def urgency(self) -> float:
        """When the lease that hangs on the connection ends, in CLOCK_BOOTTIME seconds; infinity for no lease."""

    def deliver(self, connection: Connection) -> None:
        """Take the connection over."""

    def keep_alive(self) -> None:
        """Send something if nothing was sent for half a lease: the server ends sessions that are silent for one."""
