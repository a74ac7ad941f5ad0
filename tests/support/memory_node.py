"""A node in memory behind the real control socket and TCP listener: what the faces show and order, without PostgreSQL.

It implements the ``Node`` protocol and nothing of the product's logic; the test says what happens to its programs.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from highlanderd.choice import chosen
from highlanderd.config import WrittenKey
from highlanderd.core.cluster import ClusterNode, ClusterOverview, ClusterProgram, UnableNode
from highlanderd.core.explanation import Explanation, LocalView, explained
from highlanderd.core.occurrences import Occurrence
from highlanderd.core.states import NOBODY, Author
from highlanderd.core.status import (
    DaemonProcess,
    LeaseReport,
    MaintenanceStatus,
    MigrationReport,
    NodeStatus,
    OutputLine,
    PostgresStatus,
    Process,
    ProgramDetail,
    ProgramStatus,
    ReplacementReport,
)
from highlanderd.core.terms import PastTerm, SkippedTimes
from highlanderd.errors import HighlanderError, NeedsForce, NoSuchProgram, NotLeading
from highlanderd.listeners.answers import facts_of
from highlanderd.listeners.control import serve_control
from highlanderd.listeners.orders import ReloadReport
from highlanderd.structs import replace
from tests.support.forked import Forked, forkable
from tests.support.postgres import throwaway_place

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def run(
    main: Callable[[], Coroutine[Any, Any, None]], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> None:
    """Run an async test on a loop of its own."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def program(name: str, state: str = "waiting", **facts: Any) -> ProgramStatus:
    """Return a snapshot; what is not named is as after a quiet start."""
    quiet = ProgramStatus(
        name=name,
        state=state,
        want="run",
        reason="",
        since="2026-01-02T03:04:05.678Z",
        leader=None,
        epoch=None,
        lock_id=8735414648771611572,
        pid=None,
        ready=False,
        failures=0,
        restarts=0,
        lease_remaining=None,
        started=None,
        uptime=None,
        description="",
        connected=True,
    )
    return replace(quiet, **facts)


def leading(name: str, epoch: int = 7, **facts: Any) -> ProgramStatus:
    """Return a snapshot of a program that this node leads."""
    here: dict[str, Any] = {
        "leader": "web-1",
        "epoch": epoch,
        "pid": 4000 + epoch,
        "ready": True,
        "lease_remaining": 8.5,
        "started": "2026-01-02T03:04:06Z",
        "uptime": 3725.0,
    }
    return program(name, "leading", **{**here, **facts})


_NODES = tuple(
    ClusterNode(f"web-{number}", "3f1e", "0.1.0", "2026-01-02T03:04:05.678Z", None, None, present=True)
    for number in range(1, 6)
)


def _candidates(name: str, *nodes: str) -> ClusterProgram:
    return ClusterProgram(
        name,
        lock_id=8735414648771611572,
        leader="web-1",
        epoch=7,
        since=None,
        ready=True,
        candidates=nodes,
        unable=(UnableNode("web-4", "drained by ann"),),
        stopped=None,
        drift=(),
    )


def _overview(*names: str) -> ClusterOverview:
    known = {name: _candidates(name, "web-2", "web-3") for name in names}
    return ClusterOverview(_NODES, tuple(known.values()), known)


_POSTGRES = PostgresStatus(
    connected=True, server="db1:5432/ops", version="15.18", trouble="", lease=10.0, timeline=1, connections=3
)


