"""One verified connection: what ``Server`` opens and a session uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from highlanderd.core.lease import Lease
from highlanderd.postgres.sql.dialect import VERSION
from highlanderd.postgres.wire import Wire

RECONNECT_PAUSE: Final = 0.2
"""Seconds before a session that we dropped ourselves is replaced: the reason may still be there."""


@dataclass(frozen=True, slots=True)
class Connection:
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
