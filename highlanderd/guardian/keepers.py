"""The keepers as the guardian sees them: forked on order, listened to, killed when frozen, and buried with their trees.

One term is one spawn, and a program has one keeper. What a keeper leaves when it dies is killed here, and nothing is
called empty before that is proven.
"""

from __future__ import annotations

import marshal
import os

from highlanderd.guardian import cgroup, protocol
from highlanderd.guardian.channel import Channel, channel_pair
from highlanderd.guardian.keeper import Keeper
from highlanderd.guardian.killing import TreeKill, unkillable
from highlanderd.system import linux, priority, proctree
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.launch import Spec
    from highlanderd.guardian.worker import Worker

SHORTEST_GRACE, GRACE = 0.05, 0.02  # seconds, share of a lease: for a keeper to report that it kills
SHORTEST_SILENCE, SILENCE = 0.2, 0.05  # seconds, share of a lease: from there to its next report, until all is killed
END_WITHIN = 2.0  # seconds from its dismissal with an empty tree to its own end
AGAIN = 0.1  # seconds until what nobody wakes us for is tried again: a round of killing, an introduction


class KeeperHandle:
    """What the guardian knows of one keeper: its own fork, and the last state that it has told."""

    __slots__ = ("channel", "condemned", "directory", "dismissed_at", "heard", "number", "pid", "state", "term")

    def __init__(self, number: int, pid: int, channel: Channel, spec: Spec, directory: str | None) -> None:
        self.number, self.pid, self.channel, self.directory = number, pid, channel, directory
        self.term = protocol.term_of(spec)
        self.state = protocol.state(spec)
        self.heard = 0.0
        self.condemned = False
        self.dismissed_at = linux.NEVER
        """When nobody was left whom it could tell anything."""

    def hear(self, state: Message) -> None:
        """Take in what it has told."""
        self.state, self.heard = state, linux.boottime()

    def due(self, lease: float) -> float:
        """When to kill it unless it has reported by then that it kills: its deadline, and 2 % of a lease of grace.

        From then on it owes a report every 5 % of a lease, so that one that freezes while it kills is seen, too. With
        an empty tree and nobody to tell it owes its end.
        """
        if self.condemned:
            return linux.NEVER
        if self.state["empty"]:
            return self.dismissed_at + END_WITHIN
        if self.state["killed"]:
            return self.heard + max(SILENCE * lease, SHORTEST_SILENCE)
        return float(self.state["deadline"]) + max(GRACE * lease, SHORTEST_GRACE)

    @property
    def ending(self) -> bool:
        """Whether its tree is empty, or being killed."""
        return bool(self.condemned or self.state["empty"] or self.state["killed"])

    def kill(self) -> None:
        """Kill the keeper. Its child dies with it; the rest of its tree becomes ours."""
        if not self.condemned:
            self.condemned = True
            os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the pid is its own


