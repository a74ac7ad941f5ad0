"""One term's child as the worker knows it: orders go to its keeper, facts come back as events, each once and in order.

It never waits, and it claims nothing that keeper or guardian has not proven: a child whose proof can no longer come,
because the guardian is gone as well, stays alive for ever in the eyes of this module.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from highlanderd.children.loop_channel import LoopChannel
from highlanderd.children.messages import ChildEvent, KeeperReport, check_memo
from highlanderd.core.events import Emptied, SpawnFailed
from highlanderd.guardian import protocol
from highlanderd.guardian.channel import Channel, Message
from highlanderd.system import linux


class Guard(Protocol):
    """What a child needs of the link to the guardian."""

    @property
    def lost(self) -> bool:
        """The guardian is dead."""

    @property
    def silent(self) -> bool:
        """It is frozen."""

    def condemn(self, keeper: int) -> None:
        """Have a keeper killed."""

    def forget(self, child: Child) -> None:
        """Hold a child no longer: it is over."""


class Child:
    """One term's child: orders to its keeper, and what became of it. What the guardian knows is told by its link."""

    def __init__(self, guardian: Guard, program: str, lock_id: int, epoch: int) -> None:
        self.program, self.lock_id, self.epoch = program, lock_id, epoch
        self.report: KeeperReport | None = None
        """The latest of the keeper, or of the guardian for it; None before the first."""
        self._guardian = guardian
        self.on_pipes: Callable[[], None] = lambda: None
        """Told when ``pipes()`` has something."""
        self._tell: Callable[[ChildEvent], None] | None = None
        self._told = 0
        self._over = False
        self._keeper: int | None = None
        self._line: LoopChannel | None = None
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
    def unkillable(self) -> tuple[int, ...]:
        """Its processes that SIGKILL has not ended for a while."""
        return self.report.unkillable if self.report else ()

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
        self._order(protocol.signal(int(signum), to))

    def kill(self) -> None:
        """Have the keeper kill the whole tree until it is empty; remembered while the keeper is not known yet."""
        self._order(protocol.kill())

    def set_deadline(self, deadline: float, memo: bytes) -> None:
        """Move the keeper's deadline and replace its memo. Raises ValueError when the memo is too long."""
        check_memo(memo)
        if self.reachable:
            self._unacknowledged.append((deadline, linux.boottime()))
        self._order(protocol.deadline(deadline, memo))

    def pipes(self) -> dict[str, int]:
        """Hand over the read ends that came, by ``stdout`` and ``stderr``: non-blocking, the caller's from now on."""
        pipes, self._pipes = self._pipes, {}
        return pipes

    def found(self) -> None:
        """It was found running: whoever listens knows from its ``Found`` that it has started."""
        if self.report is not None and self.report.started is not None:
            self._told = 1

    def attached(self, keeper: int, channel: Channel | None) -> None:
        """Here is its keeper, and the channel to it."""
        self._ended()
        self._keeper = keeper
        if channel is None:  # it was lost on the way: without it nobody commands this keeper
            self.condemn()
            return
        self._line = LoopChannel(channel, self._heard, self._ended)
        orders, self._orders = self._orders, []
        now = linux.boottime()
        self._unacknowledged.extend((order["at"], now) for order in orders if order["is"] == "deadline")
        for order in orders:
            self._line.post(order)

    def stranded(self, keeper: int, report: KeeperReport) -> None:
        """Its keeper cannot be reached yet, or is dead; and the guardian has not proven its tree empty yet."""
        if self._line is not None:
            self._line.read()  # its last words come first
        self._ended()
        self._keeper = keeper
        self._learn(report)

    def refused(self, why: str) -> None:
        """Nothing was started, and nothing will be."""
        if self._tell is not None:
            self._conclude(SpawnFailed(why), self._tell)

    def buried(self) -> None:
        """The guardian has proven the tree empty; the keeper's own last words come first."""
        if self._line is not None:
            self._line.read()
        self._ended()
        self._proven = True
        self._news()

    def check(self, now: float, lease: float) -> None:
        """Have its keeper killed when it owes the acknowledgement of a deadline for 3/10 of ``lease``: it is frozen."""
        if self._line is not None and self._line.open and self._owes(now, lease):
            self._line.read()  # only silence after everything was read is silence
            if self._owes(now, lease):
                self.condemn()

    def condemn(self) -> None:
        """Have its keeper killed, once; the guardian then proves the tree empty."""
        if not self._condemned and self._keeper is not None:
            self._condemned = True
            self._guardian.condemn(self._keeper)

    def _order(self, message: Message) -> None:
        if self._line is not None and self._line.open:
            self._line.post(message)
        else:  # of deadlines only the last one, and none twice: its keeper may never come
            self._orders = [each for each in self._orders if message["is"] != each["is"] or each["is"] == "signal"]
            if message not in self._orders:
                self._orders.append(message)

    def _heard(self, message: Message, fds: list[int]) -> None:
        report = KeeperReport.of(message)
        names = message.get("fds", [])
        if len(names) != len(fds):
            self.condemn()  # nobody would read its output, and it would block on it
        self._pipes.update(zip(names, fds, strict=False))
        if not self.reported.done():
            self.reported.set_result(None)
        self._learn(report)
        if self._pipes:
            self.on_pipes()

    def _learn(self, report: KeeperReport) -> None:
        if any(at == report.deadline for at, _ in self._unacknowledged):
            while self._unacknowledged.popleft()[0] != report.deadline:
                pass
        self.report = report
        self._news()

    def _ended(self) -> None:
        if self._line is not None:
            self._line.close()  # if the tree was not told empty, the guardian proves it and tells

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
            self._order(protocol.leave())
        tell(event)
        if self._over:
            for fd in self.pipes().values():
                os.close(fd)

    def _owes(self, now: float, lease: float) -> bool:
        return bool(self._unacknowledged) and now - self._unacknowledged[0][1] > 0.3 * lease
