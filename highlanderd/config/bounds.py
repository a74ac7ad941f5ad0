"""The bounds that a configuration implies, as ``--check`` prints them: when a child stops, and when another node leads.

The figures come from ``core/lease.py``; here they become words. docs/explanation/promise.md says what they rest on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

from highlanderd.config import Configuration, ProgramConfig
from highlanderd.config.probes import Probe
from highlanderd.core.lease import Lease, maintenance_lease, replaced_within
from highlanderd.durations import shown
from highlanderd.errors import enumerated

MAINTENANCE: Final = 60.0
"""Seconds: the outage in the example. A restart of PostgreSQL rarely takes longer."""


def bounds(configuration: Configuration) -> list[str]:
    """Return the lines of a table: an event, and the most that it costs. Without a program there are none."""
    if not configuration.programs:
        return []
    lease = Lease(configuration.postgres.lease)
    rows = list(_rows(lease, [*configuration.programs.values()], configuration.postgres.on_connection_loss))
    width = max(len(event) for event, _ in rows)
    head = f"with a lease of {shown(lease.length)} (an existing ledger's own lease rules):"
    return [head, *(f"  {event:{width}}  {cost}".rstrip() for event, cost in rows)]


def _rows(lease: Lease, programs: list[ProgramConfig], on_connection_loss: str) -> Iterator[tuple[str, str]]:
    fences = _each(programs, lambda program: f"{shown(lease.fence_at(0, program.stop_timeout))} after the last renewal")
    stops = _each(programs, lambda program: f"the child's own stop, at most {shown(program.stop_timeout)}")
    stopped = 'SIGTERM to the child at once: on_connection_loss is "stop"' if on_connection_loss == "stop" else ""
    if stopped:
        yield "PostgreSQL is away", stopped
    else:
        yield f"PostgreSQL is away for up to {shown(lease.outage_borne)}", "no child is stopped"
        yield from _below("  longer: SIGTERM to the child", fences)
    yield "  longer: SIGKILL to its whole tree", f"{shown(lease.kill_at(0))} after the last renewal"
    yield "  then back, restarted or failed over", f"led at most {shown(lease.resumed_within)} after the reconnection"
    yield "the leading node is lost", f"led elsewhere at most {shown(lease.replaced_within)} after the last renewal"
    if not stopped:
        longer = maintenance_lease(lease.length, MAINTENANCE)
        yield f"maintenance on --for {shown(MAINTENANCE)}", f"an outage of up to {shown(MAINTENANCE)} stops no child"
        later = shown(replaced_within(longer, lease.length))
        yield "  a node that is lost meanwhile", f"led elsewhere at most {later} after the last renewal"
    hangs = _each([program for program in programs if program.alive is not None], _noticed)
    yield from _below("a program no longer does its work", hangs)
    yield "the daemon's worker is killed", stopped or "no child is stopped"
    yield "its guardian is killed", "a planned handover of everything (systemd: as when all is killed)"
    yield "all of the daemon is killed", "the children at once; led elsewhere as when the node is lost"
    yield from _below("a planned handover", stops)
    hooks = _each([program for program in programs if program.hooks], _hooked)
    yield from _below("  and its hooks", hooks)
    yield "the first start on a new ledger", f"{shown(lease.wait)} of waiting, once"


def _hooked(program: ProgramConfig) -> str:
    """Return how long the hooks of a handover take at most: on the old node, and before the start on the new one."""
    number = len(program.hooks.keys() - {"after_ready"})
    return f"at most {shown(number * program.hook_timeout)} in addition"


def _noticed(program: ProgramConfig) -> str:
    """Return when the end of a program's term begins that does not answer any more."""
    alive = program.alive
    if isinstance(alive, Probe):
        later = alive.period + (alive.threshold - 1) * max(alive.period, alive.timeout) + alive.timeout
        return f"its own stop begins at most {shown(later)} later"
    return f"its own stop begins {shown(program.alive_timeout)} after its last WATCHDOG=1, unless it chooses otherwise"


def _each(programs: list[ProgramConfig], value: Callable[[ProgramConfig], str]) -> list[str]:
    """Return the value once if all programs have the same, else each value with its programs."""
    named: dict[str, list[str]] = defaultdict(list)
    for program in sorted(programs, key=lambda program: -program.stop_timeout):
        named[value(program)].append(program.name)
    return [said if len(named) == 1 else f"{said} ({enumerated(names)})" for said, names in named.items()]


def _below(event: str, costs: list[str]) -> Iterator[tuple[str, str]]:
    for number, cost in enumerate(costs):
        yield "" if number else event, cost
