"""The worker's end of guardian and keepers: orders go out, facts come back as events, each once and in order.

It never waits, and it claims nothing that keeper or guardian has not proven: a child whose proof can no longer come,
because the guardian is gone as well, stays alive for ever in the eyes of this module.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from highlanderd import linux
from highlanderd.core.words import Emptied, SpawnFailed
from highlanderd.errors import HighlanderError
from highlanderd.processes.channel import PROTOCOL, Channel, Message
from highlanderd.processes.line import Line
from highlanderd.processes.report import ChildEvent, Order, Report, check_memo

__all__ = ["Child", "ChildEvent", "Found", "Greeting", "Guardian", "Order", "Report"]

HELLO_WITHIN = 5.0  # seconds; the guardian says hello before it executes us
STATE_WITHIN = 1.0  # seconds; a keeper answers in a millisecond, and leases are running
PINGS_UNANSWERED: Final = 3


class Child:
    """One term's child: orders to its keeper, and what became of it."""

    def __init__(self, guardian: Guardian, program: str, lock_id: int, epoch: int) -> None:
        self.program, self.lock_id, self.epoch = program, lock_id, epoch
        self.report: Report | None = None
        """The latest of the keeper, or of the guardian for it; None before the first."""
        self._guardian = guardian
        self.on_pipes: Callable[[], None] = lambda: None
        """Told when ``pipes()`` has something."""
        self._tell: Callable[[ChildEvent], None] | None = None
        self._told = 0
        self._over = False
        self._keeper: int | None = None
        self._line: Line | None = None
        self._orders: list[Message] = []
        self._pipes: dict[str, int] = {}
        self._unacknowledged: deque[tuple[float, float]] = deque()
        """Deadlines sent and not yet acknowledged, each with when it was sent."""
        self._condemned = False
        self._proven = False
        """The guardian has proven the tree of the dead keeper empty."""
        self.reported = asyncio.get_running_loop().create_future()
        """Done with the keeper's own first report."""

    @property
    def pid(self) -> int | None:
        """The main process, once it was forked."""
        return self.report.pid if self.report else None

    @property
    def killed_at(self) -> float | None:
        """When its tree first got SIGKILL, in CLOCK_BOOTTIME seconds."""
        return self.report.killed_at if self.report else None

    @property
    def undying(self) -> tuple[int, ...]:
        """Its processes that SIGKILL has not ended for a while."""
        return self.report.undying if self.report else ()

    @property
    def kept(self) -> bool:
        """Whether a keeper was forked for it."""
        return self._keeper is not None

    @property
    def reachable(self) -> bool:
        """Whether its keeper can be spoken to."""
        return self._line is not None and self._line.open

    @property
    def unprovable(self) -> bool:
        """Nobody is there who could prove that the tree is empty.

        The keeper is dead, or not known yet, and the guardian is dead or frozen.
        """
        return not self._over and not self.reachable and (self._guardian.lost or self._guardian.silent)

    def listen(self, tell: Callable[[ChildEvent], None]) -> None:
        """Send events to ``tell`` from now on; what is already known and was never told comes first, soon.

        The ``Started`` of a child found running is not told: its ``Found`` says so.
        """
        self._tell = tell
        asyncio.get_running_loop().call_soon(self._news)

    def signal(self, signum: int, to: Literal["tree", "main"]) -> None:
        """Have the keeper send a signal; remembered while the keeper is not known yet."""
        self._order({"is": "signal", "signum": int(signum), "to": to})

    def kill(self) -> None:
        """Have the keeper kill the whole tree until it is empty; remembered while the keeper is not known yet."""
        self._order({"is": "kill"})

    def entrust(self, deadline: float, memo: bytes) -> None:
        """Move the keeper's deadline and replace its memo. Raises ValueError when the memo is too long."""
        check_memo(memo)
        if self.reachable:
            self._unacknowledged.append((deadline, linux.boottime()))
        self._order({"is": "deadline", "at": deadline, "memo": memo})

    def pipes(self) -> dict[str, int]:
        """Hand over the read ends that came, by ``stdout`` and ``stderr``: non-blocking, the caller's from now on."""
        pipes, self._pipes = self._pipes, {}
        return pipes

    def _order(self, message: Message) -> None:
        if self._line is not None and self._line.open:
            self._line.post(message)
        else:  # of deadlines only the last one, and none twice: its keeper may never come
            self._orders = [each for each in self._orders if message["is"] != each["is"] or each["is"] == "signal"]
            if message not in self._orders:
                self._orders.append(message)

    def _attach(self, keeper: int, channel: Channel | None) -> None:
        self._ended()
        self._keeper = keeper
        if channel is None:  # it was lost on the way: without it nobody commands this keeper
            self._condemn()
            return
        self._line = Line(channel, self._heard, self._ended)
        orders, self._orders = self._orders, []
        now = linux.boottime()
        self._unacknowledged.extend((order["at"], now) for order in orders if order["is"] == "deadline")
        for order in orders:
            self._line.post(order)

    def _heard(self, message: Message, fds: list[int]) -> None:
        report = Report.of(message)
        names = message.get("fds", [])
        if len(names) != len(fds):
            self._condemn()  # nobody would read its output, and it would block on it
        self._pipes.update(zip(names, fds, strict=False))
        if not self.reported.done():
            self.reported.set_result(None)
        self._learn(report)
        if self._pipes:
            self.on_pipes()

    def _learn(self, report: Report) -> None:
        if any(at == report.deadline for at, _ in self._unacknowledged):
            while self._unacknowledged.popleft()[0] != report.deadline:
                pass
        self.report = report
        self._news()

    def _unkept(self, keeper: int, report: Report) -> None:
        """Its keeper cannot be reached yet, or is dead; and the guardian has not proven its tree empty yet."""
        if self._line is not None:
            self._line.read()  # its last words come first
        self._ended()
        self._keeper = keeper
        self._learn(report)

    def _ended(self) -> None:
        if self._line is not None:
            self._line.close()  # if the tree was not told empty, the guardian proves it and tells

    def _condemn(self) -> None:
        if not self._condemned and self._keeper is not None:
            self._condemned = True
            self._guardian.condemn(self._keeper)

    def _found(self) -> None:
        if self.report is not None and self.report.started is not None:
            self._told = 1

    def _news(self) -> None:
        if self._tell is None:
            return
        for event in list(self.report.facts() if self.report else ())[self._told :]:
            self._told += 1
            self._conclude(event, self._tell)
        if self._proven:
            self._conclude(Emptied(), self._tell)

    def _conclude(self, event: ChildEvent, tell: Callable[[ChildEvent], None]) -> None:
        if self._over:
            return
        if isinstance(event, Emptied | SpawnFailed):
            self._over = True
            self._guardian.forget(self)
            self._order({"is": "leave"})
        tell(event)
        if self._over:
            for fd in self.pipes().values():
                os.close(fd)

    def _buried(self) -> None:
        """The guardian has proven the tree empty; the keeper's own last words come first."""
        if self._line is not None:
            self._line.read()
        self._ended()
        self._proven = True
        self._news()

    def _refused(self, why: str) -> None:
        if self._tell is not None:
            self._conclude(SpawnFailed(why), self._tell)

    def _check(self, now: float, lease: float) -> None:
        if self._line is not None and self._line.open and self._owes(now, lease):
            self._line.read()  # only silence after everything was read is silence
            if self._owes(now, lease):
                self._condemn()

    def _owes(self, now: float, lease: float) -> bool:
        return bool(self._unacknowledged) and now - self._unacknowledged[0][1] > 0.3 * lease


