"""What may be asked and ordered of a node, and when an order has been carried out.

Orders are passed on at once and never wait; whether one has taken effect is read off two snapshots, by pure functions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

from msgspec import Struct

from highlanderd.config import WrittenKey
from highlanderd.config.values import any_signal
from highlanderd.core.cluster import ClusterOverview
from highlanderd.core.explanation import Explanation
from highlanderd.core.occurrences import Occurrence
from highlanderd.core.states import NOBODY, Author
from highlanderd.core.status import (
    LeaseReport,
    MigrationReport,
    NodeStatus,
    OutputLine,
    ProgramDetail,
    ProgramStatus,
    ReplacementReport,
    in_state,
)
from highlanderd.core.terms import PastTerm, SkippedTimes
from highlanderd.errors import BadRequest, HighlanderError
from highlanderd.structs import replace

DEFAULT_STAY_OUT = 30.0
"""Seconds for which a releasing node stays out, unless another one has led before."""


class ReloadReport(Struct, frozen=True):
    """What a reload did, or would do: lines such as ``beat: changed (umask): drains and starts again here``."""

    changes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """What the daemon warns of: what is perhaps not meant, and what this machine lacks for a program."""
    restarted: tuple[str, ...] = ()
    """The programs whose child has to be started again for it."""
    added: tuple[str, ...] = ()
    """The programs that the node has not had before."""


class Node(Protocol):
    """The daemon as the control socket sees it."""

    @property
    def name(self) -> str:
        """The node's name."""

    @property
    def programs(self) -> Sequence[str]:
        """The names of its programs."""

    def facts(self) -> NodeStatus:
        """Return the present snapshot without the programs, which take milliseconds where they are many."""

    def status(self) -> NodeStatus:
        """Return the present snapshot, from memory."""

    def program(self, name: str) -> ProgramStatus:
        """Return the present status of one program, from memory. Raises NoSuchProgram, and Interrupted at an end."""

    async def survey(self) -> None:
        """Refresh from the ledger who leads what, and who could, for half a second at most. Never raises."""

    async def measure(self) -> None:
        """Refresh what children use, for a quarter of a second at most. Never raises."""

    async def detail(self, name: str) -> ProgramDetail:
        """Return everything about one program. Raises NoSuchProgram."""

    def bars(self, name: str, node: str) -> bool:
        """Return whether the configuration here says that a node never runs a program."""

    def release(self, name: str, to: str | None, stay_out: float, by: Author) -> None:
        """Order a release, for node ``to``; stay out for ``stay_out`` seconds. Raises NoSuchProgram, NotLeading."""

    def start(self, name: str, by: Author) -> None:
        """Order that the program runs. Raises NoSuchProgram."""

    def stop(self, name: str, by: Author) -> None:
        """Order that it does not run on this node. Raises NoSuchProgram."""

    def restart(self, name: str, by: Author) -> None:
        """Order a new child. Raises NoSuchProgram, NotLeading."""

    def signal(self, name: str, signum: int, by: Author, *, tree: bool) -> None:
        """Send a signal to the main process, or to its whole tree. Raises NoSuchProgram, NotLeading."""

    def note(self, event: str, name: str | None, by: Author) -> None:
        """Add what was ordered here, of a program or of the node, to the ledger's events, a moment later."""

    async def stop_everywhere(self, name: str, by: Author) -> None:
        """Order that no node leads it until it is started everywhere. Raises NoSuchProgram, HighlanderError."""

    async def start_everywhere(self, name: str, by: Author) -> None:
        """Lift that order. Raises NoSuchProgram, HighlanderError."""

    def lift(self, name: str, by: Author) -> None:
        """Forget that an operator has stopped a program on this node. Unknown names mean nothing."""

    async def relay(self, node: str, verb: str, name: str, body: Mapping[str, Any], by: Author) -> dict[str, Any]:
        """Return another node's answer to an order on a program. Raises HighlanderError, also for its refusal."""

    async def hindrance(self, name: str) -> str:
        """Return why this node could not lead a program now; empty when it could, or does."""

    async def ask_hindrance(self, node: str, name: str) -> str:
        """Return the same of another node, which says so itself. Raises HighlanderError."""

    async def drain(self, node: str, by: Author, confirm: Callable[[], Awaitable[None]]) -> None:
        """Order that a node leads nothing until it is resumed. Raises HighlanderError.

        ``confirm`` is awaited once the order is written, and before any daemon is woken for it; one that reads the
        ledger by then anyway may follow it already. When it raises, the order is taken back.
        """

    async def resume(self, node: str, by: Author) -> bool:
        """Lift that order; return whether there was one. Raises HighlanderError."""

    async def changed(self) -> None:
        """Return when any program's status has changed since the call."""

    async def reopen(self, name: str) -> bool:
        """Have a program's log files opened anew. Return whether it writes any here.

        Raises NoSuchProgram, and HighlanderError when one of them cannot be opened.
        """

    async def reload(self, *, dry_run: bool, force: bool = False, by: Author = NOBODY) -> ReloadReport:
        """Read the configuration again and apply it, or only return what that would do.

        Raises ConfigurationError for a bad one, and without ``force`` for one that drains what cannot start here again.
        """

    async def renew(self, *, force: bool = False) -> ReplacementReport:
        """Have a worker of the installed code take over, once that has loaded this machine's configuration.

        The worker ends a moment after this has returned. Raises ConfigurationError, NeedsForce, HighlanderError.
        """

    async def edited(self) -> tuple[str, ...]:
        """Return the files of the configuration that have changed since they were loaded. Never raises."""

    def shutdown(self, by: Author) -> None:
        """Order the daemon's end."""

    async def ledger(self) -> dict[str, object]:
        """Return the ledger's facts. Raises HighlanderError when it cannot be read."""

    async def history(self, names: Sequence[str], limit: int) -> tuple[PastTerm, ...]:
        """Return the newest terms, the newest last. Raises NoSuchProgram, HighlanderError when they cannot be read."""

    async def skipped(self, names: Sequence[str], limit: int) -> tuple[SkippedTimes, ...]:
        """Return the newest scheduled times that were skipped, the newest last. Raises as ``history``."""

    async def cluster(self) -> ClusterOverview:
        """Return who leads what, and who could take it over. Raises HighlanderError when the ledger cannot be read."""

    async def occurrences(self, most: int) -> Sequence[Occurrence]:
        """Return the newest events of the whole cluster as the ledger remembers them. Raises HighlanderError."""

    async def fresh_occurrences(self) -> Sequence[Occurrence]:
        """Return the very newest of them, at most a second old. Raises HighlanderError."""

    def seen_since(self, number: int) -> Sequence[tuple[int, Occurrence]]:
        """Return what this node has seen after the event with this number, with numbers."""

    async def config(self, name: str) -> tuple[WrittenKey, ...]:
        """Return the keys of a program of this node as they were loaded last. Raises NoSuchProgram."""

    def lines(self, name: str) -> tuple[OutputLine, ...]:
        """Return the last lines of a program's children on this node, oldest first. Raises NoSuchProgram."""

    async def lines_elsewhere(self, node: str, name: str, most: int, by: Author) -> list[dict[str, Any]]:
        """Return the last lines of a program that another node leads, as JSON. Raises HighlanderError."""

    async def explain(self, names: Sequence[str]) -> tuple[Explanation, ...]:
        """Return why programs of any node are led where they are, or nowhere. Raises NoSuchProgram, Unanswered.

        A name may be a glob, or ``all``; without one, it is all of them.
        """

    async def lease_report(self) -> LeaseReport:
        """Return the lengths of leases in force. Raises HighlanderError when the ledger cannot be read."""

    async def set_lease(self, seconds: float, by: Author, *, force: bool = False) -> LeaseReport:
        """Change the ledger's lease. Raises HighlanderError when that is refused."""

    async def maintenance(self, seconds: float | None, by: Author, *, force: bool = False) -> LeaseReport:
        """Begin a maintenance for an outage of so many seconds, or end it. Raises HighlanderError when refused."""

    async def migrate(self) -> MigrationReport:
        """Bring the ledger's schema to this daemon's version. Raises HighlanderError when PostgreSQL is away."""


