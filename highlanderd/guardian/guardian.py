"""The main process of a daemon: it starts the worker, forks the keepers, and outlives whatever happens to the worker.

Theory of operation
===================

The worker does everything that needs a network, a library or a decision, so the worker is what may break. Children must
live through that. Therefore their keepers are forked from this process and not from the worker. It never talks to
PostgreSQL, reads no configuration, and imports nothing but the standard library. It is executed by path, with
``-I -S``, by the process that was the daemon's entry; that process' open lock on the state directory is inherited.

One loop waits for signals, for one moment in time, and for the channels to worker and keepers; ``protocol.py`` lists
the messages. Each turn

1. reads what the keepers have sent, and then what the worker has sent: the worker may act on a keeper's state already,
   and the guardian must not know less;
2. reaps what has died;
3. judges, if the moment has come, or an event has drawn it nearer: worker and keepers that are frozen get SIGKILL, what
   dead keepers have left gets SIGKILL, a worker is started if none runs, and the next moment is set.

A process is judged as frozen only after everything that it has sent was read. After a pause of the whole machine the
worker gets its time again; keepers do not, because leases have run on (times are CLOCK_BOOTTIME).

What the guardian holds for the worker, and sends to each new one:

* each term, with a channel to its keeper, until its tree is proven empty and a worker has acknowledged that
* the bytes of ``remember``, whether an orderly end has begun, and signals that came while no worker was running
* which programs two workers have died of: ``suspects.py``

A term counts until the proof, so no lock is released and nothing is started while a tree may live. The proof is the
keeper's ECHILD, or, for a dead keeper, that no orphan is left below the guardian; see ``dead_keepers.py``.

The guardian ends when worker, keepers and trees are all gone, and the worker has sent ``done`` before. Without ``done``
it ends only if an orderly end has begun and three workers in a row have failed to start. TERM, INT and QUIT begin an
orderly end, but the worker leads it; the guardian alone ends for none of them. If the guardian is killed, the worker
drains everything. ``docs/explanation/processes.md`` has the table of who notices whose death.
"""

from __future__ import annotations

import gc
import os
import sys

if __name__ == "__main__":  # at the end of the path: nothing there can replace the standard library
    sys.path.append(os.path.abspath(__file__).rsplit("/", 3)[0])

from highlanderd import __version__

# The keeper first: what keepers touch then lies together in memory, and each copies 60 KiB less of what is shared.
from highlanderd.guardian import deadline_notes, keeper, leaf, messages, protocol, shapes, starting  # noqa: F401
from highlanderd.guardian.keepers import Keepers
from highlanderd.guardian.spare import Spare
from highlanderd.guardian.suspects import DEATHS, Suspects
from highlanderd.guardian.watchdog import OVERDUE, ServiceNotifier
from highlanderd.guardian.worker import Worker
from highlanderd.system import linux, proctree
from highlanderd.system.immortal import make_all_immortal
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Callable

    from highlanderd.guardian.channel import Message

PASSED_ON: dict[int, str] = {
    getattr(signal, f"SIG{name}"): name for name in ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2")
}
ORDERLY_END = frozenset({"TERM", "INT", "QUIT"})
OVERSLEPT = 0.05  # seconds; woken later than this, the guardian was stopped or the machine paused: others, too, perhaps
HOPELESS_AFTER = 3  # starts in a row that failed; an end in good order is worth more than one try
FAILED = 1


