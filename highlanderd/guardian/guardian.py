"""The process above all others of a daemon: it replaces the worker, forks the keepers, and buries what they leave.

It never talks to PostgreSQL, reads no configuration and imports nothing outside the standard library, so that nothing
of that can break it: children live through whatever happens to the worker. Executed by path, with ``-I -S``.
"""

from __future__ import annotations

import gc
import os
import resource
import sys

if __name__ == "__main__":  # last, so that nothing beside our package can stand in for the standard library
    sys.path.append(os.path.abspath(__file__).rsplit("/", 3)[0])

from highlanderd.guardian import cgroup, protocol
from highlanderd.guardian.keepers import Keepers
from highlanderd.guardian.watchdog import OVERDUE, ServiceNotifier
from highlanderd.guardian.worker import Worker
from highlanderd.system import linux, proctree
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Callable

    from highlanderd.guardian.channel import Message

PASSED_ON: dict[int, str] = {
    getattr(signal, f"SIG{name}"): name for name in ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2")
}
ORDERLY_END = frozenset({"TERM", "INT", "QUIT"})
OVERSLEPT = 0.05  # seconds; later than this, the machine was paused or we were stopped, and others perhaps too
SWEEP_WITHIN = 5.0  # seconds; SIGKILL takes milliseconds
HOPELESS_AFTER = 3  # starts in a row that failed; an end in good order is worth more than one try
FAILED = 1


class Guardian:
    """One loop over signals, time and channels. Everything in it is told by one of these, and nothing waits."""

    def __init__(
        self,
        worker: Worker,
        service: ServiceNotifier,
        children: proctree.Children,
        instance: str,
        nofile: tuple[int, int],
    ) -> None:
        self._worker, self._service, self._instance = worker, service, instance
        self._signals = linux.Signals([signal.SIGCHLD, *PASSED_ON])
        self._watch = linux.Poller()
        self._watch.add(self._signals)
        self._keepers = Keepers(worker, self._watch, self._signals, children, instance, nofile)
        self._memo: int | None = None
        """What the workers want remembered: a memfd."""
        self._unheard: list[str] = []
        """Signals that came while no worker was there."""
        self._draining = False
        self._code: int | None = None
        """The exit code that the worker has asked for."""

    def run(self) -> int:
        """Guard until an orderly end is complete; gives the exit code."""
        self._watch.by(linux.boottime())
        self._judge(linux.boottime())
        while not self._ended():  # after each judgement: the last burial may be the end, and nobody would wake us
            self._turn()
            self._judge(linux.boottime())
        return FAILED if self._code is None else self._code

    def _ended(self) -> bool:
        alive = self._worker.pid is not None or self._keepers
        return not alive and (self._code is not None or self._hopeless())

    def _hopeless(self) -> bool:
        """An orderly end was asked for, and no worker comes up to lead it."""
        return self._draining and self._worker.pid is None and self._worker.failed_starts >= HOPELESS_AFTER

    # -------------------------------------------------------------------------------------------------- turn by turn

    def _turn(self) -> None:
        """Wait for news, and take them in: keepers before the worker, who may already act on what they have told."""
        worker = self._worker.channel
        if worker is not None:
            self._watch.add(worker, writable=bool(worker.unsent))
        ready = self._watch.wait()
        self._keepers.hear(ready)
        if worker is not None and worker.fileno() in ready:
            worker.flush()
            self._hear_worker()
        for signum in self._signals.take():
            if signum == signal.SIGCHLD:
                self._reap(linux.boottime())
            else:
                self._pass_on(PASSED_ON[signum])

    def _left(self) -> float:
        """Return the seconds after which the service manager must not wait any longer for us."""
        return self._keepers.left(linux.boottime(), OVERDUE)

    def _judge(self, now: float) -> None:
        """Do what time asks for, once it does, and set when it asks again."""
        if self._service.pressed:
            self._service.relieve(self._left())
        if now < self._watch.at:
            return
        if now > self._watch.at + OVERSLEPT:
            self._worker.spare(now)
        self._judge_worker(now)
        over = self._code is not None and self._worker.pid is None
        if over or self._hopeless():
            self._keepers.dismiss(empty=not over)
        self._watch.set(min(self._keepers.judge(now), linux.NEVER if over else self._worker.due()))

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
            else:
                self._keepers.reaped(pid, status)
            self._watch.by(now)

    def _pass_on(self, name: str) -> None:
        self._draining = self._draining or name in ORDERLY_END
        message = protocol.signalled(name)
        if self._worker.channel is None:
            self._unheard += [] if name in self._unheard else [name]
        elif message not in self._worker.channel.unsent:
            self._worker.tell(message)

    # ------------------------------------------------------------------------------------------------------ the worker

    def _judge_worker(self, now: float) -> None:
        if now < self._worker.due():
            return
        if self._worker.pid is not None:
            self._hear_worker()  # only silence after everything was read is silence
            if now >= self._worker.due():
                self._worker.say(f"the worker (pid {self._worker.pid}) shows no sign of life: killing it")
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
            self._worker.say(f"no worker can be started: {error.strerror}; trying again")
            self._worker.failed_starts += 1
            self._worker.plan(now)
            return
        hello = protocol.hello(self._instance, draining=self._draining, memo=bool(memo), signals=self._unheard)
        self._worker.tell(hello, *memo)
        self._unheard = []
        self._keepers.recount()

    def _hear_worker(self) -> None:
        try:
            while self._worker.channel is not None and (received := self._worker.channel.receive()) is not None:
                message, fds = received
                heard = HANDLERS.get(message["is"])
                if heard is not None:  # a newer worker may know more words
                    heard(self, message, fds)
                for fd in fds:
                    os.close(fd)
        except EOFError:
            self._hang_up_worker()

    def _on_ping(self, message: Message, _fds: list[int]) -> None:
        self._worker.tell(protocol.pong(message["n"]))
        self._keepers.lease = message["lease"]
        if self._code is None:
            self._service.cycled(message["lease"], self._left())
            self._worker.pinged(message["lease"], linux.boottime())
            self._watch.by(self._worker.due())

    def _on_spawn(self, message: Message, fds: list[int]) -> None:
        self._keepers.spawn(message, fds)

    def _on_remember(self, _message: Message, fds: list[int]) -> None:
        if fds:
            if self._memo is not None:
                os.close(self._memo)
            self._memo = fds.pop()

    def _on_kill(self, message: Message, _fds: list[int]) -> None:
        self._keepers.kill(message["id"])

    def _on_ack(self, message: Message, _fds: list[int]) -> None:
        self._keepers.acknowledge(message["lock_id"], message["epoch"])

    def _on_draining(self, _message: Message, _fds: list[int]) -> None:
        self._draining = True

    def _on_notify(self, message: Message, _fds: list[int]) -> None:
        self._service.tell(message["words"])

    def _on_done(self, message: Message, _fds: list[int]) -> None:
        self._code = message["code"]
        self._service.spare(self._left())
        self._worker.end_soon(linux.boottime())
        self._watch.by(self._worker.due())

    def _hang_up_worker(self) -> None:
        """It has closed its end: it is ending, or useless."""
        channel = self._worker.channel
        if channel is not None:
            self._watch.drop(channel)
            self._unheard += [message["name"] for message in channel.unsent if message["is"] == "signal"]
        self._worker.hang_up()
        self._worker.end_soon(linux.boottime())
        self._watch.by(self._worker.due())

    def _lose_worker(self, status: int, now: float) -> None:
        self._worker.pid = None
        self._hear_worker()  # its last words
        if self._worker.channel is not None:
            self._hang_up_worker()
        self._worker.ended(now)
        self._service.spare(self._left())
        if self._code is None:
            self._worker.say(
                f"the worker has ended ({_shown(status)}); children live on, and another worker is started"
            )


