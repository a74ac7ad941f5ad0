"""Other daemons that lead under this node's name. Only a living daemon renews while the doctor looks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from highlanderd.doctor.facts import Plan
from highlanderd.postgres.wire import Wire

LONGEST: Final = 5.0
"""Seconds for a renewal to be seen: more than two of them take under a lease of 12 s."""
APART: Final = 0.2
"""Seconds between two looks."""
LEADING: Final = """
SELECT lock_id, renewal, instance FROM {schema}.lease
 WHERE node = $1::text AND released_at IS NULL AND instance IS DISTINCT FROM nullif($2::text, '')::uuid
"""


def instance_at(state_dir: Path) -> str | None:
    """Return the instance of the daemon that uses a directory, or used it last.

    Empty when none ever has; None when that cannot be read.
    """
    try:
        return (state_dir / "instance").read_text("utf-8").partition("\n")[0]
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        return None


async def namesakes(wire: Wire, plan: Plan, patience: float) -> tuple[str, ...]:
    """Return a sentence if a daemon leads under this node's name that is not the one of this state directory."""
    if plan.instance is None:
        return ()
    loop = asyncio.get_running_loop()
    end = loop.time() + min(LONGEST, 2 * plan.lease.renew_every)
    first = latest = await _leading(wire, plan, patience)
    while first and latest <= first and loop.time() < end:
        await asyncio.sleep(APART)
        latest = await _leading(wire, plan, patience)
    if latest <= first:  # nothing was renewed: a former life of this daemon, say
        return ()
    return (
        f'another daemon also calls itself "{plan.node}", and is not the one that uses {plan.state_dir}: no page can '
        "tell the two apart; give each its own daemon.node",
    )


async def _leading(wire: Wire, plan: Plan, patience: float) -> set[tuple[str | None, ...]]:
    """Return what other instances lead under this name, with the number of the latest renewal."""
    statement = plan.ledger.statement("namesakes", LEADING)
    [reply] = await wire.ask([(statement, (plan.node, plan.instance))], patience)
    return set(reply.rows)
