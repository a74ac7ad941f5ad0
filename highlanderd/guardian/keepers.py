"""The keepers of one guardian: forked on order, listened to, connected with each new worker, and killed when frozen.

One term is one spawn, and a program has one keeper.
"""

from __future__ import annotations

import errno
import marshal
import os

from highlanderd.guardian import cgroup, messages, protocol, shapes
from highlanderd.guardian.channel import channel_pair
from highlanderd.guardian.dead_keepers import DeadKeepers
from highlanderd.guardian.deadline_notes import DeadlineNotes
from highlanderd.guardian.fork_server import ForkServer
from highlanderd.guardian.keeper_handle import KeeperHandle
from highlanderd.guardian.loggers import Loggers
from highlanderd.guardian.prepared_keepers import ForkedKeeper, PreparedKeepers
from highlanderd.system import linux, priority, proctree

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.launch import Spec
    from highlanderd.guardian.worker import Worker

AGAIN = 0.1  # seconds until what no event wakes us for is tried again: a round of killing, a connection
SOON = 0.35  # of a lease: a keeper's note is read when its known deadline is so near; judgements are 3/10 apart at most


class Keepers:
    """All keepers, living and dead. Times are seconds on CLOCK_BOOTTIME.

    ``nofile`` are the limits on open files that children get.
    """

    def __init__(
        self,
        worker: Worker,
        poller: linux.Poller,
        signals: linux.Signals,
        children: proctree.Children,
        instance: str,
        nofile: tuple[int, int],
    ) -> None:
        self._worker, self._poller, self._instance = worker, poller, instance
        self._cgroup = cgroup.own()
        """Where keepers may make the cgroups of their children."""
        self._lease = 0.0
        """As the worker's last ping had it."""
        self._living: dict[int, KeeperHandle] = {}
        """By pid, until the keeper is reaped."""
        self._by_channel: dict[int, KeeperHandle] = {}
        """By descriptor: those whose channel is open."""
        self._notes = DeadlineNotes()
        self.fork_server = ForkServer(signals, self._notes, nofile, poller)
        self.loggers = Loggers(worker, poller, self.fork_server)
        self.prepared = PreparedKeepers(poller, self.loggers)
        self._dead = DeadKeepers(worker, children, self.loggers)
        self._unconnected: list[KeeperHandle] = []
        """Keepers that the worker has no channel to yet."""
        self._epochs: dict[int, int] = {}
        """The highest epoch spawned, by lock id."""
        self._spawned = 0

    def __bool__(self) -> bool:
        """Whether anything may still live."""
        return bool(self._living or self._dead.unproven or self.prepared)

    # ------------------------------------------------------------------------------------------------------- to begin

    def prepare(self, order: Message, fds: list[int]) -> None:
        """Fork a keeper ahead, whose child waits until it is ordered. What cannot be prepared now is started later."""
        self.prepared.discard(order["lock_id"])
        if self._refusal(order) is not None or not fds:
            return
        try:
            spec = {**_spec(fds[0]), **order}
            if not spec.get("hooks"):  # a hook may be the first that is executed
                self.prepared.add(self._fork_keeper(spec, gated=True))
        except (ValueError, OSError):
            return  # the order to spawn meets the same trouble, and is answered

    def spawn(self, order: Message, fds: list[int]) -> None:
        """Have a keeper start the child, and connect it with the worker, or refuse the order."""
        why = self._refusal(order)
        if why is None and not fds:
            why = "the order was lost on its way: the guardian may open no more files; raise its limit (LimitNOFILE)"
        if why is None:
            try:
                spec = {**_spec(fds[0]), **order}
            except ValueError as error:
                why = f"its order cannot be read: {error}"
            else:
                why = self._start(spec) if linux.boottime() < spec["deadline"] else "its deadline had passed"
        if why is not None:
            self.prepared.discard(order["lock_id"])
            self._worker.send(messages.refused(protocol.term_of(order), f"not started: {why}"))

    def _refusal(self, order: Message) -> str | None:
        """Return why nothing may be started for this term; None when it may."""
        last = self._epochs.get(order["lock_id"])
        if last is not None and order["epoch"] <= last:
            return f"epoch {order['epoch']} is not above {last}, the last one that was started for this lock id"
        if linux.boottime() >= order["not_after"]:
            return "the order came too late; the machine is too slow or was paused"
        program, lock_id = order["program"], order["lock_id"]
        for handle in [*self._living.values(), *self._dead.unproven]:
            term = handle.term  # not its properties: there may be a thousand, and this is asked for each start
            if term["program"] != program and term["lock_id"] != lock_id:
                continue
            if handle in self._dead.unproven:
                return f"processes of {handle.program}'s dead keeper are not proven gone yet"
            self._receive(handle)  # it may have proven its tree empty a moment ago
            if not handle.state["empty"]:
                return f"{handle.program} still lives in epoch {handle.term['epoch']}"
        return None

    def _start(self, spec: Spec) -> str | None:
        """Have a keeper start the child: one that was forked ahead, or another. Return why not when that fails."""
        try:
            forked = self.prepared.take(spec) or self._fork_keeper(spec)
        except OSError as error:
            size = "the size of files (LimitFSIZE), which holds for memory, too"
            limit = size if error.errno == errno.EFBIG else "processes or open files"
            return f"no keeper can be forked: {error.strerror}; raise the limit on {limit}"
        handle = forked.handle
        self._epochs[spec["lock_id"]] = spec["epoch"]
        self._living[handle.pid] = self._by_channel[handle.channel.fileno()] = handle
        self._poller.add(handle.channel)
        self._poller.by(handle.kill_at(self._lease))
        self.loggers.begin(forked.spec)  # told of first: the keeper may report at once that all is over
        self._worker.send(messages.keeper(handle.number, handle.term), forked.worker.detach())
        return None

    def _fork_keeper(self, spec: Spec, *, gated: bool = False) -> ForkedKeeper:
        """Fork a keeper for ``spec``. With ``gated`` its child waits. Raises OSError when there is no room for one."""
        self._spawned += 1
        directory = None
        if self._cgroup is not None and spec["cgroup"]:
            directory = f"{self._cgroup}/{cgroup.name(self._instance, self._spawned)}"
        logged: dict[str, int] = {}
        place = self._notes.take()
        try:
            logged = self.loggers.open(spec)
            workers, theirs = channel_pair()
            order = messages.become_keeper(place, directory, list(logged), gated=gated)
            pid, ours = self.fork_server.fork(order, spec, [theirs.fileno(), *logged.values()])
        except OSError:
            self._notes.give_back(place)
            self.loggers.drop(spec)
            raise
        finally:
            for fd in logged.values():
                os.close(fd)
        theirs.close()
        handle = KeeperHandle(self._spawned, pid, ours, spec, directory, self._notes, place)
        return ForkedKeeper(handle, workers, spec)

    # ----------------------------------------------------------------------------------------------- a new worker

    def list_to_worker(self) -> None:
        """Send a new worker every term, a channel to each keeper, and every proof that was not acknowledged.

        The terms come first. A term counts until its tree is proven empty, even if its keeper is dead or silent:
        nothing may be started in its place, and its lock may not be released.
        """
        for handle in list(self._living.values()):
            self._receive(handle)
        for handle in [*self._living.values(), *self._dead.unproven]:
            handle.look()
            self._worker.send(messages.term(handle.number, handle.term, handle.state))
        self.loggers.list_to_worker()
        self._unconnected = list(self._living.values())
        self._connect_all()
        for term in self._dead.proven:
            self._worker.send(messages.emptied(term))
        self._worker.send(messages.listed())

    def _connect_all(self) -> None:
        """Connect keepers with the worker. What the system refuses now is tried again: it counts descriptors in flight.

        A keeper that reads nothing stays unconnected until its deadline, because no worker can move that.
        """
        self._unconnected = [
            handle
            for handle in self._unconnected
            if handle.channel.fileno() >= 0 and not handle.killed and not self._connect(handle)
        ]

    def _connect(self, handle: KeeperHandle) -> bool:
        """Connect a keeper with the worker; False when that is refused now, or messages wait in the worker's queue."""
        worker = self._worker.channel
        if worker is None or worker.unsent:
            return False
        try:
            keepers, workers = channel_pair()
        except OSError:
            return False
        connected = handle.channel.send(messages.worker(), [keepers.fileno()]) and worker.send(
            messages.keeper(handle.number, handle.term), [workers.fileno()]
        )
        keepers.close()
        workers.close()
        return connected

    # ----------------------------------------------------------------------------------------------- while they live

    def follow(self, lease: float) -> None:
        """Judge keepers by a lease of so many seconds from now on."""
        self._lease = lease
        self.fork_server.follow(lease)

    def receive(self, ready: set[int]) -> None:
        """Take in the states that came through ``ready`` descriptors."""
        for handle in [self._by_channel[fd] for fd in ready & self._by_channel.keys()]:
            self._receive(handle)

    def _receive(self, handle: KeeperHandle) -> None:
        try:
            while handle.channel.fileno() >= 0 and (received := handle.channel.receive()) is not None:
                if shapes.check(protocol.GUARDIAN, received[0]):
                    self._take_in(handle, received[0])
                if handle.state["empty"]:
                    self.loggers.leave(handle.term)
        except EOFError:
            self._hang_up(handle)
        except ValueError as error:
            self._worker.log(f"the keeper of {handle.program} has sent what cannot be read ({error}): killing it")
            self._hang_up(handle)
            handle.kill()
        self._poller.by(handle.kill_at(self._lease))

    def _take_in(self, handle: KeeperHandle, state: Message) -> None:
        """Take in a state, and log what the keeper has begun to do by itself."""
        before, now = handle.state["killed"], state["killed"]
        if state["started"] is not None and handle.state["started"] is None:
            self.loggers.hasten(handle.term)
        handle.receive(state)
        if now == "deadline" and not before:
            epoch = handle.term["epoch"]
            self._worker.log(
                f"{handle.program}: its keeper kills it in epoch {epoch}, because the lease was not renewed in time",
                linux.ERROR,
            )

    def _hang_up(self, handle: KeeperHandle) -> None:
        if self._by_channel.pop(handle.channel.fileno(), None) is not None:
            self._poller.drop(handle.channel)
            handle.channel.close()

    def judge(self, now: float) -> float:
        """Kill keepers that are frozen, and what dead ones have left; return when to judge again."""
        soon = now + SOON * self._lease
        for handle in list(self._living.values()):
            if soon >= handle.kill_at(self._lease):
                handle.look()
            if now >= handle.kill_at(self._lease):
                self._receive(handle)  # it is silent only if nothing is left to read
                if now >= handle.kill_at(self._lease):
                    self._worker.log(f"the keeper of {handle.program} {handle.fault}: killing it", linux.ERROR)
                    handle.kill()
        self._dead.kill(self._living.keys() | self.prepared.pids() | self.loggers.pids() | self.fork_server.pids())
        self._connect_all()
        unfinished = bool(self._dead.unproven) or not priority.restore_priority() or bool(self._unconnected)
        again = now if self._dead.again_at_once else now + AGAIN
        moments = [handle.kill_at(self._lease) for handle in self._living.values()]
        moments += [self.prepared.judge(now), self.loggers.judge(now), self.fork_server.ahead.judge(now)]
        return min(moments + ([again] if unfinished else []), default=linux.NEVER)

    @property
    def running(self) -> int:
        """How many trees run that are not being killed."""
        return sum(not handle.ending for handle in self._living.values())

    def left(self, now: float, grace: float) -> float:
        """Return the seconds until a deadline is missed by ``grace`` of a lease: its tree is not even being killed."""
        running = [handle for handle in self._living.values() if not handle.ending]
        for handle in running:
            handle.look()
        moments = (handle.state["deadline"] for handle in running)
        return min(moments, default=linux.NEVER) + grace * self._lease - now

    def kill(self, number: int, why: str) -> None:
        """Kill a keeper that the worker cannot use."""
        for handle in self._living.values():
            if handle.number == number:
                self._worker.log(f"the keeper of {handle.program} {why}: killing it", linux.ERROR)
                handle.kill()

    def dismiss(self, empty: bool) -> None:
        """Close the channels to keepers: no worker will acknowledge anything any more.

        A keeper then kills what there is, and ends. ``empty``: only keepers whose trees are empty already.
        """
        self.prepared.discard_all()
        for handle in list(self._living.values()):
            if handle.state["empty"] or not empty:
                self._hang_up(handle)
                handle.dismiss()

    # -------------------------------------------------------------------------------------------------------- deaths

    def reaped(self, pid: int, status: int) -> None:
        """Take in the death of a child of the guardian."""
        self._dead.reaped(pid)
        if self.fork_server.reaped(pid) or self.loggers.reaped(pid, status) or self.prepared.reaped(pid):
            return
        handle = self._living.get(pid)
        if handle is None:
            return
        self._receive(handle)  # what it has sent before its death
        self._hang_up(handle)
        handle.reaped()
        del self._living[pid]
        if status == 0 or handle.state["empty"]:  # it reports an empty tree, and ends with 0, after ECHILD only
            self._dead.conclude(handle)
        else:
            self._worker.log(f"the keeper of {handle.program} is dead: killing what it has left", linux.ERROR)
            self._dead.bury(handle)

    def acknowledge(self, lock_id: int, epoch: int) -> None:
        """Forget a term: a worker knows that its tree is empty."""
        self._dead.acknowledge(lock_id, epoch)


def _spec(fd: int) -> Spec:
    """Read a worker's request. Raises ValueError when it is none."""
    try:
        spec = marshal.loads(linux.read_whole(fd))  # noqa: S302 - our own worker wrote it
    except (EOFError, TypeError) as error:
        raise ValueError(str(error)) from error
    if type(spec) is not dict:
        raise ValueError("it is no dict")
    shapes.check_keys(spec, protocol.SPEC, protocol.LATER_SPEC)
    if spec.get("log") is not None:
        shapes.check_keys(spec["log"], protocol.LOG, protocol.LATER_LOG)
    if spec.get("foreground") is not None:
        shapes.check_keys(spec["foreground"], protocol.FOREGROUND)
    return spec