class MemoryNode:
    """A node whose orders are noted, and carried out when ``obedient``."""

    def __init__(self, *programs: ProgramStatus, obedient: bool = True) -> None:
        self.obedient = obedient
        self.orders: list[tuple[object, ...]] = []
        self.noted: list[tuple[str, str | None, str]] = []
        """Events, each with its program and what was said of it."""
        self.authors: list[Author] = []
        """Who has given orders on programs."""
        self.surveys = self.measurements = 0
        self.trouble: Exception | None = None
        self.postgres = _POSTGRES
        self.warnings: tuple[str, ...] = ()
        self.restarted: tuple[str, ...] = ()
        """What a reload starts again."""
        self.added: tuple[str, ...] = ()
        self.edited_files: tuple[str, ...] = ()
        self.barred: set[tuple[str, str]] = set()
        """A program, and a node that never runs it."""
        self.lengths = LeaseReport(10.0, 10.0, 10.0, None, 13.0, ())
        self.looks = 0
        """How often somebody looked since the lengths changed: an obedient leader uses them from the second look on."""
        self.refusal: HighlanderError | None = None
        """What an order that changes the ledger is refused with."""
        self.lacking = ""
        """Which evidence is missing for a longer lease, in a sentence."""
        self.unanswered: HighlanderError | None = None
        """What a look at the lengths or the history is answered with, while PostgreSQL is away."""
        self.migration = MigrationReport(2, migrated=True, waits_for=())
        self.terms: tuple[PastTerm, ...] = ()
        self.skips: tuple[SkippedTimes, ...] = ()
        self.overview = _overview(*(one.name for one in programs))
        self.remembered: list[Occurrence] = []
        """What the ledger remembers."""
        self.seen: list[Occurrence] = []
        """What this node has seen."""
        self.written: dict[str, list[OutputLine]] = {}
        """What the programs here have written."""
        self.changes: str | None = None
        """When time alone changes what keeps a program from being led here."""
        self.output: tuple[str, ...] = ("ready to serve",)
        self._programs = {one.name: one for one in programs}
        self._waiting: list[asyncio.Future[None]] = []

    def become(self, name: str, after: ProgramStatus | None) -> None:
        """Let a program's status be another one, or the program be gone."""
        if after is None:
            del self._programs[name]
        else:
            self._programs[name] = after
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    def of(self, name: str) -> ProgramStatus:
        if name not in self._programs:
            raise NoSuchProgram(f"no program {name!r} is configured on this node; 'highlanderctl status' lists all")
        return self._programs[name]

    def _carry_out(self, name: str, *steps: ProgramStatus) -> None:
        if self.obedient:
            for step in steps:
                asyncio.get_running_loop().call_soon(self.become, name, step)

    def _must_lead(self, name: str) -> ProgramStatus:
        one = self.of(name)
        if one.state != "leading":
            raise NotLeading(f"{name} is not led by this node; {one.leader or 'nobody'} leads it")
        return one

    # The Node protocol

    @property
    def programs(self) -> list[str]:
        return list(self._programs)

    def facts(self) -> NodeStatus:
        return replace(self.status(), programs=())

    def status(self) -> NodeStatus:
        if self.trouble is not None:
            raise self.trouble
        programs = tuple(self._programs.values())
        lengths = self.lengths
        postgres = replace(
            self.postgres,
            lease=lengths.lease,
            lease_in_force=lengths.in_force,
            ceiling=lengths.ceiling,
            replaced_within=lengths.replaced_within,
            schema=self.migration.version,
        )
        return NodeStatus("web-1", "3f1e", "0.1.0", postgres, programs, self.warnings, lengths.maintenance)

    async def survey(self) -> None:
        self.surveys += 1

    async def measure(self) -> None:
        self.measurements += 1

    async def refresh(self) -> None:
        pass

    @property
    def name(self) -> str:
        return "web-1"

    def program(self, name: str) -> ProgramStatus:
        if self.trouble is not None:
            raise self.trouble
        return self.of(name)

    async def detail(self, name: str) -> ProgramDetail:
        return ProgramDetail(
            status=self.of(name),
            lock_key=name,
            command=("celery", "-A", "shop app", "beat"),
            directory=None,
            user="shop",
            environment=("BROKER",),
            processes=(Process(10, 1, "celery"), Process(11, 10, "worker"), Process(12, 11, "sh")),
            output=self.output,
            stdout="/var/log/beat",
            unwritable={"/var/log/beat": "Permission denied"},
        )

    def release(self, name: str, to: str | None, stay_out: float, by: Author) -> None:
        self.authors.append(by)
        one = self._must_lead(name)
        self.orders.append(("release", name, to, stay_out))
        self._carry_out(name, program(name, "draining", epoch=one.epoch), program(name, leader=to or "web-2", epoch=8))

    def start(self, name: str, by: Author) -> None:
        self.authors.append(by)
        self._programs[name] = replace(self.of(name), want="run")
        self.orders.append(("start", name))
        self._carry_out(name, leading(name, 9, pid=None), leading(name, 9))

    def stop(self, name: str, by: Author) -> None:
        self.authors.append(by)
        one = self._programs[name] = replace(self.of(name), want="stop")
        self.orders.append(("stop", name))
        self._carry_out(name, program(name, "draining", epoch=one.epoch), program(name, "stopped", want="stop"))

    def restart(self, name: str, by: Author) -> None:
        self.authors.append(by)
        epoch = self._must_lead(name).epoch or 0
        self.orders.append(("restart", name))
        self._carry_out(name, program(name, "draining", epoch=epoch), leading(name, epoch + 1))

    def signal(self, name: str, signum: int, by: Author, *, tree: bool) -> None:
        self.authors.append(by)
        self._must_lead(name)
        self.orders.append(("signal", name, signum, tree))

    def note(self, event: str, name: str | None, by: Author) -> None:
        self.noted.append((event, name, by.remark))

    async def stop_everywhere(self, name: str, by: Author) -> None:
        self.orders.append(("stop everywhere", name))
        self.authors.append(by)

    async def start_everywhere(self, name: str, by: Author) -> None:
        self.orders.append(("start everywhere", name))
        self.authors.append(by)

    def lift(self, name: str, by: Author) -> None:
        self.orders.append(("lift", name))
        self.authors.append(by)

    def bars(self, name: str, node: str) -> bool:
        return (name, node) in self.barred

    async def relay(self, node: str, verb: str, name: str, body: Mapping[str, Any], by: Author) -> dict[str, Any]:
        self.orders.append(("relay", node, verb, name, dict(body)))
        self.authors.append(by)
        if self.refusal is not None:
            raise self.refusal
        return {"program": facts_of(self.program(name))}

    async def hindrance(self, name: str) -> str:
        return "" if self.of(name).state in ("waiting", "leading") else self.of(name).reason

    async def ask_hindrance(self, node: str, name: str) -> str:  # noqa: ARG002 - they are all able
        return ""

    async def drain(self, node: str, by: Author, confirm: Callable[[], Awaitable[None]]) -> None:
        if self.unanswered is not None:
            raise self.unanswered
        await confirm()
        self.orders.append(("drain", node))
        self.authors.append(by)

    async def resume(self, node: str, by: Author) -> bool:
        self.orders.append(("resume", node))
        self.authors.append(by)
        return True

    @property
    def waits(self) -> int:
        """How many have begun to wait for a change since the latest one."""
        return len(self._waiting)

    async def changed(self) -> None:
        one: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(one)
        await one

    async def reopen(self, name: str) -> bool:
        if self.trouble is not None:
            raise self.trouble
        found = self.of(name)
        self.orders.append(("reopen", name))
        return found.state == "leading"

    async def reload(self, *, dry_run: bool, force: bool = False, by: Author = NOBODY) -> ReloadReport:
        self.authors.append(by)
        if self.trouble is not None:
            raise self.trouble
        self.orders.append(("reload", dry_run, force))
        changes, warnings = (
            ("beat: changed (umask): drains and starts again here",),
            ("/etc/h.toml:7: no such command",),
        )
        return ReloadReport(changes, warnings, self.restarted, self.added)

    async def edited(self) -> tuple[str, ...]:
        return self.edited_files

    async def renew(self, *, force: bool = False) -> ReplacementReport:
        self._must_have_evidence(force)
        self.orders.append(("renew", force))
        led = {one.name: one.epoch or 0 for one in self._programs.values() if one.state == "leading"}
        return ReplacementReport("web-1", DaemonProcess(4000, "0.1.0"), led, ())

    def shutdown(self, by: Author) -> None:
        self.authors.append(by)
        self.orders.append(("shutdown",))

    async def ledger(self) -> dict[str, object]:
        return {"schema": "highlander", "lease": 10.0, "settled": None}

    async def skipped(self, names: Sequence[str], limit: int) -> tuple[SkippedTimes, ...]:
        return tuple(one for one in self.skips if not names or one.program in names)[-limit:]

    async def history(self, names: Sequence[str], limit: int) -> tuple[PastTerm, ...]:
        if self.unanswered is not None:
            raise self.unanswered
        for name in names:
            self.of(name)
        return tuple(term for term in self.terms if not names or term.program in names)[-limit:]

    async def cluster(self) -> ClusterOverview:
        if self.unanswered is not None:
            raise self.unanswered
        led = {name: self._programs[name].leader for name in self.overview.by_name if name in self._programs}
        found = {name: replace(one, leader=led.get(name, one.leader)) for name, one in self.overview.by_name.items()}
        return replace(self.overview, programs=tuple(found.values()), by_name=found)

    async def occurrences(self, most: int) -> Sequence[Occurrence]:
        if self.unanswered is not None:
            raise self.unanswered
        return self.remembered[-most:]

    async def fresh_occurrences(self) -> Sequence[Occurrence]:
        return await self.occurrences(100)

    def seen_since(self, number: int) -> Sequence[tuple[int, Occurrence]]:
        return list(enumerate(self.seen, start=1))[number:]

    async def config(self, name: str) -> tuple[WrittenKey, ...]:
        self.of(name)
        return WrittenKey("command", ["sleep", "60"], "/etc/highlander.toml:7"), WrittenKey("umask", "022", "default")

    def lines(self, name: str) -> tuple[OutputLine, ...]:
        self.of(name)
        return tuple(self.written.get(name, ())[-200:])

    async def lines_elsewhere(self, node: str, name: str, most: int, by: Author) -> list[dict[str, Any]]:
        self.authors.append(by)
        self.orders.append(("logs", node, name, most))
        if self.refusal is not None:
            raise self.refusal
        return [{"time": "2026-01-02T03:04:05.678Z", "program": name, "stream": "stdout", "line": f"from {node}"}]

    async def explain(self, names: Sequence[str]) -> tuple[Explanation, ...]:
        if self.unanswered is not None:
            raise self.unanswered
        return tuple(
            explained(name, self.overview, LocalView(self.status(), self.of(name), self.changes))
            for name in chosen(names, list(self._programs))
        )

    async def lease_report(self) -> LeaseReport:
        self.looks += 1
        if self.unanswered is not None:
            raise self.unanswered
        if self.obedient and self.looks > 1:
            self.lengths = replace(self.lengths, pending=())
        return self.lengths

    async def set_lease(self, seconds: float, by: Author = NOBODY, *, force: bool = False) -> LeaseReport:
        self._must_have_evidence(force)
        self.authors.append(by)
        self.orders.append(("lease", seconds, force))
        return self._lengthen(lease=seconds, in_force=seconds, replaced_within=1.3 * seconds)

    async def maintenance(self, seconds: float | None, by: Author, *, force: bool = False) -> LeaseReport:
        self._must_have_evidence(force or seconds is None)
        self.orders.append(("maintenance", seconds, by.remark, by.name, force))
        if seconds is None:
            return self._lengthen(in_force=10.0, maintenance=None, replaced_within=13.0)
        since, until = "2026-01-02T03:04:05.678Z", "2026-01-02T03:05:05.678Z"
        under_way = MaintenanceStatus(seconds, 90.0, since, until, by.name, by.remark)
        return self._lengthen(in_force=90.0, ceiling=90.0, replaced_within=97.0, maintenance=under_way)

    async def migrate(self) -> MigrationReport:
        self._must_have_evidence(force=True)
        self.orders.append(("migrate",))
        return self.migration

    def _must_have_evidence(self, force: bool) -> None:
        if self.refusal is not None:
            raise self.refusal
        if self.lacking and not force:
            raise NeedsForce(self.lacking)

    def _lengthen(self, **facts: Any) -> LeaseReport:
        led = tuple(f"{one.name} on web-1" for one in self._programs.values() if one.state == "leading")
        self.lengths, self.looks = replace(self.lengths, pending=led, **facts), 0
        return self.lengths


