"""One term's child as the worker knows it: orders go to its keeper, and what the keeper reports comes back as events.

Each event is delivered once, and in order. Nothing here waits, and nothing is claimed that keeper or guardian has not
proven. If the guardian is gone too, that proof can no longer come, and the child counts as alive for ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from typing import Final, Literal, Protocol

from highlanderd.children.loop_channel import LoopChannel
from highlanderd.children.messages import ChildEvent, KeeperReport, SpawnRequest, check_memo
from highlanderd.core.events import Emptied, HookFinished, SpawnFailed, Started
from highlanderd.errors import HighlanderError
from highlanderd.guardian import messages, protocol, shapes
from highlanderd.guardian.channel import Channel, Message
from highlanderd.structs import replace
from highlanderd.system import linux, proctree

log = logging.getLogger(__name__)


READ_WITHIN: Final = 0.3
"""Of a lease: a keeper that has not read its orders by then is frozen."""
LEAVE_AFTER: Final = 0.05
"""Seconds until the keeper of a proven end may go: its own end takes processors from the takeover elsewhere."""
SHORT_OF_FILES: Final = "cannot be reached, because the worker may open no more files; raise its limit (LimitNOFILE)"


class ChildGuardian(Protocol):
    """What a child needs of the link to the guardian."""

    @property
    def absence(self) -> str:
        """How it is known that the guardian is dead or frozen, as a sentence; empty while it lives."""

    def spawn(self, child: Child, request: SpawnRequest) -> None:
        """Ask the guardian to start the child, and hold the child until ``forget``."""

    def kill_keeper(self, keeper: int, why: str) -> None:
        """Have the guardian kill a keeper, and log why."""

    def forget(self, child: Child) -> None:
        """Stop holding the child."""

    def attention(self, program: str) -> AbstractContextManager[None]:
        """Handle a program for a block: should this worker die of it, the guardian will know."""


class Stage(Enum):
    """How far a child has come. It only ever moves on, and may skip stages."""

    PENDING = "its request is still being written; the guardian knows nothing of it"
    REQUESTED = "the guardian was asked to start it"
    KEPT = "the guardian has named its keeper, which may be dead or out of reach"
    KEEPER_KILLED = "the guardian was asked to kill its keeper"
    PROVEN = "the guardian has proven its tree empty"
    OVER = "its last event is delivered"


class Child:
    """The child of one term."""

    def __init__(self, guardian: ChildGuardian, program: str, lock_id: int, epoch: int) -> None:
        self.program, self.lock_id, self.epoch = program, lock_id, epoch
        self.report: KeeperReport | None = None
        """The latest report of its keeper, or of the guardian for a dead one; None before the first. Its keeper may
        have taken in later deadlines and memos since."""
        self.reported: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done with the first report that came from the keeper itself."""
        self._guardian = guardian
        self._stage = Stage.PENDING
        self._keeper = 0
        """The guardian's number of its keeper, from ``KEPT`` on."""
        self._channel: LoopChannel | None = None
        """To its keeper, while that can be reached."""
        self._waiting: list[Message] = []
        """Orders for a keeper that cannot be reached yet."""
        self._all_read_at = 0.0
        """When its keeper was last seen to have read all orders, in CLOCK_BOOTTIME seconds: before one was sent."""
        self._pipes: dict[str, int] = {}
        self._log_report: int | None = None
        self._post: Callable[[ChildEvent], None] | None = None
        self._pipes_came: Callable[[], None] = _ignore
        self._news: asyncio.Future[None] | None = None
        self._delivered = 0
        """How many of the report's events were delivered."""
        self._hooks_ended: set[str] = set()
        """The hooks whose end was delivered."""

    # ----------------------------------------------------------------------------------------------- what is known

    @property
    def term(self) -> Message:
        """Which term it is of, as messages name it."""
        return {"program": self.program, "lock_id": self.lock_id, "epoch": self.epoch}

    @property
    def pid(self) -> int | None:
        """The main process, once it was forked."""
        return self.report.pid if self.report else None

    @property
    def keeper_pid(self) -> int | None:
        """Its keeper, below which all of its processes are. A keeper of an earlier version does not say it."""
        if self.report is None:
            return None
        return self.report.keeper or (self.pid and (proctree.parent(self.pid) or None))

    @property
    def killed_at(self) -> float | None:
        """When its tree first got SIGKILL, in CLOCK_BOOTTIME seconds."""
        return self.report.killed_at if self.report else None

    @property
    def unkillable(self) -> tuple[int, ...]:
        """Its processes that SIGKILL has not ended for two seconds."""
        return self.report.unkillable if self.report else ()

    @property
    def missing_limits(self) -> str | None:
        """Which limits by cgroup do not hold for it, and why, as ``KeeperReport`` has it."""
        return self.report.unlimited if self.report else None

    @property
    def number(self) -> int:
        """The guardian's number of its keeper, which names its cgroup; 0 before it is known."""
        return self._keeper

    @property
    def kept(self) -> bool:
        """Whether a keeper was forked for it."""
        return self._stage not in (Stage.PENDING, Stage.REQUESTED)

    @property
    def reachable(self) -> bool:
        """Whether its keeper takes orders now."""
        return self._channel is not None

    @property
    def unprovable(self) -> str:
        """Why no process can prove that its tree is empty, as a sentence; empty where one can.

        Its keeper is dead, or not known yet, and the guardian is dead or frozen.
        """
        absence = self._guardian.absence
        if not absence or self.reachable or self._stage in (Stage.PENDING, Stage.OVER):
            return ""
        keeper = "its keeper is dead or out of reach" if self.kept else "it has not said whether it has started it"
        return f"{absence}, and {keeper}"

    # ------------------------------------------------------------------------------------------ what its owner does

    def listen(self, post: Callable[[ChildEvent], None], pipes_came: Callable[[], None] | None = None) -> None:
        """Deliver events to ``post`` from now on. Those that are already due follow soon, before any other.

        ``pipes_came`` is called when ``pipes()`` has something to hand over.
        """
        self._post, self._pipes_came = post, pipes_came or _ignore
        asyncio.get_running_loop().call_soon(self._deliver)

    def start_when(self, written: asyncio.Future[SpawnRequest]) -> None:
        """Ask the guardian for it once its request is written. A child that is stopped before that is never started."""
        written.add_done_callback(self._written)

    def start(self, request: SpawnRequest) -> None:
        """Ask the guardian for it, under the deadline that was set last.

        Raises ValueError when the memo is too long.
        """
        check_memo(request.memo)
        for order in [order for order in self._waiting if order["is"] == "deadline"]:
            request = replace(request, deadline=order["at"], memo=order["memo"])
        self._waiting = []
        self._stage = Stage.REQUESTED
        self._guardian.spawn(self, request)

    def signal(self, signum: int, to: Literal["tree", "main"]) -> None:
        """Have the keeper send a signal, as soon as it can be reached."""
        self._order(messages.signal(int(signum), to))

    def kill(self, *, after: bool = False) -> None:
        """Have the keeper kill the whole tree until it is empty, as soon as it can be reached.

        With ``after``, the hook ``after_stop`` still runs: the lock is held.
        """
        self._order(messages.kill(after=after))

    def run_hook(self, name: str) -> None:
        """Have the keeper run a hook while the program runs."""
        self._order(messages.hook(name))

    def end(self, cause: str, *, announced: bool) -> None:
        """Tell the keeper why the term ends; ``announced``: ``before_stop`` runs before the next signal."""
        self._order(messages.end(cause, announced=announced))

    def set_deadline(self, kill_at: float, memo: bytes) -> None:
        """Have the keeper kill the tree at ``kill_at``, not earlier, and replace its memo.

        Raises ValueError when the memo is too long.
        """
        check_memo(memo)
        self._order(messages.deadline(kill_at, memo))

    def probe(self, argv: tuple[str, ...], timeout: float) -> int:
        """Have the keeper run a command in the tree for so long at most; return the number that reports give it."""
        number = ((self.report and self.report.probe) or 0) + 1
        if self._channel is not None:
            self._send(messages.probe(number, [os.fsencode(word) for word in argv], timeout), self._channel)
        return number

    def watch(self, within: float) -> None:
        """Have the keeper expect WATCHDOG=1 from the child every ``within`` seconds from now on."""
        self._order(messages.watch(within))

    async def news(self) -> None:
        """Wait for the next report."""
        if self._news is None or self._news.done():
            self._news = asyncio.get_running_loop().create_future()
        await self._news

    def pipes(self) -> dict[str, int]:
        """Hand over the read ends that came, by ``stdout`` and ``stderr``: non-blocking, the caller's from now on."""
        pipes, self._pipes = self._pipes, {}
        return pipes

    # ------------------------------------------------------------------------------------- what the guardian has said

    def log_report(self) -> int | None:
        """Hand over the memfd of its logger's reports, once: it is the caller's from now on."""
        fd, self._log_report = self._log_report, None
        return fd

    def logged(self, report: int) -> None:
        """Take the memfd of its logger's reports."""
        former = self.log_report()
        if former is not None:
            os.close(former)
        self._log_report = report
        self._pipes_came()

    def found(self) -> None:
        """Deliver no ``Started``: it was found running by this worker, and its ``Found`` says so."""
        if self.report is not None and self.report.started is not None:
            facts = list(self.report.facts())
            self._delivered = 1 + next(n for n, fact in enumerate(facts) if isinstance(fact, Started))
            self._hooks_ended = {*self.report.finished_hooks}

    def attached(self, keeper: int, channel: Channel | None) -> None:
        """Take its keeper's number, and the channel to it; None when that was lost on the way."""
        self._kept_by(keeper)
        if channel is None:  # this worker cannot give orders to the keeper
            self.kill_keeper(SHORT_OF_FILES)
            return
        self._channel = LoopChannel(channel, self._receive, self._close, self.fail)
        orders, self._waiting = self._waiting, []
        for order in orders:
            self._send(order, self._channel)

    def fail(self, error: Exception) -> None:
        """Abandon a keeper whose reports cannot be used: the guardian kills it, and proves its tree empty."""
        log.error("%s: what its keeper reports cannot be used, so it is killed", self.program, exc_info=error)
        self._close()
        self.kill_keeper("reports what cannot be used")

    def stranded(self, keeper: int, report: KeeperReport) -> None:
        """Take the report of a keeper that is dead, or cannot be reached yet."""
        self._read()
        self._kept_by(keeper)
        self._learn(report)

    def refused(self, why: str) -> None:
        """Conclude: nothing was started, and nothing will be."""
        self._conclude(SpawnFailed(why))

    def proven_empty(self) -> None:
        """Conclude: the guardian has proven the tree empty. What the keeper still reported comes first."""
        self._read()
        self._close()
        if self._stage is not Stage.OVER:
            self._stage = Stage.PROVEN
        self._deliver()

    def frozen(self, now: float, lease: float) -> bool:
        """Return whether its keeper has not read all of its orders for 3/10 of ``lease``."""
        return now - self._all_read_at > READ_WITHIN * lease and self._channel is not None and self._channel.unread

    def kill_keeper(self, why: str = "does not answer") -> None:
        """Have the guardian kill its keeper, once. The guardian then proves the tree empty."""
        if self._stage is Stage.KEPT:
            self._stage = Stage.KEEPER_KILLED
            self._guardian.kill_keeper(self._keeper, why)

    # --------------------------------------------------------------------------------------------------- the request

    def _written(self, written: asyncio.Future[SpawnRequest]) -> None:
        error = None if written.cancelled() else written.exception()  # asked for in any case, or asyncio complains
        if self._stage is not Stage.PENDING or written.cancelled():
            return
        if error is not None:
            self.refused(
                str(error) if isinstance(error, HighlanderError) else f"its order cannot be written: {error!r}"
            )
            return
        self.start(written.result())

    # ------------------------------------------------------------------------------------------------------ the keeper

    def _kept_by(self, keeper: int) -> None:
        self._close()
        self._keeper = keeper
        if not self.kept:
            self._stage = Stage.KEPT

    def _order(self, message: Message) -> None:
        if self.report is not None and self.report.empty and message["is"] != "leave":
            return  # nothing is left that an order could change, and the release comes first
        if self._channel is not None:
            self._send(message, self._channel)
        elif self._stage is Stage.PENDING and message["is"] not in ("deadline", "end"):
            self.refused("it was stopped before it was started")
        elif self._stage is not Stage.OVER:
            self._keep_for_later(message)

    def _keep_for_later(self, message: Message) -> None:
        """Keep an order for a keeper that may never come: only the last deadline, and no kill or signal twice."""
        self._waiting = [each for each in self._waiting if message["is"] != each["is"] or each["is"] == "signal"]
        if message not in self._waiting:
            self._waiting.append(message)

    def _send(self, order: Message, channel: LoopChannel) -> None:
        if not channel.unread:
            self._all_read_at = linux.boottime()
        channel.post(order)

    def _read(self) -> None:
        if self._channel is not None:
            self._channel.read()

    def _close(self) -> None:
        """Close the channel to its keeper. The guardian proves the tree empty if the keeper did not report that."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    # ----------------------------------------------------------------------------------------------------- its reports

    def _receive(self, message: Message, fds: list[int]) -> None:
        if shapes.check(protocol.WORKER, message) and message["is"] == "state":  # earlier ones acknowledge deadlines
            with self._guardian.attention(self.program):
                self._take_in(message, fds)

    def _take_in(self, message: Message, fds: list[int]) -> None:
        names = message.get("fds", [])
        if len(names) != len(fds):
            self.kill_keeper(SHORT_OF_FILES)  # nobody could read the child's output, and the child would block on it
        self._pipes.update(zip(names, fds, strict=False))
        if self._pipes:  # before the events: the last one closes what nobody has taken
            self._pipes_came()
        if not self.reported.done():
            self.reported.set_result(None)
        self._learn(KeeperReport.of(message))

    def _learn(self, report: KeeperReport) -> None:
        self.report = report
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._deliver()

    def _deliver(self) -> None:
        """Post what has happened and was not delivered yet."""
        if self._post is None:
            return
        for hook, why in (self.report.finished_hooks if self.report else {}).items():
            if hook not in self._hooks_ended:
                self._hooks_ended.add(hook)
                self._conclude(HookFinished(hook, why))
        for event in list(self.report.facts() if self.report else ())[self._delivered :]:
            self._delivered += 1
            self._conclude(event)
        if self._stage is Stage.PROVEN:
            self._conclude(Emptied())

    def _conclude(self, event: ChildEvent) -> None:
        """Post an event; the last one ends the child."""
        if self._stage is Stage.OVER or self._post is None:
            return
        last = isinstance(event, Emptied | SpawnFailed)
        if last:
            self._stage = Stage.OVER
            self._guardian.forget(self)
            asyncio.get_running_loop().call_later(LEAVE_AFTER, self._order, messages.leave())
        self._post(event)
        if last:
            for fd in self.pipes().values():
                os.close(fd)
            report = self.log_report()
            if report is not None:
                os.close(report)


def _ignore() -> None:
    """Do nothing."""