class Keepers:
    """All keepers of one guardian, and what dead ones have left. Times are CLOCK_BOOTTIME seconds.

    ``parent`` is the cgroup that theirs may be made in, ``nofile`` the limits that children shall have.
    """

    def __init__(
        self,
        worker: Worker,
        watch: linux.Poller,
        signals: linux.Signals,
        children: proctree.Children,
        instance: str,
        nofile: tuple[int, int],
    ) -> None:
        self._worker, self._watch, self._signals = worker, watch, signals
        self._children, self._instance, self._nofile = children, instance, nofile
        self._parent = cgroup.own()
        self.lease = 0.0
        """As a worker told it last."""
        self._living: dict[int, KeeperHandle] = {}
        """By pid, until the keeper is reaped."""
        self._voices: dict[int, KeeperHandle] = {}
        """By descriptor: those whose channel is open."""
        self._bereaved: list[KeeperHandle] = []
        """Keepers that are dead, whose trees are not proven empty yet."""
        self._killing = TreeKill()
        self._unmet: list[KeeperHandle] = []
        """Keepers that the worker has no channel to yet."""
        self._buried: list[Message] = []
        """Terms whose keeper is gone and whose tree is proven empty; kept until a worker acknowledges."""
        self._epochs: dict[int, int] = {}
        """The highest epoch spawned, by lock id: one term, one spawn."""
        self._strangers = set(children.now())
        """Children of whoever was executed into us, an embedded server perhaps: not ours to kill."""
        self._spawned = 0

    def __bool__(self) -> bool:
        """Whether anything may still live."""
        return bool(self._living or self._bereaved)

    # ------------------------------------------------------------------------------------------------------- to begin

    def spawn(self, order: Message, fds: list[int]) -> None:
        """Fork a keeper for an order and tell the worker; or tell it why not."""
        why = self._refusal(order)
        if why is None and not fds:
            why = "the order was lost on its way: the guardian may open no more files; raise its limit (LimitNOFILE)"
        if why is None:
            spec = {**marshal.loads(linux.read_whole(fds[0])), **order}  # noqa: S302 - our own worker wrote it
            why = self._fork_keeper(spec) if linux.boottime() < spec["deadline"] else "its deadline had passed"
        if why is not None:
            self._worker.tell(protocol.refused(protocol.term_of(order), f"not started: {why}"))

    def _refusal(self, order: Message) -> str | None:
        """Say why nothing may be started for this term; None when it may."""
        last = self._epochs.get(order["lock_id"])
        if last is not None and order["epoch"] <= last:
            return f"epoch {order['epoch']} is not above {last}, the last one that was started for this lock id"
        if linux.boottime() >= order["not_after"]:
            return "the order came too late; the machine is too slow or was paused"
        for handle in [*self._living.values(), *self._bereaved]:
            if handle.term["program"] != order["program"] and handle.term["lock_id"] != order["lock_id"]:
                continue
            if handle in self._bereaved:
                return f"processes of {handle.term['program']}'s dead keeper are not proven gone yet"
            self._hear(handle)  # it may have proven its tree empty a moment ago
            if not handle.state["empty"]:
                return f"{handle.term['program']} still lives in epoch {handle.term['epoch']}"
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
        handle = KeeperHandle(self._spawned, pid, ours, spec, directory)
        self._epochs[spec["lock_id"]] = spec["epoch"]
        self._living[pid] = self._voices[ours.fileno()] = handle
        self._watch.add(ours)
        self._watch.by(handle.due(self.lease))
        self._worker.tell(protocol.keeper(handle.number, handle.term), workers.detach())
        return None

    def _become_keeper(self, spec: Spec, guardian: Channel, worker: Channel, directory: str | None) -> int:
        os.setsid()
        linux.become_subreaper()
        linux.set_name(f"keep {spec['program']}")
        linux.close_all_but(0, 1, 2, self._signals.fileno(), guardian.fileno(), worker.fileno())
        os.dup2(0, 1)
        return Keeper(spec, self._signals, guardian, worker, directory).run(self._nofile)

    # ----------------------------------------------------------------------------------------------- while they live

    def recount(self) -> None:
        """Tell a new worker of every term, of a channel to each keeper, and of what was not acknowledged.

        The terms come first, and whole: one counts until its tree is proven empty, dead or silent as its keeper may be.
        Nothing may be taken over beside it, nor released.
        """
        for handle in list(self._living.values()):
            self._hear(handle)
        for handle in [*self._living.values(), *self._bereaved]:
            self._tell_term(handle)
        self._unmet = list(self._living.values())
        self._introduce()
        for term in self._buried:
            self._worker.tell(protocol.emptied(term))
        self._worker.tell(protocol.listed())

    def _introduce(self) -> None:
        """Connect keepers with the worker; whom the system refuses that for now, later.

        It counts descriptors under way. A keeper that reads nothing is left to its deadline, which nobody moves.
        """
        self._unmet = [
            handle
            for handle in self._unmet
            if handle.channel.fileno() >= 0 and not handle.condemned and not self._meets(handle)
        ]

    def _meets(self, handle: KeeperHandle) -> bool:
        """Connect it with the worker; False when that is refused for now. What waits in a queue would hold it up."""
        worker = self._worker.channel
        if worker is None or worker.unsent:
            return False
        try:
            keepers, workers = channel_pair()
        except OSError:
            return False
        met = handle.channel.send(protocol.worker(), [keepers.fileno()]) and worker.send(
            protocol.keeper(handle.number, handle.term), [workers.fileno()]
        )
        keepers.close()
        workers.close()
        return met

    def _tell_term(self, handle: KeeperHandle) -> None:
        """Tell of a term that no keeper stands by, none that can be reached yet, or one that is dead.

        The worker keeps its lock until the proof has come.
        """
        self._worker.tell(protocol.term(handle.number, handle.term, handle.state))

    def hear(self, ready: set[int]) -> None:
        """Take in the states that those with ``ready`` descriptors have told."""
        for handle in [self._voices[fd] for fd in ready & self._voices.keys()]:
            self._hear(handle)

    def _hear(self, handle: KeeperHandle) -> None:
        try:
            while handle.channel.fileno() >= 0 and (received := handle.channel.receive()) is not None:
                handle.hear(received[0])
        except EOFError:
            self._hang_up(handle)
        self._watch.by(handle.due(self.lease))

    def _hang_up(self, handle: KeeperHandle) -> None:
        if self._voices.pop(handle.channel.fileno(), None) is not None:
            self._watch.drop(handle.channel)
            handle.channel.close()

    def judge(self, now: float) -> float:
        """Kill keepers that have let their deadline pass or froze, bury what is dead; gives when to judge again."""
        for handle in list(self._living.values()):
            if now >= handle.due(self.lease):
                self._hear(handle)  # only silence after everything was read is silence
                if now >= handle.due(self.lease):
                    self._worker.say(f"the keeper of {handle.term['program']} {_sin(handle.state)}: killing it")
                    handle.kill()
        self._bury()
        self._introduce()
        hurried = bool(self._bereaved) or not priority.calm()
        again = now if self._bereaved and self._killing.unfinished else now + AGAIN
        dues = [handle.due(self.lease) for handle in self._living.values()]
        return min(dues + ([again] if hurried or self._unmet else []), default=linux.NEVER)

    def left(self, now: float, grace: float) -> float:
        """Return seconds until a tree that nobody has begun to kill is past its deadline by ``grace`` of a lease."""
        deadlines = (handle.state["deadline"] for handle in self._living.values() if not handle.ending)
        return min(deadlines, default=linux.NEVER) + grace * self.lease - now

    def kill(self, number: int) -> None:
        """Kill a keeper that does not answer the worker."""
        for handle in self._living.values():
            if handle.number == number:
                self._worker.say(f"the keeper of {handle.term['program']} does not answer: killing it")
                handle.kill()

    def dismiss(self, empty: bool) -> None:
        """Hang up where no worker will ever acknowledge: a keeper then kills what there is, and ends.

        ``empty``: only those whose trees are empty already.
        """
        for handle in list(self._living.values()):
            if handle.state["empty"] or not empty:
                self._hang_up(handle)
                handle.dismissed_at = min(handle.dismissed_at, linux.boottime())

    # -------------------------------------------------------------------------------------------------------- deaths

    def reaped(self, pid: int, status: int) -> None:
        """Take in the death of a child of ours."""
        self._strangers.discard(pid)
        handle = self._living.get(pid)
        if handle is None:
            return
        self._hear(handle)  # its last words
        self._hang_up(handle)
        del self._living[pid]
        if status == 0 or handle.state["empty"]:  # after ECHILD only
            self._conclude(handle)
        else:
            self._worker.say(f"the keeper of {handle.term['program']} is dead: killing what it has left")
            if not self._bereaved:
                priority.hurry()  # a tree that floods the machine would keep us from killing it
            handle.state = {**handle.state, "killed_at": handle.state["killed_at"] or linux.boottime(), "undying": []}
            self._bereaved.append(handle)

    def _bury(self) -> None:
        """Kill what dead keepers have left, round by round, until no orphan is listed: that is the proof.

        A living process has a living line of parents up to us, and keepers hold their own trees. The list is exact,
        because only we reap what is on it. An orphan of the worker's, should there be one, dies with the others.
        """
        if not self._bereaved:
            return
        for handle in self._bereaved:
            if handle.directory:
                cgroup.kill(handle.directory)
        known = {self._worker.pid, *self._living, *self._strangers}
        try:
            orphans = [pid for pid in self._children.now() if pid not in known]
        except OSError:
            return  # not in this round: nothing is proven
        if not orphans:
            bereaved, self._bereaved = self._bereaved, []
            for handle in bereaved:
                self._conclude(handle)
            return
        self._name_undying(orphans)
        try:
            self._killing.round(orphans)
        except OSError:
            return  # the orphans have got it; what is below them falls to us when they die

    def _name_undying(self, orphans: list[int]) -> None:
        """Tell the worker of orphans that do not die; which of several dead keepers had which, nobody knows."""
        for handle in self._bereaved:
            named = unkillable(handle.state["killed_at"], orphans)
            if named != handle.state["undying"]:
                handle.state["undying"] = named
                self._tell_term(handle)

    def _conclude(self, handle: KeeperHandle) -> None:
        """The tree is proven empty: say so until a worker has taken it."""
        if handle.directory:
            cgroup.remove(handle.directory)
        self._buried.append(handle.term)
        self._worker.tell(protocol.emptied(handle.term))

    def acknowledge(self, lock_id: int, epoch: int) -> None:
        """Forget a result that a worker has taken."""
        self._buried = [term for term in self._buried if (term["lock_id"], term["epoch"]) != (lock_id, epoch)]


def _sin(state: Message) -> str:
    if state["empty"]:
        return "does not leave, though its tree is empty"
    return "has fallen silent while it killed" if state["killed"] else "has let its deadline pass"
