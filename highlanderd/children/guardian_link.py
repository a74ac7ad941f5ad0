"""The worker's link to its guardian: the terms that the guardian holds, orders to it, and whether it lives.

Nothing here waits but ``greeted()``. The link holds each child until the child's tree is proven empty, or until it is
known that nothing was started.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from math import inf
from typing import Final, Protocol

from msgspec import Struct, field

from highlanderd.children.attention import Attention, Handling
from highlanderd.children.child import Child
from highlanderd.children.loop_channel import LoopChannel
from highlanderd.children.messages import ChildEvent, KeeperReport, SpawnRequest
from highlanderd.errors import HighlanderError
from highlanderd.guardian import messages, protocol, shapes
from highlanderd.guardian.channel import Channel, Message
from highlanderd.system import linux

HELLO_WITHIN = 5.0  # seconds; the guardian sends ``hello`` before the worker is executed
STATE_WITHIN: Final = 1.0
"""Seconds in which some keeper reports, while any has to: one answers within a millisecond, and leases run out."""
STATE_ROUNDS: Final = 3
"""How many such times there are at most: a thousand keepers of a busy machine do not all get a turn within a second."""
PINGS_UNANSWERED: Final = 3
FROZEN_AFTER: Final = 0.28
"""Of a lease, since the first of these pings: they are a tenth apart, unless something wakes the one who sends them."""
BUSY_AFTER: Final = 0.15
"""Of a lease, since the latest ping: the turns of hundreds of programs hold up the round that sends the next one."""


class Found(Struct, frozen=True):
    """A term of an earlier worker whose tree is not proven empty. ``child.listen()`` must be called."""

    child: Child
    report: KeeperReport


class Greeting(Struct, frozen=True):
    """What a worker begins with."""

    instance: str
    draining: bool
    """An orderly end has begun under an earlier worker; go on with it."""
    memo: bytes | None
    """What an earlier worker has asked to ``remember``."""
    found: tuple[Found, ...]
    version: str | None = None
    """The guardian's version of highlanderd; None for early guardians, which leave it out."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Programs that earlier workers have died of, and how the last one did."""


class GuardianListener(Protocol):
    """What the link calls on the one that listens to the guardian."""

    def signalled(self, name: str) -> None:
        """Act on TERM, INT, QUIT, HUP, USR1 or USR2."""

    def guardian_lost(self) -> None:
        """Drain everything: the guardian has died. Called once."""


class _Hello(Struct, frozen=True):
    instance: str = ""
    draining: bool = False
    memo: bytes | None = None
    version: str | None = None
    quarantined: Mapping[str, str] = field(default_factory=dict)


