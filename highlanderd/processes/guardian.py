"""The process above all others of a daemon: it replaces the worker, forks the keepers, and buries what they leave.

It never talks to PostgreSQL, reads no configuration and imports nothing outside the standard library, so that nothing
of that can break it: children live through whatever happens to the worker. Executed by path, with ``-I -S``.
"""

from __future__ import annotations

import gc
import marshal
import os
import resource
import select
import sys

if __name__ == "__main__":  # last, so that nothing beside our package can stand in for the standard library
    sys.path.append(os.path.abspath(__file__).rsplit("/", 3)[0])

from highlanderd import linux
from highlanderd.lean import signal
from highlanderd.processes import cgroup
from highlanderd.processes.channel import PROTOCOL, Channel, channel_pair
from highlanderd.processes.keeper import Keeper
from highlanderd.processes.worker import Worker

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Callable

    from highlanderd.processes.channel import Message
    from highlanderd.processes.launch import Spec

PASSED_ON: dict[int, str] = {
    getattr(signal, f"SIG{name}"): name for name in ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2")
}
ORDERLY_END = frozenset({"TERM", "INT", "QUIT"})
BURY_AGAIN = 0.1  # seconds between two rounds of killing orphans that no SIGCHLD has asked for
OVERSLEPT = 0.05  # seconds; later than this, the machine was paused or we were stopped, and others perhaps too
SWEEP_WITHIN = 5.0  # seconds; SIGKILL takes milliseconds
HOPELESS_AFTER = 3  # starts in a row that failed; an end in good order is worth more than one try
FAILED = 1


class Ward:
    """What the guardian knows of one keeper: its own fork, and the last state that it has told."""

    __slots__ = ("channel", "condemned", "directory", "pid", "state", "term")

    def __init__(self, pid: int, channel: Channel, spec: Spec, directory: str | None) -> None:
        self.pid, self.channel, self.directory = pid, channel, directory
        self.term: Message = {name: spec[name] for name in ("program", "lock_id", "epoch")}
        self.state: Message = {"empty": False, "killed": None, "deadline": spec["deadline"]}
        self.condemned = False

    def due(self, lease: float) -> float:
        """When to kill it unless it has reported by then that it kills: its deadline, and 2 % of a lease of grace."""
        if self.condemned or self.state["empty"] or self.state["killed"]:
            return float("inf")
        return float(self.state["deadline"]) + max(0.02 * lease, 0.05)

    def kill(self) -> None:
        """Kill the keeper. Its child dies with it; the rest of its tree becomes ours."""
        self.condemned = True
        os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the pid is its own