def _elsewhere(now: ProgramStatus, node: str) -> bool:
    return now.state == "waiting" and now.leader not in (None, node)


def _running(before: ProgramStatus, now: ProgramStatus, goal: Goal) -> bool:
    held = now.suspended and now.state == "stopped"  # while it drains, its reason is an earlier one
    if held or (now.want == "stop" and now.state in ("draining", "stopped")):
        where = in_state(now.state, now.reason)
        raise HighlanderError(f"a later order has overtaken this one: {now.name} is {where}")
    if now.failures > before.failures:
        raise HighlanderError(f"{now.name} failed: {now.reason or 'it ended'}; see 'highlanderctl show {now.name}'")
    over = _ended_since(before, now)
    rests = before.want == "stop" and now.idle  # its schedule goes on, and wants no run at present
    return (now.state == "leading" and now.ready) or _elsewhere(now, goal.here) or over or rests


def _ended_since(before: ProgramStatus, now: ProgramStatus) -> bool:
    """Return whether a term since then was a run that is over. Raises HighlanderError for one that failed here."""
    if not (now.finished or now.idle) or (now.epoch or 0) <= (before.epoch or 0):
        return False  # a look shows it a moment after its term
    last = now.last_exit
    if last is not None and last.epoch == now.epoch and last.success is False:
        how = f"status {last.status}" if last.signal is None else last.signal
        raise HighlanderError(f"{now.name} failed: it ended with {how}; see 'highlanderctl show {now.name}'")
    return True