class Guardian:
    """One loop over signals, time and channels. Nothing else in it waits."""

    def __init__(
        self,
        worker: Worker,
        service: ServiceNotifier,
        children: proctree.Children,
        instance: str,
        nofile: tuple[int, int],
        front: int | None = None,
    ) -> None:
        self._front = front
        """The pid of the command that was typed, our parent while it lives; None for a daemon."""
        self._worker, self._service, self._instance = worker, service, instance
        self._signals = linux.Signals([signal.SIGCHLD, *PASSED_ON])
        self._poller = linux.Poller()
        self._poller.add(self._signals)
        self._keepers = Keepers(worker, self._poller, self._signals, children, instance, nofile)
        self._memo: int | None = None
        """A memfd: what the workers have asked to remember."""
        self._suspects = Suspects()
        self._pending_signals: list[str] = []
        """Signals that came while no worker was there."""
        self._draining = False
        self._code: int | None = None
        """The exit code that the worker has asked for."""

    def run(self) -> int:
        """Guard until an orderly end is complete; return the exit code."""
        self._poller.by(linux.boottime())
        self._judge_worker(linux.boottime())
        make_all_immortal()  # while the worker begins, and before there is a fork server, which keepers share all with
        self._keepers.fork_server.begin()
        while not self._ended():  # looked at after each judgement: no event would follow the last proof
            self._turn()
            self._judge(linux.boottime())
        return FAILED if self._code is None else self._code

    def _ended(self) -> bool:
        alive = self._worker.pid is not None or self._keepers or self._keepers.loggers
        return not alive and (self._code is not None or self._hopeless())

    def _hopeless(self) -> bool:
        """An end was asked for, or nobody waits for us any more, and no worker comes up to lead it."""
        fails = self._worker.pid is None and self._worker.failed_starts >= HOPELESS_AFTER
        return fails and (self._draining or self._front not in (None, os.getppid()))

    # -------------------------------------------------------------------------------------------------- turn by turn

    def _turn(self) -> None:
        """Wait for events and take them in: keepers before the worker, which may act on their states already."""
        worker = self._worker.channel
        if worker is not None:
            self._poller.add(worker, writable=bool(worker.unsent))
        ready = self._poller.wait()
        self._keepers.receive(ready)
        self._keepers.loggers.receive(ready)
        if worker is not None and worker.fileno() in ready:
            worker.flush()
            self._receive_from_worker()
        for signum in self._signals.take():
            if signum == signal.SIGCHLD:
                self._reap(linux.boottime())
            else:
                self._pass_on(PASSED_ON[signum])

    def _left(self) -> float:
        """Return the seconds until the service manager must kill the daemon, should it freeze now, if it watches."""
        return self._keepers.left(linux.boottime(), OVERDUE) if self._service.watches else linux.NEVER

    def _judge(self, now: float) -> None:
        """Do what is due by now, and set the next moment."""
        if self._service.shortened:
            self._service.lengthen(self._left())
        if not self._worker.speaks and self._code is None:  # what the last worker has said holds no more
            self._service.show(f"no worker answers; programs that run on: {self._keepers.running}")
        if now < self._poller.at:
            return
        if now > self._poller.at + OVERSLEPT:
            self._worker.renew_time(now)
        self._judge_worker(now)
        over = self._code is not None and self._worker.pid is None
        if over or self._hopeless():
            self._keepers.dismiss(empty=not over)
            if not self._keepers:
                self._keepers.loggers.dismiss(now)
        self._poller.set(min(self._keepers.judge(now), linux.NEVER if over else self._worker.judge_at()))

    def _reap(self, now: float) -> None:
        while True:
            try:
                pid, status = linux.reap()
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._worker.pid:
                self._lose_worker(status, now)
            elif pid in self._worker.lingering:
                self._worker.lingering.discard(pid)
            else:
                self._keepers.reaped(pid, status)
            self._poller.by(now)

    def _pass_on(self, name: str) -> None:
        if name == "USR1":
            self._keepers.loggers.reopen()
        self._draining = self._draining or name in ORDERLY_END
        message = messages.signalled(name)
        if self._worker.channel is None:
            self._pending_signals += [] if name in self._pending_signals else [name]
        elif message not in self._worker.channel.unsent:
            self._worker.send(message)

    # ------------------------------------------------------------------------------------------------------ the worker

    def _judge_worker(self, now: float) -> None:
        if now < self._worker.judge_at():
            return
        if self._worker.pid is not None:
            self._receive_from_worker()  # it is silent only if nothing is left to read
            if self._worker.killed:
                if now >= self._worker.judge_at() and self._worker.lingers(now):
                    self._lose_worker(int(signal.SIGKILL), now)
            elif now >= self._worker.judge_at():
                self._worker.log(f"the worker (pid {self._worker.pid}) shows no sign of life: killing it")
                self._worker.kill()
        elif self._code is None:
            self._start_worker(now)

    def _start_worker(self, now: float) -> None:
        memo: tuple[int, ...] = ()
        try:
            memo = () if self._memo is None else (os.dup(self._memo),)
            self._worker.start(now)
        except OSError as error:
            for fd in memo:
                os.close(fd)
            self._worker.log(f"no worker can be started: {error.strerror}; trying again", linux.ERROR)
            self._worker.not_started(now)
            return
        hello = messages.hello(
            self._instance,
            draining=self._draining,
            memo=bool(memo),
            signals=self._pending_signals,
            version=__version__,
            quarantined=self._suspects.quarantined,
        )
        self._worker.send(hello, *memo)
        self._pending_signals = []
        self._keepers.list_to_worker()

    def _receive_from_worker(self) -> None:
        """Obey the worker. One that sends what cannot be read is replaced: what it wants is not known."""
        try:
            while self._worker.channel is not None and (received := self._worker.channel.receive()) is not None:
                self._obey(*received)
        except EOFError:
            self._hang_up_worker()
        except ValueError as error:
            self._worker.log(f"the worker has sent what cannot be read ({error}): killing it")
            self._worker.kill()
            self._hang_up_worker()

    def _obey(self, message: Message, fds: list[int]) -> None:
        try:
            if shapes.check(protocol.GUARDIAN, message):  # a newer worker may send messages that are not known here
                HANDLERS[message["is"]](self, message, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _on_ping(self, message: Message, _fds: list[int]) -> None:
        self._worker.send(messages.pong(message["n"]))
        self._keepers.follow(message["lease"])
        if self._code is None:
            self._service.cycled(message["lease"], self._left())
            self._worker.pinged(message["lease"], linux.boottime())
            self._poller.by(self._worker.judge_at())

    def _on_spawn(self, message: Message, fds: list[int]) -> None:
        self._keepers.spawn(message, fds)

    def _on_prepare(self, message: Message, fds: list[int]) -> None:
        self._keepers.prepare(message, fds)

    def _on_discard(self, message: Message, _fds: list[int]) -> None:
        self._keepers.prepared.discard(message["lock_id"])

    def _on_remember(self, _message: Message, fds: list[int]) -> None:
        if fds:
            if self._memo is not None:
                os.close(self._memo)
            self._memo = fds.pop()

    def _on_attend(self, _message: Message, fds: list[int]) -> None:
        if fds:
            self._suspects.attend(fds.pop())

    def _on_listener(self, _message: Message, fds: list[int]) -> None:
        if fds:
            self._worker.lend(fds.pop())

    def _on_lift(self, message: Message, _fds: list[int]) -> None:
        self._suspects.lift(message["program"])

    def _on_kill(self, message: Message, _fds: list[int]) -> None:
        self._keepers.kill(message["id"], message.get("why", "does not answer"))

    def _on_ack(self, message: Message, _fds: list[int]) -> None:
        self._keepers.acknowledge(message["lock_id"], message["epoch"])

    def _on_reopen(self, message: Message, _fds: list[int]) -> None:
        self._keepers.loggers.reopen(protocol.term_of(message))

    def _on_log(self, message: Message, _fds: list[int]) -> None:
        self._keepers.loggers.order(protocol.term_of(message), message["order"])

    def _on_draining(self, _message: Message, _fds: list[int]) -> None:
        self._draining = True

    def _on_notify(self, message: Message, _fds: list[int]) -> None:
        self._service.send(message["words"])
        self._worker.speaks = True

    def _on_successor(self, message: Message, fds: list[int]) -> None:
        if fds:
            self._worker.replace_spare(message["code"], fds.pop(), message["pid"])

    def _on_done(self, message: Message, _fds: list[int]) -> None:
        self._code = message["code"]
        self._worker.dismiss_spare()
        self._service.expect_no_cycles(self._left())
        self._worker.end_soon(linux.boottime())
        self._poller.by(self._worker.judge_at())

    def _hang_up_worker(self) -> None:
        """Take in that the worker has closed its end: it is ending, or useless."""
        channel = self._worker.channel
        if channel is not None:
            self._poller.drop(channel)
            self._pending_signals += [message["name"] for message in channel.unsent if message["is"] == "signal"]
        self._keepers.prepared.discard_all()
        self._worker.hang_up()
        self._worker.end_soon(linux.boottime())
        self._poller.by(self._worker.judge_at())

    def _lose_worker(self, status: int, now: float) -> None:
        self._worker.reaped()
        self._receive_from_worker()  # what it has sent before its death
        if self._worker.channel is not None:
            self._hang_up_worker()
        handled = self._suspects.worker_died(status, now, stopped=self._worker.stopped)
        self._worker.ended(now, gave_way=status == 0)
        self._service.expect_no_cycles(self._left())
        if self._code is None:
            at = "" if handled is None else f" while it handled {handled}"
            self._worker.log(
                f"the worker has ended{at} ({linux.ending(status)}); children live on, and another worker is started",
                linux.WARNING if status else linux.INFO,
            )
        if handled in self._suspects.quarantined:
            self._worker.log(
                f"{handled} is quarantined: {DEATHS} workers have died while they handled it; its child is killed, and "
                f"'highlanderctl start {handled}' tries again",
                linux.ERROR,
            )


HANDLERS: dict[str, Callable[[Guardian, Message, list[int]], None]] = {
    "ping": Guardian._on_ping,
    "spawn": Guardian._on_spawn,
    "prepare": Guardian._on_prepare,
    "discard": Guardian._on_discard,
    "remember": Guardian._on_remember,
    "attend": Guardian._on_attend,
    "lift": Guardian._on_lift,
    "listener": Guardian._on_listener,
    "successor": Guardian._on_successor,
    "kill": Guardian._on_kill,
    "ack": Guardian._on_ack,
    "log": Guardian._on_log,
    "reopen": Guardian._on_reopen,
    "draining": Guardian._on_draining,
    "notify": Guardian._on_notify,
    "done": Guardian._on_done,
}


def main(arguments: list[str]) -> int:
    """Guard a node: ``--lock-fd N --state DIR --node NAME -- WORKER...``; return the exit code.

    The inherited descriptor holds the lock. ``--front PID``: the command that was typed;
    a child shall read its standard input.
    ``--spare FD,PID,CODE``: this process has forked the first worker before it became the guardian.
    """
    split = arguments.index("--")
    options = dict(zip(arguments[0:split:2], arguments[1:split:2], strict=True))
    gc.disable()  # there are no cycles, and a collection would write to memory that keepers share
    linux.block_signals()
    linux.become_subreaper()
    linux.set_name("highlanderd")
    os.set_inheritable(int(options["--lock-fd"]), False)
    front = int(options["--front"]) if "--front" in options else None
    starting.fill_standard_descriptors(keep_input=front is not None)
    try:
        children = proctree.Children()
    except FileNotFoundError:
        linux.log(
            "highlanderd needs /proc with a kernel that has CONFIG_PROC_CHILDREN: without it no tree can be killed"
        )
        return FAILED
    leaf.settle()
    instance = starting.new_instance()
    if not starting.succeed(options["--state"], instance):
        return FAILED
    spare = Spare.forked_before(options["--spare"]) if "--spare" in options else None
    worker = Worker(arguments[split + 1 :], options["--node"], spare)
    service = ServiceNotifier(os.environ, os.getpid())
    guardian = Guardian(worker, service, children, instance, starting.raise_file_limit(), front)
    gc.freeze()
    return guardian.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