class Guardian:
    """One loop over signals, time and channels. Everything in it is told by one of these, and nothing waits."""

    def __init__(self, worker: Worker, node: str, instance: str, parent: str | None, nofile: tuple[int, int]) -> None:
        self._worker, self._node, self._instance = worker, node, instance
        self._parent, self._nofile = parent, nofile
        self._signals = linux.Signals([signal.SIGCHLD, *PASSED_ON])
        self._timer = linux.Timer()
        self._poller = select.poll()
        for waker in (self._signals, self._timer):
            self._poller.register(waker, select.POLLIN)
        self._wards: dict[int, Ward] = {}
        """By pid, until the keeper is reaped."""
        self._voices: dict[int, Ward] = {}
        """By descriptor: those whose channel is open."""
        self._bereaved: list[Ward] = []
        """Keepers that are dead, whose trees are not proven empty yet."""
        self._buried: list[Message] = []
        """Terms whose keeper is gone and whose tree is proven empty; kept until a worker acknowledges."""
        self._epochs: dict[int, int] = {}
        """The highest epoch spawned, by lock id: one term, one spawn."""
        self._strangers = set(linux.children(os.getpid()))
        """Children of whoever was executed into us, an embedded server perhaps: not ours to kill."""
        self._spawned = 0
        self._memo: int | None = None
        self._unheard: list[str] = []
        """Signals that came while no worker was there."""
        self._draining = False
        self._code: int | None = None
        """The exit code that the worker has asked for."""

    def run(self) -> int:
        """Guard until an orderly end is complete; gives the exit code."""
        self._timer.set(0)
        while not self._ended():
            self._judge(linux.boottime())
            self._turn()
        return FAILED if self._code is None else self._code

    def _ended(self) -> bool:
        alive = self._worker.pid is not None or self._wards or self._bereaved
        return not alive and (self._code is not None or self._hopeless())

    def _hopeless(self) -> bool:
        """An orderly end was asked for, and no worker comes up to lead it."""
        return self._draining and self._worker.pid is None and self._worker.failed_starts >= HOPELESS_AFTER

    # -------------------------------------------------------------------------------------------------- turn by turn

    def _turn(self) -> None:
        """Wait for news, and take them in: keepers before the worker, who may already act on what they have told."""
        worker = self._worker.channel
        if worker is not None:
            self._poller.register(worker, select.POLLIN | (select.POLLOUT if worker.unsent else 0))
        ready = {fd for fd, _ in self._poller.poll()}
        for ward in [self._voices[fd] for fd in ready if fd in self._voices]:
            self._hear(ward)
        if worker is not None and worker.fileno() in ready:
            worker.flush()
            self._hear_worker()
        for signum in self._signals.take():
            if signum == signal.SIGCHLD:
                self._reap(linux.boottime())
            else:
                self._pass_on(PASSED_ON[signum])

    def _judge(self, now: float) -> None:
        """Do what time asks for, once it does, and set the timer to when it asks again."""
        if now < self._timer.at:
            return
        if now > self._timer.at + OVERSLEPT:
            self._worker.spare(now)
        self._judge_worker(now)
        for ward in list(self._wards.values()):
            self._judge_ward(ward, now)
        self._bury()
        dues = [ward.due(self._lease()) for ward in self._wards.values()]
        if not (self._code is not None and self._worker.pid is None):
            dues.append(self._worker.due())
        if self._bereaved:
            dues.append(now + BURY_AGAIN)
        self._timer.set(min(dues, default=linux.NEVER))

    def _by(self, at: float) -> None:
        if at < self._timer.at:
            self._timer.set(at)

    def _lease(self) -> float:
        return self._worker.lease or 0.0

    # ------------------------------------------------------------------------------------------------------ the worker

    def _judge_worker(self, now: float) -> None:
        if now < self._worker.due():
            return
        if self._worker.pid is not None:
            self._hear_worker()  # only silence after everything was read is silence
            if now >= self._worker.due():
                self._say(f"the worker (pid {self._worker.pid}) shows no sign of life: killing it")
                self._worker.kill()
        elif self._code is None:
            self._start_worker(now)

    def _start_worker(self, now: float) -> None:
        try:
            memo = () if self._memo is None else (os.dup(self._memo),)
            self._worker.start(now)
        except OSError as error:
            self._say(f"no worker can be started: {error.strerror}; trying again")
            self._worker.failed_starts += 1
            self._worker.plan(now)
            return
        hello = {"is": "hello", "protocol": PROTOCOL, "instance": self._instance, "draining": self._draining}
        self._worker.tell({**hello, "memo": bool(memo), "signals": self._unheard}, *memo)
        self._unheard = []
        for ward in self._voices.values():
            self._introduce(ward)
        for term in self._buried:
            self._worker.tell({"is": "emptied", **term})
        self._worker.tell({"is": "listed"})

    def _introduce(self, ward: Ward) -> None:
        """Give a keeper of earlier days and the new worker a channel; a keeper that cannot even take that is frozen."""
        try:
            keepers, workers = channel_pair()
        except OSError:
            self._worker.tell({"is": "keeper", "id": ward.pid, **ward.term})  # unreachable: the worker has it killed
            return
        if ward.channel.send({"is": "worker"}, [keepers.fileno()]):
            self._worker.tell({"is": "keeper", "id": ward.pid, **ward.term}, workers.detach())
        elif not ward.condemned:
            ward.kill()
        keepers.close()
        workers.close()

    def _hear_worker(self) -> None:
        try:
            while self._worker.channel is not None and (received := self._worker.channel.receive()) is not None:
                message, fds = received
                _HEARD[message["is"]](self, message, fds)
                for fd in fds:
                    os.close(fd)
        except EOFError:
            self._hang_up_worker()

    def _hang_up_worker(self) -> None:
        """It has closed its end: it is ending, or useless."""
        channel = self._worker.channel
        if channel is not None:
            self._poller.unregister(channel)
            self._unheard += [message["name"] for message in channel.unsent if message["is"] == "signal"]
        self._worker.hang_up()
        self._worker.end_soon(linux.boottime())
        self._by(self._worker.due())

    def _on_ping(self, message: Message, _fds: list[int]) -> None:
        self._worker.tell({"is": "pong", "n": message["n"]})
        if self._code is None:
            self._worker.pinged(message["lease"], linux.boottime())
            self._by(self._worker.due())

    def _on_remember(self, _message: Message, fds: list[int]) -> None:
        if fds:
            if self._memo is not None:
                os.close(self._memo)
            self._memo = fds.pop()

    def _on_kill(self, message: Message, _fds: list[int]) -> None:
        ward = self._wards.get(message["id"])
        if ward is not None and not ward.condemned:
            self._say(f"the keeper of {ward.term['program']} (pid {ward.pid}) does not answer: killing it")
            ward.kill()

    def _on_ack(self, message: Message, _fds: list[int]) -> None:
        term = message["lock_id"], message["epoch"]
        self._buried = [one for one in self._buried if (one["lock_id"], one["epoch"]) != term]

    def _on_done(self, message: Message, _fds: list[int]) -> None:
        self._code = message["code"]
        self._worker.end_soon(linux.boottime())
        self._by(self._worker.due())

    def _pass_on(self, name: str) -> None:
        self._draining = self._draining or name in ORDERLY_END
        message = {"is": "signal", "name": name}
        if self._worker.channel is None:
            self._unheard += [] if name in self._unheard else [name]
        elif message not in self._worker.channel.unsent:
            self._worker.tell(message)

    # ----------------------------------------------------------------------------------------------------- the keepers

    def _on_spawn(self, message: Message, fds: list[int]) -> None:
        why = self._refusal(message)
        if why is None and not fds:
            why = "the order was lost on its way: the guardian may open no more files; raise its limit (LimitNOFILE)"
        if why is None:
            spec = {**marshal.loads(linux.read_whole(fds[0])), **message}  # noqa: S302 - our own worker wrote it
            why = self._fork_keeper(spec) if linux.boottime() < spec["deadline"] else "its deadline had passed"
        if why is not None:
            term = {name: message[name] for name in ("program", "lock_id", "epoch")}
            self._worker.tell({"is": "refused", **term, "why": f"not started: {why}"})

    def _refusal(self, order: Message) -> str | None:
        """Say why nothing may be started for this term; None when it may."""
        last = self._epochs.get(order["lock_id"])
        if last is not None and order["epoch"] <= last:
            return f"epoch {order['epoch']} is not above {last}, the last one that was started for this lock id"
        if linux.boottime() >= order["not_after"]:
            return "the order came too late; the machine is too slow or was paused"
        for ward in [*self._wards.values(), *self._bereaved]:
            if ward.term["program"] != order["program"] and ward.term["lock_id"] != order["lock_id"]:
                continue
            if ward in self._bereaved:
                return f"processes of {ward.term['program']}'s dead keeper are not proven gone yet"
            self._hear(ward)  # it may have proven its tree empty a moment ago
            if not ward.state["empty"]:
                return f"{ward.term['program']} still lives in epoch {ward.term['epoch']}"
        return None

    def _fork_keeper(self, spec: Spec) -> str | None:
        """Fork a keeper for ``spec`` and tell the worker; says why when it cannot."""
        self._spawned += 1
        directory = None
        if self._parent is not None and spec["cgroup"]:
            directory = f"{self._parent}/{cgroup.name(self._instance, self._spawned)}"
        try:
            ours, keepers = channel_pair()
            workers, theirs = channel_pair()
            pid = linux.fork(lambda: self._become_keeper(spec, keepers, theirs, directory))
        except OSError as error:
            return f"no keeper can be forked: {error.strerror}; raise the limit on processes or open files"
        keepers.close()
        theirs.close()
        ward = Ward(pid, ours, spec, directory)
        self._epochs[spec["lock_id"]] = spec["epoch"]
        self._wards[pid] = self._voices[ours.fileno()] = ward
        self._poller.register(ours, select.POLLIN)
        self._by(ward.due(self._lease()))
        self._worker.tell({"is": "keeper", "id": pid, **ward.term}, workers.detach())
        return None

    def _become_keeper(self, spec: Spec, guardian: Channel, worker: Channel, directory: str | None) -> int:
        os.setsid()
        linux.become_subreaper()
        linux.set_name(f"keep {spec['program']}")
        linux.close_all_but(0, 1, 2, self._signals.fileno(), guardian.fileno(), worker.fileno())
        os.dup2(0, 1)
        return Keeper(spec, self._signals, guardian, worker, directory).run(self._nofile)

    def _hear(self, ward: Ward) -> None:
        try:
            while ward.channel.fileno() >= 0 and (received := ward.channel.receive()) is not None:
                ward.state = received[0]
        except EOFError:
            self._hang_up(ward)
        self._by(ward.due(self._lease()))

    def _hang_up(self, ward: Ward) -> None:
        if self._voices.pop(ward.channel.fileno(), None) is not None:
            self._poller.unregister(ward.channel)
            ward.channel.close()

    def _judge_ward(self, ward: Ward, now: float) -> None:
        if now >= ward.due(self._lease()):
            self._hear(ward)
            if now >= ward.due(self._lease()):
                self._say(
                    f"the keeper of {ward.term['program']} (pid {ward.pid}) has let its deadline pass: killing it"
                )
                ward.kill()
        if (self._hopeless() and ward.state["empty"]) or (self._code is not None and self._worker.pid is None):
            self._hang_up(ward)  # no worker will ever acknowledge: it kills what there is, and ends

    # ---------------------------------------------------------------------------------------------------------- deaths

    def _reap(self, now: float) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._strangers.discard(pid)
            if pid == self._worker.pid:
                self._lose_worker(status, now)
            elif pid in self._wards:
                self._lose_keeper(self._wards[pid], status)
            self._by(now)

    def _lose_worker(self, status: int, now: float) -> None:
        self._worker.pid = None
        self._hear_worker()  # its last words
        if self._worker.channel is not None:
            self._hang_up_worker()
        self._worker.ended(now)
        if self._code is None:
            self._say(f"the worker has ended ({_shown(status)}); the children live on, and another worker is started")

    def _lose_keeper(self, ward: Ward, status: int) -> None:
        self._hear(ward)
        self._hang_up(ward)
        del self._wards[ward.pid]
        if status == 0:  # after ECHILD only
            self._conclude(ward)
        else:
            self._say(f"the keeper of {ward.term['program']} has ended ({_shown(status)}): killing what it has left")
            self._bereaved.append(ward)

    def _bury(self) -> None:
        """Kill what dead keepers have left, round by round, until no orphan is listed: that is the proof.

        A living process has a living line of parents up to us, and keepers hold their own trees. An orphan of the
        worker's, should there be one, dies with them.
        """
        if not self._bereaved:
            return
        for ward in self._bereaved:
            if ward.directory:
                cgroup.kill(ward.directory)
        known = {self._worker.pid, *self._wards, *self._strangers}
        orphans = [pid for pid in linux.children(os.getpid()) if pid not in known]
        for pid in orphans:
            linux.send(pid, signal.SIGKILL)
        if not orphans:
            bereaved, self._bereaved = self._bereaved, []
            for ward in bereaved:
                self._conclude(ward)

    def _conclude(self, ward: Ward) -> None:
        """The tree is proven empty: say so until a worker has taken it."""
        if ward.directory:
            cgroup.remove(ward.directory)
        self._buried.append(ward.term)
        self._worker.tell({"is": "emptied", **ward.term})

    def _say(self, text: str) -> None:
        linux.say(f"highlanderd on {self._node}: {text}")