def _released(before: ProgramStatus, now: ProgramStatus, goal: Goal) -> bool:
    over = now.state not in ("leading", "draining") or now.epoch != before.epoch
    if goal.to is None or not over:
        return over
    if now.stopped is not None:
        raise HighlanderError(
            f"a later order has overtaken this one: {now.name} was released, but is stopped everywhere {now.stopped}"
        )
    if now.leader not in (None, goal.to):
        raise HighlanderError(f"{now.name} was released, but {now.leader} leads it now, not {goal.to}")
    return now.leader == goal.to or _was_repeated(before, now)


def _stopped(before: ProgramStatus, now: ProgramStatus, goal: Goal) -> bool:  # noqa: ARG001 - one shape for all
    if now.want == "run" and now.state != "draining":
        raise HighlanderError(f"a later order has overtaken this one: {now.name} was started again, and is {now.state}")
    return now.state == "stopped"


def _restarted(before: ProgramStatus, now: ProgramStatus, goal: Goal) -> bool:
    return (_was_repeated(before, now) or _running(before, now, goal)) and (now.epoch or 0) > (before.epoch or 0)


def _was_repeated(before: ProgramStatus, now: ProgramStatus) -> bool:
    """Return whether a run was begun again, and is over. Raises HighlanderError once it never will be, or failed here.

    It may have ended by itself before the order could.
    """
    if _ended_since(before, now):
        return True
    if now.finished or now.idle:
        raise HighlanderError(f"{now.name} has ended, and is not begun again: {now.reason}")
    return False


def _came_back(before: ProgramStatus, now: ProgramStatus, goal: Goal) -> bool:
    """Return whether it runs with its new keys. The one with the old keys is not wanted any more."""
    if now.want == "stop":
        return False
    if (now.epoch or 0) <= (before.epoch or 0):
        return now.idle  # a run that is not repeated: its schedule goes on with the new keys
    return _running(replace(before, failures=0), now, goal)


def _taken_up(_before: ProgramStatus, now: ProgramStatus, goal: Goal) -> bool:
    """Return whether it runs on any node, or is not to run now. Raises HighlanderError for a child that failed."""
    if now.want == "stop":  # it is not to run; or the one with the old keys is still leaving
        return now.state == "stopped"
    return now.state == "stopped" or _running(replace(now, failures=0, epoch=-1), now, goal)


def _start(node: Node, name: str, _body: Mapping[str, Any], by: Author) -> None:
    node.start(name, by)
    node.note("started", name, by)


def _stop(node: Node, name: str, _body: Mapping[str, Any], by: Author) -> None:
    node.stop(name, by)
    node.note("stopped", name, by)


def _signal(node: Node, name: str, body: Mapping[str, Any], by: Author) -> None:
    if (word := body.get("signal")) is None:
        raise BadRequest('\'signal\' is missing: name the signal, such as {"signal": "HUP"}')
    tree = body.get("tree", False)
    node.signal(name, any_signal(word), by, tree=tree)
    what = f"{word} to {'all processes' if tree else 'the main process'}"
    node.note("signalled", name, by.about(what))


class Goal(Struct, frozen=True):
    """Where an order is to have its effect."""

    here: str
    """This node."""
    to: str | None = None
    """The node that is to lead next."""


class NodeOrder(Struct, frozen=True):
    """One order on one program: how to give it, and when it has been carried out."""

    give: Callable[[Node, str, Mapping[str, Any], Author], None]
    outcome: Callable[[ProgramStatus, ProgramStatus, Goal], bool]
    """Called with the status before, the status now and the goal; True when the order was carried out.

    Raises HighlanderError once it never will be.
    """
    fields: tuple[str, ...] = ()
    hands_over: Literal["", "led", "ready"] = ""
    """Whether another node may lead a moment later. That is worth a moment's wait, because people expect one of two;
    with ``ready``, until it is ready there."""


ORDERS: Mapping[str, NodeOrder] = {
    "release": NodeOrder(
        lambda node, name, body, by: node.release(name, body.get("to"), body.get("for", DEFAULT_STAY_OUT), by),
        _released,
        ("to", "for", "force"),
        hands_over="ready",
    ),
    "start": NodeOrder(_start, _running, ("everywhere",)),
    "stop": NodeOrder(_stop, _stopped, ("force", "everywhere"), hands_over="led"),
    "restart": NodeOrder(lambda node, name, _, by: node.restart(name, by), _restarted),
    "signal": NodeOrder(_signal, lambda before, now, goal: True, ("signal", "tree")),  # noqa: ARG005 - one shape
}
CHANGED: Final = NodeOrder(lambda *_: None, _came_back)
"""What a reload does to a program whose child it starts again; the fleet gives that order."""
ADDED: Final = NodeOrder(lambda *_: None, _taken_up)
"""What a reload does to a program that was not there before."""