@asynccontextmanager
async def serving(
    node: MemoryNode, directory: Path, mode: int = 0o660, group: str | None = None
) -> AsyncIterator[Path]:
    """Serve ``node`` on a control socket in ``directory``."""
    path = directory / "control.sock"
    close = await serve_control(node, path, mode, group)
    try:
        yield path
    finally:
        await close()


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    code: int
    out: str
    err: str


async def ctl(path: Path | str, *arguments: str, **environment: str) -> Ended:
    """Run the real highlanderctl against a socket."""
    return await ended(
        [sys.executable, "-m", "highlanderd.ctl", *arguments], HIGHLANDER_SOCKET=str(path), **environment
    )


async def ended(command: list[str], **environment: str) -> Ended:
    """Run a command to its end."""
    whole = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    if forkable(command, environment):
        return await asyncio.to_thread(_forked, command, whole)
    process = await asyncio.create_subprocess_exec(
        *command,
        env=whole,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode or 0, out.decode(), err.decode())


def _forked(command: list[str], environment: dict[str, str]) -> Ended:
    with tempfile.TemporaryDirectory(dir=throwaway_place()) as directory:
        out, err = Path(directory, "out"), Path(directory, "err")
        process = Forked(command, environment, out, err)
        try:
            return Ended(process.wait(60), out.read_text(), err.read_text())
        finally:
            process.kill()