class GuardianLink:
    """The channel to the guardian, and all children of this node. Make it inside the running loop."""

    def __init__(self, channel: Channel) -> None:
        self._hello = _Hello()
        self._listener: GuardianListener | None = None
        self._early: list[str] = []
        """Signals that came before anything listened."""
        self.lost = False
        """Whether the guardian is dead."""
        self.silent = False
        """Whether the guardian is frozen: three pings are unanswered, the first for 28/100 of a lease."""
        self._drains = False
        self._children: dict[tuple[int, int], Child] = {}
        self._held: Counter[int | str] = Counter()
        """How many children have a lock id, or a program: ``holds()`` is called in every look."""
        self._pinged = 0
        self._busy_at = inf
        """When a turn that ends shows the guardian that this worker lives, in CLOCK_BOOTTIME seconds."""
        self._lease = 0.0
        """The one that the latest ping has named."""
        self._unanswered: list[float] = []
        """When the first pings since the guardian's latest message were sent: it may have many to spawn first."""
        self._listed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails when the guardian has sent what cannot be read, and no program alone can bear the consequences."""
        for future in (self._listed, self.failed):
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._channel = LoopChannel(channel, self._receive, self._end, self._fail)
        self._attention = Attention(self._show_work)
        self._channel.post(messages.attend(), [self._attention.fd])

    async def greeted(self) -> Greeting:
        """Wait for the list of what the guardian holds, eight seconds at most.

        A keeper that has not reported when none has for a second is killed, and its last state at the guardian counts.
        A child of which nothing is known is not among ``found``, but ``holds()`` counts it until its tree is proven
        empty. Raises HighlanderError when the guardian is gone, silent or speaks another protocol.
        """
        done, _ = await asyncio.wait([self._listed], timeout=HELLO_WITHIN)
        if not done:
            raise HighlanderError("the guardian said nothing: it is frozen; restart highlanderd")
        self._listed.result()
        children = list(self._children.values())
        waited_for = [child for child in children if child.reachable]  # others may be reached meanwhile
        await all_done({child.reported for child in waited_for}, STATE_WITHIN, STATE_ROUNDS)
        for child in waited_for:
            if child.reachable and not child.reported.done():
                child.kill_keeper()
        found = []
        for child in children:
            if child.report is None:
                child.listen(_nobody)
            else:
                child.found()
                found.append(Found(child, child.report))
        hello = self._hello
        return Greeting(hello.instance, hello.draining, hello.memo, tuple(found), hello.version, hello.quarantined)

    def listen(self, listener: GuardianListener) -> None:
        """Report signals and the guardian's death to ``listener`` from now on, at once those that have come already."""
        self._listener = listener
        if self.lost:
            listener.guardian_lost()
        early, self._early = self._early, []
        for name in early:
            listener.signalled(name)

    def spawn(self, child: Child, request: SpawnRequest) -> None:
        """Ask for a child, and hold it. A failure is delivered to it later, never before this has returned."""
        self._hold(child)
        later = asyncio.get_running_loop().call_soon
        if self.lost:
            later(child.refused, "the guardian is dead: nothing is started any more")
            return
        try:
            spec = linux.memfd("spec", request.spec())
        except OSError as error:
            later(child.refused, f"its order cannot be written: {error.strerror}")
            return
        self._channel.post(messages.spawn(child.program, child.lock_id, child.epoch, request.not_after), [spec])

    def prepare(self, request: SpawnRequest) -> None:
        """Have a keeper forked ahead for a term that is being asked for. ``spawn`` works without it, only later."""
        if self.lost:
            return
        with suppress(OSError):
            spec = linux.memfd("spec", request.spec())
            term = request.program, request.lock_id, request.epoch
            self._channel.post(messages.prepare(*term, request.not_after), [spec])

    def discard(self, lock_id: int) -> None:
        """Have the keeper end that was forked ahead for this lock id: no term has begun."""
        self._post(messages.discard(lock_id))

    def holds(self, lock_id: int, program: str) -> bool:
        """Whether anything may live for this lock id or program: a keeper, an unanswered spawn, an unproven death."""
        return self._held[lock_id] > 0 or self._held[program] > 0

    def remember(self, memo: bytes) -> None:
        """Have the guardian send ``memo``, of any length, to each later worker."""
        if not self.lost:
            self._channel.post(messages.remember(), [linux.memfd("memo", memo)])

    @property
    def unread(self) -> bool:
        """Whether the guardian has not read yet all that was sent."""
        return self._channel.open and self._channel.unread

    def name_successor(self, pid: int, code: int, fd: int) -> None:
        """Name the process that is to be the next worker, with its code's number; ``fd`` is its channel."""
        self._channel.post(messages.successor(pid, code), [fd])

    def ping(self, lease: float) -> bool:
        """Send a sign of life, due every 3/10 of ``lease`` seconds; the first one says that the worker is ready.

        Return whether the guardian lives: False when it is dead or frozen.
        """
        self._channel.read()
        if self.lost:
            return False
        several = len(self._unanswered) >= PINGS_UNANSWERED  # one alone may be as old because this machine was paused
        self.silent = several and self._silent_for() >= FROZEN_AFTER * lease
        if not several:
            self._unanswered.append(linux.boottime())
        self._lease = lease
        self._show_life()
        return not self.silent

    def _show_life(self) -> None:
        self._pinged += 1
        self._busy_at = linux.boottime() + BUSY_AFTER * self._lease
        self._post(messages.ping(self._pinged, self._lease))

    def attention(self, program: str) -> Handling:
        """Handle a program for the block: should this worker die of it, the guardian will know.

        A worker that ends one such turn after the other is busy and not frozen: the guardian hears of it in time.
        """
        return self._attention.on(program)

    def _show_work(self) -> None:
        if linux.boottime() >= self._busy_at:
            self._show_life()

    def _silent_for(self) -> float:
        return linux.boottime() - self._unanswered[0] if self._unanswered else 0.0

    @property
    def absence(self) -> str:
        """How it is known that the guardian does nothing at present, as a sentence; empty while it lives."""
        if self.lost:
            return "the guardian has died"
        return f"the guardian has not answered for {self._silent_for():.1f} s" if self.silent else ""

    def check(self, now: float, lease: float) -> None:
        """Have keepers killed that have not read their orders for 3/10 of ``lease``: they are frozen."""
        for child in [child for child in self._children.values() if child.frozen(now, lease)]:
            with self.attention(child.program):
                child.kill_keeper()

    def order_log(self, child: Child, order: Mapping[str, object]) -> None:
        """Have a child's logger go by another order."""
        self._post(messages.log(child.term, dict(order)))

    def reopen_log(self, child: Child) -> None:
        """Have a child's logger open its files anew."""
        self._post(messages.reopen(child.term))

    def draining(self) -> None:
        """Report, once, that an orderly end has begun: each later worker goes on with it."""
        if not self._drains:
            self._drains = True
            self._post(messages.draining())

    def notify(self, words: str) -> None:
        """Have the guardian send words to the service manager, which accepts them from no other process."""
        self._post(messages.notify(words))

    def done(self, code: int) -> None:
        """Report that everything is drained: the guardian ends with ``code`` after the worker."""
        self._post(messages.done(code))

    def lend(self, listener: socket.socket) -> None:
        """Have the guardian shut a listening socket when this worker counts as dead."""
        if not self.lost:
            self._channel.post(messages.listener(), [os.dup(listener.fileno())])

    def lift(self, program: str) -> None:
        """Have the guardian forget which workers have died of this program."""
        self._post(messages.lift(program))

    def kill_keeper(self, keeper: int, why: str) -> None:
        """Have a keeper killed that cannot be used; the guardian then proves its tree empty."""
        self._post(messages.kill_keeper(keeper, why))

    def forget(self, child: Child) -> None:
        """Drop a child that is over."""
        if self._children.get((child.lock_id, child.epoch)) is child:
            del self._children[child.lock_id, child.epoch]
            self._held.subtract((child.lock_id, child.program))

    def _post(self, message: Message) -> None:
        """Send a message; it is dropped when the guardian is dead."""
        if not self.lost:
            self._channel.post(message)

    def _hold(self, child: Child) -> None:
        former = self._children.get((child.lock_id, child.epoch))
        if former is not None:
            self.forget(former)
        self._children[child.lock_id, child.epoch] = child
        self._held.update((child.lock_id, child.program))

    def _receive(self, message: Message, fds: list[int]) -> None:
        """Act on a message. One about a term that cannot be used costs that term; its child still counts as alive."""
        self._unanswered.clear()
        self.silent = False
        try:
            if shapes.check(protocol.WORKER, message):  # a newer guardian may send messages that are not known here
                HANDLERS[message["is"]](self, message, fds)
        except Exception as error:
            if not shapes.names_term(message):
                raise
            self._child(message).fail(error)

    def _fail(self, error: Exception) -> None:
        """Take in that the guardian has sent what cannot be read: this worker ends, and another one listens anew."""
        for future in (self._listed, self.failed):
            if not future.done():
                future.set_exception(error)

    def _on_hello(self, message: Message, fds: list[int]) -> None:
        if message["protocol"] != protocol.VERSION:
            self._listed.set_exception(
                HighlanderError(
                    f"the guardian speaks protocol {message['protocol']}, not {protocol.VERSION}: restart highlanderd"
                )
            )
        memo = None
        for fd in fds:
            memo = linux.read_whole(fd)
            os.close(fd)
        version, quarantined = message.get("version"), message.get("quarantined", {})
        self._hello = _Hello(message["instance"], message["draining"], memo, version, quarantined)
        for name in message["signals"]:
            self._signalled(name)

    def _on_keeper(self, message: Message, fds: list[int]) -> None:
        self._child(message).attached(message["id"], Channel.of(fds[0]) if fds else None)

    def _on_logger(self, message: Message, fds: list[int]) -> None:
        child = self._children.get((message["lock_id"], message["epoch"]))
        if child is not None and fds:
            child.logged(fds[0])
        else:
            for fd in fds:
                os.close(fd)

    def _on_term(self, message: Message, _fds: list[int]) -> None:
        self._child(message).stranded(message["id"], KeeperReport.of(message["state"]))

    def _child(self, message: Message) -> Child:
        """Return this term's child. One that is over, which the guardian does not know yet, gets no listener."""
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
            child.refused(message["why"])

    def _on_emptied(self, message: Message, _fds: list[int]) -> None:
        self._channel.post(messages.ack(message["lock_id"], message["epoch"]))
        child = self._children.get((message["lock_id"], message["epoch"]))
        if child is not None and child.kept:
            child.proven_empty()

    def _on_signal(self, message: Message, _fds: list[int]) -> None:
        self._signalled(message["name"])

    def _signalled(self, name: str) -> None:
        if self._listener is None:
            self._early.append(name)
        else:
            self._listener.signalled(name)

    def _on_pong(self, _message: Message, _fds: list[int]) -> None:
        """Nothing more: each message says that the guardian lives."""

    def _end(self) -> None:
        self.lost = True
        undelivered = {(order["lock_id"], order["epoch"]) for order in self._channel.unsent if order["is"] == "spawn"}
        self._channel.close()
        if not self._listed.done():
            self._listed.set_exception(HighlanderError("the guardian is dead; restart highlanderd"))
        for term in undelivered & self._children.keys():
            self._children[term].refused("the guardian died before it was told")
        if self._listener is not None:
            self._listener.guardian_lost()


HANDLERS: Mapping[str, Callable[[GuardianLink, Message, list[int]], None]] = {
    "hello": GuardianLink._on_hello,
    "keeper": GuardianLink._on_keeper,
    "term": GuardianLink._on_term,
    "logger": GuardianLink._on_logger,
    "listed": GuardianLink._on_listed,
    "refused": GuardianLink._on_refused,
    "emptied": GuardianLink._on_emptied,
    "signal": GuardianLink._on_signal,
    "pong": GuardianLink._on_pong,
}


async def all_done(awaited: Set[asyncio.Future[None]], within: float, rounds: int) -> None:
    """Wait until all are done, or until none was for ``within`` seconds; for so many times that at most."""
    for _ in range(rounds if awaited else 0):
        done, awaited = await asyncio.wait(awaited, timeout=within)
        if not done or not awaited:
            return


def _nobody(event: ChildEvent) -> None:
    """Drop the events of a child that has no owner: it was never found, or is over."""
    del event