@dataclass(frozen=True, slots=True)
class Found:
    """A term of an earlier worker whose tree is not proven empty. ``child.listen()`` must be called."""

    child: Child
    report: Report


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a worker starts from."""

    instance: str
    draining: bool
    """An earlier worker was told to end in good order; go on with that."""
    memo: bytes | None
    """What the earlier workers wanted remembered."""
    found: tuple[Found, ...]
    signals: tuple[str, ...]
    """Signals that came while nobody could be told."""


@dataclass(slots=True)
class _Hello:
    instance: str = ""
    draining: bool = False
    memo: bytes | None = None
    signals: list[str] = field(default_factory=list)


class Guardian:
    """The worker's link to its guardian. Make it inside the running loop."""

    def __init__(self, channel: Channel) -> None:
        self._hello = _Hello()
        self.on_signal: Callable[[str], None] = self._hello.signals.append
        """Told ``TERM``, ``INT``, ``QUIT``, ``HUP``, ``USR1`` or ``USR2``. Until set, they go to the greeting."""
        self.on_lost: Callable[[], None] = lambda: None
        """Told once that the guardian is dead: drain everything."""
        self.lost = False
        """It is dead."""
        self.silent = False
        """It has left three pings unanswered, and has not answered one since: it is frozen."""
        self._drains = False
        self._children: dict[tuple[int, int], Child] = {}
        self._held: Counter[int | str] = Counter()
        """How many of them have a lock id, or a program: asked for every program in every look."""
        self._pinged = self._ponged = 0
        self._listed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line = Line(channel, self._heard, self._ended)

    async def greeted(self) -> Greeting:
        """Wait for what the guardian holds; set ``on_signal`` and ``on_lost`` before. Takes six seconds at most.

        A keeper that does not show its state within a second is killed; what it has told the guardian counts. One that
        nothing is known of is not among ``found``; until its tree is proven empty, ``holds()`` counts it. Raises
        HighlanderError when the guardian is gone, silent or speaks another protocol.
        """
        done, _ = await asyncio.wait([self._listed], timeout=HELLO_WITHIN)
        if not done:
            raise HighlanderError("the guardian said nothing: it is frozen; restart highlanderd")
        self._listed.result()
        children = list(self._children.values())
        if reports := [child.reported for child in children if child.reachable]:
            await asyncio.wait(reports, timeout=STATE_WITHIN)
        found = []
        for child in children:
            if child.reachable and not child.reported.done():
                child._condemn()
            if child.report is None:
                child.listen(_nobody)
            else:
                child._found()
                found.append(Found(child, child.report))
        hello = self._hello
        return Greeting(hello.instance, hello.draining, hello.memo, tuple(found), tuple(hello.signals))

    def spawn(self, order: Order, tell: Callable[[ChildEvent], None]) -> Child:
        """Ask for a child; what becomes of it is told to ``tell``, never before this has returned.

        Raises ValueError when the memo is too long.
        """
        check_memo(order.memo)
        child = Child(self, order.program, order.lock_id, order.epoch)
        child.listen(tell)
        self._hold(child)
        if self.lost:
            asyncio.get_running_loop().call_soon(child._refused, "the guardian is dead: nothing is started any more")
            return child
        try:
            spec = linux.memfd("spec", order.spec())
        except OSError as error:
            asyncio.get_running_loop().call_soon(child._refused, f"its order cannot be written: {error.strerror}")
            return child
        term = {"program": order.program, "lock_id": order.lock_id, "epoch": order.epoch, "not_after": order.not_after}
        self._line.post({"is": "spawn", **term}, [spec])
        return child

    def holds(self, lock_id: int, program: str) -> bool:
        """Whether anything may live for this lock id or program: a keeper, an unanswered spawn, an unproven death."""
        return self._held[lock_id] > 0 or self._held[program] > 0

    def remember(self, memo: bytes) -> None:
        """Have the guardian give ``memo``, of any length, to each worker after us."""
        if not self.lost:
            self._line.post({"is": "remember"}, [linux.memfd("memo", memo)])

    def ping(self, lease: float) -> bool:
        """Show that we live: at least every 3/10 of ``lease`` seconds; the first one says that we are ready.

        False when the last three are unanswered, with everything read that is there: the guardian is frozen (or dead).
        """
        self._line.read()
        if self.lost:
            return False
        self.silent = self._pinged - self._ponged >= PINGS_UNANSWERED
        self._pinged += 1
        self._line.post({"is": "ping", "n": self._pinged, "lease": lease})
        return not self.silent

    def check(self, now: float, lease: float) -> None:
        """Have keepers killed that owe the acknowledgement of a deadline for 3/10 of ``lease``: they are frozen."""
        for child in list(self._children.values()):
            child._check(now, lease)

    def draining(self) -> None:
        """Say, once, that an orderly end has begun: the guardian tells each worker after us to go on with it."""
        if not self.lost and not self._drains:
            self._drains = True
            self._line.post({"is": "draining"})

    def notify(self, words: str) -> None:
        """Have the service manager told, which listens to the guardian alone."""
        if not self.lost:
            self._line.post({"is": "notify", "words": words})

    def done(self, code: int) -> None:
        """Say that everything is drained: the guardian ends with ``code`` once we have ended."""
        if not self.lost:
            self._line.post({"is": "done", "code": code})

    def condemn(self, keeper: int) -> None:
        """Have a frozen keeper killed; the guardian then proves its tree empty."""
        if not self.lost:
            self._line.post({"is": "kill", "id": keeper})

    def forget(self, child: Child) -> None:
        """Drop a child that is over."""
        if self._children.get((child.lock_id, child.epoch)) is child:
            del self._children[child.lock_id, child.epoch]
            self._held.subtract((child.lock_id, child.program))

    def _hold(self, child: Child) -> None:
        former = self._children.get((child.lock_id, child.epoch))
        if former is not None:
            self.forget(former)
        self._children[child.lock_id, child.epoch] = child
        self._held.update((child.lock_id, child.program))

    def _heard(self, message: Message, fds: list[int]) -> None:
        heard = _HEARD.get(message["is"])
        if heard is not None:  # a newer guardian may know more words
            heard(self, message, fds)

    def _on_hello(self, message: Message, fds: list[int]) -> None:
        if message["protocol"] != PROTOCOL:
            self._listed.set_exception(
                HighlanderError(
                    f"the guardian speaks protocol {message['protocol']}, not {PROTOCOL}: restart highlanderd"
                )
            )
        self._hello.instance, self._hello.draining = message["instance"], message["draining"]
        self._hello.signals.extend(message["signals"])
        for fd in fds:
            self._hello.memo = linux.read_whole(fd)
            os.close(fd)

    def _on_keeper(self, message: Message, fds: list[int]) -> None:
        self._child(message)._attach(message["id"], Channel.of(fds[0]) if fds else None)

    def _on_term(self, message: Message, _fds: list[int]) -> None:
        self._child(message)._unkept(message["id"], Report.of(message["state"]))

    def _child(self, message: Message) -> Child:
        """Give the child of this term; one that is over already, and only the guardian does not know, ends unheard."""
        term = message["lock_id"], message["epoch"]
        child = self._children.get(term)
        if child is None:
            child = Child(self, message["program"], *term)
            self._hold(child)
            if self._listed.done():
                child.listen(_nobody)
        return child

    def _on_listed(self, _message: Message, _fds: list[int]) -> None:
        if not self._listed.done():
            self._listed.set_result(None)

    def _on_refused(self, message: Message, _fds: list[int]) -> None:
        child = self._children.get((message["lock_id"], message["epoch"]))
        if child is not None:
            child._refused(message["why"])

    def _on_emptied(self, message: Message, _fds: list[int]) -> None:
        self._line.post({"is": "ack", "lock_id": message["lock_id"], "epoch": message["epoch"]})
        child = self._children.get((message["lock_id"], message["epoch"]))
        if child is not None and child.kept:
            child._buried()

    def _on_signal(self, message: Message, _fds: list[int]) -> None:
        self.on_signal(message["name"])

    def _on_pong(self, message: Message, _fds: list[int]) -> None:
        self._ponged, self.silent = message["n"], False

    def _ended(self) -> None:
        self.lost = True
        undelivered = {(order["lock_id"], order["epoch"]) for order in self._line.unsent if order["is"] == "spawn"}
        self._line.close()
        if not self._listed.done():
            self._listed.set_exception(HighlanderError("the guardian is dead; restart highlanderd"))
        for term in undelivered & self._children.keys():
            self._children[term]._refused("the guardian died before it was told")
        self.on_lost()


_HEARD: Mapping[str, Callable[[Guardian, Message, list[int]], None]] = {
    "hello": Guardian._on_hello,
    "keeper": Guardian._on_keeper,
    "term": Guardian._on_term,
    "listed": Guardian._on_listed,
    "refused": Guardian._on_refused,
    "emptied": Guardian._on_emptied,
    "signal": Guardian._on_signal,
    "pong": Guardian._on_pong,
}


def _nobody(event: ChildEvent) -> None:
    """Hear of a child that nobody else listens to: one that was never found, or is over already."""
    del event
