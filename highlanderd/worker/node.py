"""The node as control, metrics and pages see it: its snapshots, and the orders that it takes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from highlanderd import __version__
from highlanderd.api import DEFAULT_TIMEOUT
from highlanderd.choice import chosen
from highlanderd.config import WrittenKey, keys_of
from highlanderd.core.cluster import ASK, LIFT, ClusterOverview, Held
from highlanderd.core.events import ReleaseOrdered, RestartOrdered, StartOrdered, StopOrdered
from highlanderd.core.explanation import Explanation, LocalView, explained
from highlanderd.core.occurrences import Occurrence
from highlanderd.core.states import NOBODY, Author
from highlanderd.core.status import (
    DaemonProcess,
    LeaseReport,
    MigrationReport,
    NodeStatus,
    OutputLine,
    ProgramDetail,
    ProgramStatus,
    ReplacementReport,
)
from highlanderd.core.terms import PastTerm, SkippedTimes
from highlanderd.durations import shown
from highlanderd.errors import HighlanderError, Interrupted, NoSuchProgram, NotLeading, TimedOut, Unanswered, refusal
from highlanderd.listeners import carrying
from highlanderd.listeners.orders import ReloadReport
from highlanderd.postgres import lease_change
from highlanderd.postgres.cluster_orders import ClusterOrders
from highlanderd.postgres.commands import Command, Commands
from highlanderd.postgres.history import History
from highlanderd.postgres.overview import Overview
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.remembered import Events
from highlanderd.postgres.sql.dialect import SCHEDULED
from highlanderd.structs import replace
from highlanderd.threads import in_thread
from highlanderd.worker import snapshot
from highlanderd.worker.aside import NEVER
from highlanderd.worker.chronicle import Chronicle
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.member import Member
from highlanderd.worker.meter import Meter
from highlanderd.worker.next_change import Changes
from highlanderd.worker.past import named
from highlanderd.worker.persistence import Persistence
from highlanderd.worker.presence import WorkerPresence
from highlanderd.worker.processes import tree_below
from highlanderd.worker.reloading import Reloading
from highlanderd.worker.replacement import WorkerReplacement

SURVEY_WITHIN: Final = 0.5
"""Seconds that a question for the present leaders may take; after that the answer shows what is known."""
OVERVIEW_AGE: Final = 1.0
"""Seconds for which what other nodes could lead is not asked again."""
STALE: Final = 5.0
"""Seconds after which it is not known any more what other nodes could lead."""

WALK_REST: Final = 3.0
"""Times its own cost for which no process tree is looked at after another one: a quarter of a core at most."""


class WorkerNode:
    """Answers and orders of one worker's life: the Node that the listeners are given."""

    def __init__(
        self,
        name: str,
        instance: str,
        fleet: Fleet,
        pool: Pool,
        persistence: Persistence,
        reloading: Reloading,
        replacement: WorkerReplacement,
        changes: Changes,
        meter: Meter,
        presence: WorkerPresence,
        *,
        chronicle: Chronicle,
        guardian: DaemonProcess,
        obedient: bool,
        warnings: Callable[[], tuple[str, ...]],
        end: Callable[[Author], None],
    ) -> None:
        self._name, self._instance = name, instance
        self._fleet, self._pool, self._persistence = fleet, pool, persistence
        self._reloading, self._replacement, self._changes = reloading, replacement, changes
        self._meter = meter
        self._presence, self._guardian = presence, guardian
        self._warnings, self._end = warnings, end
        self._history, self._overview = History(pool), Overview(pool.ledger, pool.listener)
        self._events = Events(pool.listener, self._history)
        self._chronicle = chronicle
        self._cluster_orders = ClusterOrders(pool.ledger, pool.listener)
        self._obedient = obedient
        self.commands = Commands(
            pool.server, pool.ledger, pool.listener, node=name, instance=instance, carry_out=self.obey
        )
        self._survey: asyncio.Future[None] | None = None
        self._noting: set[asyncio.Future[None]] = set()
        self._walks, self._next_walk = asyncio.Lock(), 0.0

    # ----------------------------------------------------------------------------------------------------- questions

    @property
    def programs(self) -> Sequence[str]:
        """The names of its programs, in the order of the file; those that are leaving come last."""
        members, wanted = self._fleet.members, self._fleet.wanted
        return [name for name in wanted if name in members] + [name for name in members if name not in wanted]

    def status(self) -> NodeStatus:
        """Return the present snapshot, from memory."""
        seen = self._view(self._overview.latest(STALE))
        programs = (
            snapshot.shown(member, seen, self._meter.of(member.program.child))
            for member in map(self._fleet.members.__getitem__, self.programs)
        )
        return replace(self.facts(), programs=tuple(programs))

    def facts(self) -> NodeStatus:
        """Return the present snapshot without the programs, which take milliseconds where they are many."""
        facts, drained = self._pool.listener.facts, self._fleet.drained
        return NodeStatus(
            node=self._name,
            instance=self._instance,
            version=__version__,
            postgres=snapshot.postgres_status(self._pool, self._connections()),
            programs=(),
            warnings=self._warnings(),
            maintenance=None if facts is None else facts.maintenance,
            worker=DaemonProcess(os.getpid(), __version__),
            guardian=self._guardian,
            restart_due=self._persistence.restart_due,
            drained=None if drained is None else Held(drained.author, drained.remark, drained.since),
        )

    def _view(self, overview: ClusterOverview | None = None) -> snapshot.View:
        return snapshot.view(self._pool, self._name, overview)

    def _connections(self) -> int:
        own = sum(member.session.own is not None for member in self._fleet.members.values())
        return own + len(self._pool.joints.pids) + self._pool.warm.count + self._pool.listener.connected

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    def program(self, name: str) -> ProgramStatus:
        """Return the present status of one program, from memory. Raises NoSuchProgram."""
        member, seen = self._member(name), self._view(self._overview.latest(STALE))
        return snapshot.program_status(member, seen, self._meter.of(member.program.child))

    async def detail(self, name: str) -> ProgramDetail:
        """Return everything about one program. Raises NoSuchProgram."""
        child = self._member(name).program.child
        loop = asyncio.get_running_loop()
        async with self._walks:  # one at a time
            await asyncio.sleep(max(0.0, self._next_walk - loop.time()))
            began = loop.time()
            tree = await tree_below(None if child is None else child.keeper_pid)
            self._next_walk = loop.time() + WALK_REST * (loop.time() - began)
        return snapshot.program_detail(self._member(name), self._view(), tree)

    async def survey(self) -> None:
        """Refresh who leads what, and who could, for half a second at most. All who ask at once share one question."""
        if self._survey is None or self._survey.done():
            self._survey = asyncio.ensure_future(self._pool.listener.survey())
            self._survey.add_done_callback(lambda done: done.cancelled() or done.exception())
        counted = asyncio.ensure_future(self._count_candidates())
        await asyncio.wait([self._survey, counted], timeout=SURVEY_WITHIN)

    async def measure(self) -> None:
        """Refresh what children use, for a quarter of a second at most. Never raises."""
        await self._meter.measure(self._fleet.children)

    async def refresh(self) -> None:
        """Refresh what the metrics show, for half a second at most. Never raises."""
        for member in self._fleet.members.values():
            member.spawner.output.catch_up()
        await asyncio.gather(self._count_candidates(), self.measure())

    async def _count_candidates(self) -> None:
        with suppress(HighlanderError, TimeoutError):
            async with asyncio.timeout(SURVEY_WITHIN):
                await self._overview.read(OVERVIEW_AGE)

    async def changed(self) -> None:
        """Return at the next change of any program."""
        await self._changes.wait()

    # ------------------------------------------------------------------------------------------------------- orders

    def bars(self, name: str, node: str) -> bool:
        """Return whether the configuration here says that a node never runs a program."""
        return self._fleet.aside.barred(name, node)

    def release(self, name: str, to: str | None, stay_out: float, by: Author) -> None:
        """Order a release. Raises NoSuchProgram, NotLeading."""
        self._refuse_unless_leading(name)
        self._fleet.order(name, ReleaseOrdered(to, stay_out, by))

    def start(self, name: str, by: Author) -> None:
        """Order that it runs. Raises NoSuchProgram, HighlanderError."""
        self._refuse_suspended(self._member(name))
        if self._fleet.aside.barred(name):
            raise HighlanderError(f"{NEVER}; remove {self._name} from it, and say highlanderctl reload")
        self._fleet.order(name, StartOrdered(by))
        self._persistence.hand_over()

    def stop(self, name: str, by: Author) -> None:
        """Order that it does not run here. Raises NoSuchProgram."""
        self._member(name)
        self._fleet.order(name, StopOrdered(by))
        self._persistence.hand_over()

    def restart(self, name: str, by: Author) -> None:
        """Order a new child. Raises NoSuchProgram, NotLeading."""
        self._refuse_unless_leading(name, f"'highlanderctl start {name}' starts it at once")
        self._fleet.order(name, RestartOrdered(by))

    def signal(self, name: str, signum: int, by: Author, *, tree: bool) -> None:  # noqa: ARG002 - the order is logged
        """Send a signal to the main process, or to its whole tree. Raises NoSuchProgram, NotLeading."""
        self._refuse_unless_leading(name)
        child = self._member(name).program.child
        if child is None or child.pid is None:
            raise HighlanderError(f"{name} has no process now; see 'highlanderctl show {name}'")
        child.signal(signum, "tree" if tree else "main")

    def note(self, event: str, name: str | None, by: Author) -> None:
        """Add what was ordered here to the ledger's events. No order waits for that."""
        lock_id = None if name is None else self._member(name).lock_id
        task = asyncio.ensure_future(self._cluster_orders.note(event, self._name, name, lock_id, by))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    def _refuse_suspended(self, member: Member) -> None:
        suspension, name = member.program.situation.suspension, member.program.name
        if suspension is None:
            return
        if suspension.drained:
            raise HighlanderError(f'this node is {suspension}; lift that with "highlanderctl resume {self._name}"')
        raise HighlanderError(f'{name} is {suspension}; lift that with "highlanderctl start --everywhere {name}"')

    # ------------------------------------------------------------------------------------------------ whole cluster

    async def stop_everywhere(self, name: str, by: Author) -> None:
        """Order that no node leads it until it is started everywhere. Raises NoSuchProgram, HighlanderError."""
        await self._cluster_orders.stop_everywhere(name, await self._lock_ids(name), by)

    async def start_everywhere(self, name: str, by: Author) -> None:
        """Lift that order. Raises NoSuchProgram, HighlanderError."""
        await self._cluster_orders.start_everywhere(name, await self._lock_ids(name), by)
        await self._lift_everywhere(name, by)

    async def _lock_ids(self, name: str) -> list[int]:
        """Return the lock ids of a program that this node or any other one has: first this node's, or the leader's."""
        await self._cluster_orders.reach()
        overview = await self._overview.read()
        found = self._fleet.members.get(name) or overview.program(name)
        if found is None:
            raise NoSuchProgram.anywhere(name, overview.by_name)
        first = found.lock_id
        return [first, *sorted(overview.lock_ids.get(name, frozenset()) - {first})]

    def lift(self, name: str, by: Author) -> None:
        """Forget that an operator has stopped a program on this node."""
        self._fleet.lift(name, by)
        self._persistence.hand_over()

    async def relay(self, node: str, verb: str, name: str, body: Mapping[str, Any], by: Author) -> dict[str, Any]:
        """Return another node's answer to an order on a program. Raises HighlanderError, also for its refusal."""
        arguments = {key: value for key, value in body.items() if key not in ("reason", "node")}
        patience = body.get("timeout", DEFAULT_TIMEOUT) if body.get("wait", False) else 0.0
        answer = await self.commands.send(node, Command(verb, name, arguments, by), patience)
        match answer:
            case {"error": {"code": str(code), "message": str(message)}}:
                raise refusal(code, f"{node}: {message}")
            case {"program": {"name": str()}} | {"lines": list()}:
                return answer
        raise HighlanderError(f"{node} has answered what this daemon does not understand: {answer!r:.200}")

    async def hindrance(self, name: str) -> str:
        """Return why this node could not lead a program now; empty when it could, or does."""
        member = self._fleet.members.get(name)
        return f"{self._name} does not have it" if member is None else await self._presence.hindrance_now(member)

    async def ask_hindrance(self, node: str, name: str) -> str:
        """Return why another node could not lead a program, as it says itself. Raises HighlanderError."""
        try:
            answer = await self.commands.send(node, Command(ASK, name, {}, NOBODY), 0.0)
        except TimedOut:
            return "its daemon does not answer"
        return str(answer.get("hindrance", ""))  # a daemon of an earlier release does not know the question

    async def _lift_everywhere(self, name: str, by: Author) -> None:
        """Have every daemon that is there forget a stop of its own. One that does not answer is not waited for."""
        self.lift(name, by)
        others = [one.name for one in (await self._overview.read()).nodes if one.present and one.name != self._name]
        command = Command(LIFT, name, {}, by)
        lifting = (self.commands.send(node, command, 0.0) for node in others)
        for outcome in await asyncio.gather(*lifting, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, TimedOut):
                raise outcome

    async def obey(self, command: Command) -> dict[str, Any]:
        """Return the answer to an order that another node has passed on."""
        return await carrying.carry_out_for_another(
            self, command.verb, command.program, command.arguments, command.by, obedient=self._obedient
        )

    async def drain(self, node: str, by: Author, confirm: Callable[[], Awaitable[None]]) -> None:
        """Order that a node leads nothing until it is resumed. Raises HighlanderError, also what ``confirm`` raises."""
        await self._cluster_orders.drain(node, by, confirm)

    async def resume(self, node: str, by: Author) -> bool:
        """Lift that order; return whether there was one. Raises HighlanderError."""
        return await self._cluster_orders.resume(node, by)

    def _member(self, name: str) -> Member:
        member = self._fleet.members.get(name)
        if member is None and name in self._fleet.ended_with:
            gone = f"the daemon on {self._name} is ending, and has done with {name}"
            raise Interrupted(f"{gone}; 'highlanderctl cluster' shows who leads it now")
        if member is None:
            raise NoSuchProgram.among(name, self._fleet.members)
        return member

    def _refuse_unless_leading(self, name: str, in_backoff: str = "") -> None:
        """Refuse an order on a child where there is none; ``in_backoff`` is the cure there. Raises NotLeading."""
        member = self._member(name)
        if member.program.state != "leading":
            seen = snapshot.view(self._pool, "")
            raise NotLeading(not_leading(snapshot.program_status(member, seen), self._name, in_backoff))

    async def reopen(self, name: str) -> bool:
        """Have a program's log files opened anew; False where it writes none. Raises NoSuchProgram, HighlanderError."""
        return await self._member(name).spawner.reopen()

    async def reload(self, *, dry_run: bool, force: bool = False, by: Author = NOBODY) -> ReloadReport:
        """Read the configuration again and apply it; a bad file changes nothing. Raises ConfigurationError."""
        report = await self._reloading.reload(dry_run=dry_run, force=force, by=by)
        if not dry_run:
            self.note("reloaded", None, by)
        return report

    @property
    def reloading(self) -> bool:
        """Whether a reload is under way."""
        return self._reloading.under_way

    async def renew(self, *, force: bool = False) -> ReplacementReport:
        """Have a worker of the installed code take over. Raises ConfigurationError, NeedsForce, HighlanderError."""
        return await self._replacement.begin(force=force)

    async def edited(self) -> tuple[str, ...]:
        """Return the files of the configuration that have changed since they were loaded."""
        return await self._reloading.edited()

    def shutdown(self, by: Author) -> None:
        """Order the daemon's end."""
        self._end(by)

    # ------------------------------------------------------------------------------------------------------- ledger

    async def ledger(self) -> dict[str, object]:
        """Return the ledger's facts. Raises HighlanderError."""
        return await self._pool.listener.shown()

    async def history(self, names: Sequence[str], limit: int) -> tuple[PastTerm, ...]:
        """Return the newest terms, the newest last. Raises NoSuchProgram, HighlanderError."""
        return await self._history.read(await self._named(names), limit)

    async def skipped(self, names: Sequence[str], limit: int) -> tuple[SkippedTimes, ...]:
        """Return the newest scheduled times that were skipped, the newest last. Raises as ``history``."""
        chosen = await self._named(names)
        return await self._history.skipped(chosen, limit) if self._pool.server.schema >= SCHEDULED else ()

    async def _named(self, names: Sequence[str]) -> list[int]:
        configured = {name: member.lock_id for name, member in self._fleet.members.items()}
        return await named(self._pool.listener, configured, names)

    async def cluster(self) -> ClusterOverview:
        """Return who leads what, and who could take it over. Raises HighlanderError."""
        return await self._overview.read()

    async def occurrences(self, most: int) -> Sequence[Occurrence]:
        """Return the newest events of the whole cluster as the ledger remembers them. Raises HighlanderError."""
        return await self._events.newest(most)

    async def fresh_occurrences(self) -> Sequence[Occurrence]:
        """Return the very newest of them, at most a second old. Raises HighlanderError."""
        return await self._events.fresh()

    def seen_since(self, number: int) -> Sequence[tuple[int, Occurrence]]:
        """Return what this node has seen after the event with this number, with numbers."""
        return self._chronicle.since(number)

    async def config(self, name: str) -> tuple[WrittenKey, ...]:
        """Return the keys of a program as they were loaded last. Raises NoSuchProgram."""
        blob = self._persistence.latest.sources_json()
        found = await in_thread(lambda: keys_of(blob, os.environ, name), "show the configuration")
        if not found:
            raise NoSuchProgram.among(name, self._fleet.wanted)
        return found

    def lines(self, name: str) -> tuple[OutputLine, ...]:
        """Return the last lines of a program's children on this node. Raises NoSuchProgram."""
        return self._member(name).spawner.output.last()

    async def lines_elsewhere(self, node: str, name: str, most: int, by: Author) -> list[dict[str, Any]]:
        """Return the last lines of a program that another node leads, as JSON. Raises HighlanderError."""
        answer = await self.relay(node, carrying.LOGS, name, {"n": most}, by)
        return [line for line in answer["lines"] if isinstance(line, dict)]

    async def explain(self, names: Sequence[str]) -> tuple[Explanation, ...]:
        """Return why programs of any node are led where they are. Raises NoSuchProgram, Unanswered."""
        await self.survey()
        overview, unknown = None, ""
        try:
            async with asyncio.timeout(SURVEY_WITHIN):
                overview = await self._overview.read(OVERVIEW_AGE)
        except (HighlanderError, TimeoutError) as error:
            unknown = str(error) or "PostgreSQL does not answer in time"
        known = [*dict.fromkeys([*self._fleet.wanted, *self._fleet.members, *(overview.by_name if overview else ())])]
        node = self.facts()

        def none(name: str, known: Iterable[str]) -> HighlanderError:
            return Unanswered.about(name, known, unknown) if unknown else NoSuchProgram.anywhere(name, known)

        return tuple(
            explained(name, overview, self._local_view(name, overview, node), unknown)
            for name in chosen(names, known, none)
        )

    def _local_view(self, name: str, overview: ClusterOverview | None, node: NodeStatus) -> LocalView:
        """Return what this node knows of a program by itself."""
        member = self._fleet.members.get(name)
        if member is None:
            return LocalView(node, None, None)
        seen, turns_at, back = self._view(overview), snapshot.turns_at(member), self._fleet.returns(name)
        return LocalView(
            node,
            snapshot.program_status(member, seen),
            None if turns_at is None else seen.wall(turns_at),
            None if back is None else (back[0], seen.wall(back[1])),
        )

    async def lease_report(self) -> LeaseReport:
        """Return the lengths of leases in force. Raises HighlanderError."""
        report = await lease_change.report(self._pool.listener)
        return replace(report, warnings=await self._persistence.unwritten())

    async def set_lease(self, seconds: float, by: Author, *, force: bool = False) -> LeaseReport:
        """Change the ledger's lease. Raises HighlanderError."""
        await lease_change.set_lease(self._pool.listener, seconds, force=force)
        await self._note_everywhere("lease_set", by.about(shown(seconds)))
        return await self.lease_report()

    async def maintenance(self, seconds: float | None, by: Author, *, force: bool = False) -> LeaseReport:
        """Begin maintenance for an outage of so many seconds, or end it. Raises HighlanderError."""
        listener = self._pool.listener
        if seconds is None:
            await lease_change.end_maintenance(listener)
            await self._note_everywhere("maintenance_ended", by)
        else:
            await lease_change.begin_maintenance(listener, seconds, author=by.name, reason=by.remark, force=force)
            await self._note_everywhere("maintenance_begun", by.about(shown(seconds)))
        return await self.lease_report()

    async def _note_everywhere(self, event: str, by: Author) -> None:
        await self._cluster_orders.note_everywhere(event, None, None, None, by)

    async def migrate(self) -> MigrationReport:
        """Bring the ledger's schema to this daemon's version. Raises HighlanderError."""
        return await self._pool.listener.migrate()


def not_leading(program: ProgramStatus, node: str, in_backoff: str = "") -> str:
    """Return why an order on the child of a program is refused on a node that does not lead it.

    ``in_backoff`` is what can be done when it fails there, and no other node leads it.
    """
    unled = "nobody leads it at the moment" if program.connected else "PostgreSQL does not say who leads it"
    where = f"it is led by {program.leader}" if program.leader else unled
    why = f" ({program.reason})" if program.reason else ""
    cure = f"; {in_backoff}" if in_backoff and program.state == "backoff" and not program.leader else ""
    state = "in backoff" if program.state == "backoff" else program.state
    return f'"{program.name}" is {state} on {node}{why}; {where}{cure}'