HANDLERS: dict[str, Callable[[Guardian, Message, list[int]], None]] = {
    "ping": Guardian._on_ping,
    "spawn": Guardian._on_spawn,
    "remember": Guardian._on_remember,
    "kill": Guardian._on_kill,
    "ack": Guardian._on_ack,
    "draining": Guardian._on_draining,
    "notify": Guardian._on_notify,
    "done": Guardian._on_done,
}


def _shown(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _fill_standard_descriptors() -> None:
    """Read /dev/null as stdin, and have no channel where a child's stdout or stderr goes: they may come closed."""
    null = os.open("/dev/null", os.O_RDWR)
    while null <= 2:
        null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)


def _raise_file_limit() -> tuple[int, int]:
    """Let guardian and worker hold as many channels as the system allows; gives the limits that children shall have."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    return limits


def _new_instance() -> str:
    """Return a random UUID (RFC 9562, version 4); the module of that name would cost memory in every keeper."""
    data = bytearray(os.urandom(16))
    data[6], data[8] = data[6] & 0x0F | 0x40, data[8] & 0x3F | 0x80
    text = data.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def main(arguments: list[str]) -> int:
    """Guard a node: ``--lock-fd N --state DIR --node NAME -- WORKER...``. The lock is held by being inherited."""
    split = arguments.index("--")
    options = dict(zip(arguments[0:split:2], arguments[1:split:2], strict=True))
    gc.disable()  # nothing here makes cycles, and a collection would copy what keepers share with us
    linux.block_signals()
    linux.become_subreaper()
    linux.set_name("highlanderd")
    os.set_inheritable(int(options["--lock-fd"]), False)
    _fill_standard_descriptors()
    try:
        children = proctree.Children()
    except FileNotFoundError:
        linux.say(
            "highlanderd needs /proc with a kernel that has CONFIG_PROC_CHILDREN: without it no tree can be killed"
        )
        return FAILED
    instance = _new_instance()
    left = cgroup.succeed(f"{options['--state']}/instance", instance, SWEEP_WITHIN)
    if left:
        linux.say(
            f"processes of the former daemon cannot be killed, see {left[0]}/cgroup.procs; not starting beside them"
        )
        return FAILED
    worker, service = Worker(arguments[split + 1 :], options["--node"]), ServiceNotifier(os.environ, os.getpid())
    guardian = Guardian(worker, service, children, instance, _raise_file_limit())
    gc.freeze()
    return guardian.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