_HEARD: dict[str, Callable[[Guardian, Message, list[int]], None]] = {
    "ping": Guardian._on_ping,
    "spawn": Guardian._on_spawn,
    "remember": Guardian._on_remember,
    "kill": Guardian._on_kill,
    "ack": Guardian._on_ack,
    "done": Guardian._on_done,
}


def _shown(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _raise_file_limit() -> tuple[int, int]:
    """Let guardian and worker hold as many channels as the system allows; gives the limits that children shall have."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    return limits


def _new_instance() -> str:
    """Give a random UUID (RFC 9562, version 4); the module of that name would cost memory in every keeper."""
    data = bytearray(os.urandom(16))
    data[6], data[8] = data[6] & 0x0F | 0x40, data[8] & 0x3F | 0x80
    text = data.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _succeed(state: str, instance: str, parent: str | None) -> list[str]:
    """Kill what the former instance has left in its cgroups, then write down ours; lists what cannot be killed."""
    path = f"{state}/instance"
    try:
        with open(path) as file:
            former, directory = file.read().splitlines()
    except (FileNotFoundError, ValueError):
        former, directory = "", ""
    if former and directory:
        left = cgroup.sweep(directory, former, SWEEP_WITHIN)
        if left:
            return left
    with open(f"{path}.new", "w") as file:
        file.write(f"{instance}\n{parent or ''}\n")
    os.replace(f"{path}.new", path)
    return []


def main(arguments: list[str]) -> int:
    """Guard a node: ``--lock-fd N --state DIR --node NAME -- WORKER...``. The lock is held by being inherited."""
    split = arguments.index("--")
    options = dict(zip(arguments[0:split:2], arguments[1:split:2], strict=True))
    gc.disable()  # nothing here makes cycles, and a collection would copy what keepers share with us
    linux.block_signals()
    linux.become_subreaper()
    linux.set_name("highlanderd")
    os.set_inheritable(int(options["--lock-fd"]), False)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
        linux.say(
            "highlanderd needs /proc with a kernel that has CONFIG_PROC_CHILDREN: without it no tree can be killed"
        )
        return FAILED
    instance, parent = _new_instance(), cgroup.own()
    left = _succeed(options["--state"], instance, parent)
    if left:
        linux.say(
            f"processes of the former daemon cannot be killed, see {left[0]}/cgroup.procs; not starting beside them"
        )
        return FAILED
    guardian = Guardian(Worker(arguments[split + 1 :]), options["--node"], instance, parent, _raise_file_limit())
    gc.freeze()
    return guardian.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
