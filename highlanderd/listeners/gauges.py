"""The metrics that show what is true now: gauges, read off the node's snapshot at each scrape."""

from __future__ import annotations

import platform
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from highlanderd.core.states import STATE_NAMES
from highlanderd.core.status import LastExit, NodeStatus, ProgramStatus, Usage
from highlanderd.listeners.exposition import family, labels


def _seconds(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


def _used(value_of: Callable[[Usage], float | None]) -> Callable[[ProgramStatus], float | None]:
    return lambda program: None if program.usage is None else value_of(program.usage)


# By metric: its help, and what it shows of a program; nothing when that is None.
_PER_PROGRAM: Final[dict[str, tuple[str, Callable[[ProgramStatus], float | None]]]] = {
    "program_leading": ("Whether this node leads it.", lambda program: program.state == "leading"),
    "program_wanted": (
        "Whether it is to run here as far as operators and its schedule say: neither stopped, nor stopped everywhere, "
        "nor drained, nor between two scheduled runs.",
        lambda program: program.want == "run" and not program.suspended and not program.idle,
    ),
    "program_finished": (
        "Whether it has finished, so that no node starts it before an operator does.",
        lambda program: program.finished,
    ),
    "program_next_run_timestamp_seconds": (
        "When its schedule wants it to run next; no series without a schedule.",
        lambda program: _seconds(program.next_run),
    ),
    "program_last_exit_code": (
        "Exit status of its latest child on this node, 128 and the signal's number when a signal ended it; no series "
        "before one has ended.",
        lambda program: None if program.last_exit is None else exit_code(program.last_exit),
    ),
    "program_ready": ("Whether its child on this node is ready.", lambda program: program.ready),
    "program_epoch": ("Epoch of the present or last term that this node knows.", lambda program: program.epoch),
    "program_start_time_seconds": ("When its child was started.", lambda program: _seconds(program.started)),
    "program_unkillable_processes": (
        "Its processes on this node that SIGKILL does not end, a hundred at most; the lock is kept for them.",
        lambda program: len(program.unkillable),
    ),
    "program_candidates": (
        "Nodes other than the leader that could take it over now; no series while PostgreSQL does not say.",
        lambda program: program.candidates,
    ),
    "program_drift": (
        "Nodes whose configuration of it differs from its leader's; no series while PostgreSQL does not say.",
        lambda program: program.drift,
    ),
    "program_cpu_seconds_total": (
        "Processor time that its child on this node has used; begins anew with each child.",
        _used(lambda usage: usage.cpu),
    ),
    "program_memory_bytes": (
        "Memory of its cgroup on this node where the kernel counts that, else resident memory of its processes.",
        _used(lambda usage: usage.memory),
    ),
    "program_processes": ("Its processes on this node.", _used(lambda usage: usage.processes)),
    "program_tasks": ("Threads of these processes.", _used(lambda usage: usage.tasks)),
    "program_open_files": (
        "Descriptors that these processes hold open; no series where the daemon may not look.",
        _used(lambda usage: usage.open_files),
    ),
    "program_failures": ("Crashes and failed starts in a row.", lambda program: program.failures),
    "lease_remaining_seconds": (
        "For how long this node may still trust its term.",
        lambda program: program.lease_remaining,
    ),
    "postgres_connected": (
        "Whether it has a connection to PostgreSQL: its own, or one that waiting programs share.",
        lambda program: program.connected,
    ),
}


Fact = TypeVar("Fact")


def exit_code(last: LastExit) -> int | None:
    """Return what a shell calls the exit status.

    >>> exit_code(LastExit("", 1, 3, None)), exit_code(LastExit("", 1, None, "SIGKILL"))
    (3, 137)
    """
    if last.signal is None:
        return last.status
    known = signal.Signals.__members__.get(last.signal)
    return 128 + (int(last.signal.removeprefix("signal ")) if known is None else known)


class Gauges:
    """Writes the gauges of one node, page after page. Of many programs, most are as they were on the page before."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._labels: list[str] = []
        self._written: dict[str, tuple[Sequence[object], str]] = {}
        """By metric: the facts of the programs that its lines were written of, and these."""

    def lines(self, status: NodeStatus) -> Iterator[str]:
        """Yield the lines, those of the node first."""
        yield from _node(status)
        programs = status.programs
        names = [program.name for program in programs]
        if names != self._names:
            self._names, self._labels = names, [labels({"program": name}) for name in names]
            self._written = {}
        yield self._lines("program_state", [program.state for program in programs], _states)
        for name, (text, value_of) in _PER_PROGRAM.items():
            yield self._lines(name, [value_of(program) for program in programs], partial(_samples, name, text))

    def _lines(
        self, name: str, facts: Sequence[Fact], write: Callable[[Iterable[tuple[str, Fact]]], Iterator[str]]
    ) -> str:
        known = self._written.get(name)
        if known is None or known[0] != facts:
            known = self._written[name] = facts, "\n".join(write(zip(self._labels, facts, strict=True)))
        return known[1]


def _samples(name: str, text: str, values: Iterable[tuple[str, float | None]]) -> Iterator[str]:
    """Show a metric of the programs, by their labels; nothing of one whose value is None."""
    kind = "counter" if name.endswith("_total") else "gauge"
    samples = [(label, value) for label, value in values if value is not None]
    return family(f"highlander_{name}", kind, text, samples)


def _states(found: Iterable[tuple[str, str]]) -> Iterator[str]:
    states = {state: f',state="{state}"}}' for state in STATE_NAMES.values()}
    samples = ((label.removesuffix("}") + more, now == state) for label, now in found for state, more in states.items())
    return family("highlander_program_state", "gauge", "Whether it is in that state.", samples)


def _node(status: NodeStatus) -> Iterator[str]:
    guardian = "" if status.guardian is None else status.guardian.version or ""
    versions = {"guardian_version": guardian, "python": platform.python_version(), "version": status.version}
    yield from _one(
        "build_info", "Versions of the daemon: of its worker, and of its guardian and keepers.", 1, labels(versions)
    )
    yield from _one(
        "restart_due_timestamp_seconds",
        "Since when the guardian is of another version than the worker; 0 while it is of the same.",
        _seconds(status.restart_due) or 0,
    )
    yield from _one("pool_connections", "Connections to PostgreSQL.", status.postgres.connections)
    yield from _lengths(status)


def _lengths(status: NodeStatus) -> Iterator[str]:
    """Show the lengths of leases, and whether a maintenance has made them longer."""
    postgres = status.postgres
    yield from _one("maintenance", "Whether a maintenance of PostgreSQL is under way.", status.maintenance is not None)
    yield from _one("node_drained", "Whether this node is drained.", status.drained is not None)
    yield from _one("lease_seconds", "The ledger's lease.", postgres.lease)
    yield from _one("lease_in_force_seconds", "The lease that leaders use at present.", postgres.lease_in_force)
    ceiling = "The longest lease that any leader may have been promised."
    yield from _one("lease_ceiling_seconds", ceiling, postgres.ceiling)
    schema = "Version of the ledger's schema; 0 until it was read."
    yield from _one("ledger_schema_version", schema, postgres.schema)


def _one(name: str, text: str, value: float, label: str = "") -> Iterator[str]:
    return family(f"highlander_{name}", "gauge", text, [(label, value)])
