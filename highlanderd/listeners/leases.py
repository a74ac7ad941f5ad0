"""Orders that change the lengths of leases: what makes sense of them, who gave them, and when they are in force.

The node changes the ledger and answers at once. The leaders use the new length one by one: each hears of it in the
answer to its first renewal after the order, and writes it with its second one. An order that waits looks at the ledger
until all of them do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from highlanderd.api import LONGEST_REASON
from highlanderd.core.lease import LONGEST, SHORTEST
from highlanderd.core.status import LeaseReport
from highlanderd.durations import shown
from highlanderd.errors import BadRequest, HighlanderError, TimedOut, enumerated
from highlanderd.listeners.orders import Node
from highlanderd.listeners.peers import Peer
from highlanderd.system.user_database import user_numbered
from highlanderd.threads import in_thread

LOOK_EVERY: Final = 0.2
"""Seconds between two looks at who uses a new length: the shortest lease is renewed every 0.4 s."""
USER_NAMED_WITHIN: Final = 1.0
"""Seconds for the user database to name a uid, which says enough itself."""
OF_MAINTENANCE: Final = ("for", "force")
"""Fields that belong to the beginning of a maintenance, and not to its end."""


def is_reason(value: object) -> bool:
    """Return whether a value may be shown as a reason: one line that cannot steer a terminal.

    >>> is_reason("PostgreSQL 18.5"), is_reason("one\\ntwo"), is_reason("\\udc80"), is_reason("x" * 501)
    (True, False, False, False)
    """
    return isinstance(value, str) and len(value) <= LONGEST_REASON and value.isprintable()


def outage(body: Mapping[str, Any]) -> float | None:
    """Return the seconds of the outage that a maintenance is to bear; None when its end is ordered.

    Raises BadRequest when the fields do not belong together.
    """
    if "on" not in body:
        raise BadRequest('"on" is missing: {"on": true, "for": 60} begins a maintenance, {"on": false} ends it')
    if not body["on"]:
        for name in OF_MAINTENANCE:
            if name in body:
                raise BadRequest(f'"{name}" belongs to the beginning of a maintenance, {{"on": true}}')
        return None
    if not body.get("for"):
        raise BadRequest('"for" must name the seconds of the outage to bear, such as {"on": true, "for": 60}')
    return float(body["for"])


def lease(body: Mapping[str, Any]) -> float:
    """Return the seconds of the lease that is ordered. Raises BadRequest."""
    if "lease" not in body:
        raise BadRequest('"lease" is missing: name the new lease in seconds, such as {"lease": 10}')
    seconds = float(body["lease"])
    if not SHORTEST <= seconds <= LONGEST:
        raise BadRequest(f"a lease is {shown(SHORTEST)} to {shown(LONGEST)} long, not {shown(seconds)}")
    return seconds


async def author(peer: Peer, node: str) -> str:
    """Return who orders, as the kernel knows it: ``uid 1000 (ann) on node a``."""
    name = ""
    with suppress(KeyError, OSError):
        name = await in_thread(lambda: user_numbered(peer.uid, USER_NAMED_WITHIN).pw_name, "look up a user")
    return f"uid {peer.uid}{f' ({name})' if name and name.isprintable() else ''} on node {node}"


async def in_force(
    node: Node,
    ordered: LeaseReport,
    changed: Callable[[LeaseReport], object],
    patience: float,
    gone: Callable[[], bool],
) -> LeaseReport:
    """Return the report once each leader's row carries the lease in force.

    ``ordered`` is what the node answered to the order, and ``changed`` picks from a report what was ordered; when that
    is another one meanwhile, there is nothing left to wait for. ``gone`` returns True once the client is gone.
    Raises TimedOut after ``patience`` seconds, HighlanderError when the order does not hold any more.
    """
    loop = asyncio.get_running_loop()
    end, report, unknown = loop.time() + patience, ordered, ""
    while report.pending or unknown:
        if loop.time() >= end or gone():
            raise TimedOut(_overdue(report, patience, unknown))
        await asyncio.sleep(LOOK_EVERY)
        try:
            report, unknown = await node.lease_report(), ""
        except HighlanderError as error:  # the order is in the ledger; a session may break off meanwhile
            unknown = str(error)
        if changed(report) != changed(ordered):
            raise HighlanderError(
                "the order was carried out, but it has ended, or another order has replaced it, before all leaders "
                "used the new lease; 'highlanderctl ledger show' shows what holds now"
            )
    return report


def _overdue(report: LeaseReport, patience: float, unknown: str) -> str:
    """Return the sentence about what a change still waits for."""
    if unknown:
        return (
            f"after {patience:g} s it is not known whether all leaders use the lease of {shown(report.in_force)}: "
            f"{unknown}. The order stands; 'highlanderctl ledger show' shows what holds"
        )
    return (
        f"after {patience:g} s these leaders do not use the lease of {shown(report.in_force)} yet: "
        f"{enumerated(report.pending)}. The order "
        "stands: each of them follows when it renews, or is replaced when it is lost; see 'highlanderctl status' on "
        "its node, or wait longer with --timeout"
    )
