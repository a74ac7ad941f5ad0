"""Keepers that were forked ahead: their terms are being asked for, and their children wait before their programs.

A child that waits has executed nothing, and no term counts it. It goes on when the worker asks to spawn just what was
prepared, or ends; the keeper's own time for it ends as well. So a takeover and the start of a child take place at the
same time, and no child runs before its term has begun.
"""

from __future__ import annotations

from highlanderd.guardian import cgroup, messages
from highlanderd.system import linux

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Channel
    from highlanderd.guardian.keeper_handle import KeeperHandle
    from highlanderd.guardian.launch import Spec
    from highlanderd.guardian.loggers import Loggers

OF_THE_GRANT = frozenset({"is", "deadline", "memo", "not_after"})  # what nobody knows before the term has begun
END_WITHIN = 1.0  # seconds for a keeper that is not needed to kill what waits, and to end


class ForkedKeeper:
    """A keeper that was just forked: the guardian's end of its channel, the worker's, and what it was forked for."""

    __slots__ = ("handle", "spec", "worker")

    def __init__(self, handle: KeeperHandle, worker: Channel, spec: Spec) -> None:
        self.handle, self.worker, self.spec = handle, worker, spec

    def is_for(self, spec: Spec) -> bool:
        """Return whether it was forked for just this request, but for what comes with the grant."""
        names = (self.spec.keys() | spec.keys()) - OF_THE_GRANT
        return all(self.spec.get(name) == spec.get(name) for name in names)

    def execute(self, spec: Spec) -> bool:
        """Have its child execute the program; return whether the keeper can be reached."""
        self.spec.update(spec)
        self.handle.state = messages.state(spec)
        return self.handle.channel.send(messages.execute(spec["deadline"], spec["not_after"], spec["memo"]))


class PreparedKeepers:
    """All that wait, one for each lock id, and those that are ending. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, poller: linux.Poller, loggers: Loggers) -> None:
        self._poller, self._loggers = poller, loggers
        self._waiting: dict[int, ForkedKeeper] = {}
        self._ending: dict[int, tuple[float, ForkedKeeper]] = {}
        """By pid, and when to kill them."""

    def __bool__(self) -> bool:
        """Whether one is not reaped yet."""
        return bool(self._waiting or self._ending)

    def pids(self) -> set[int]:
        """Return the pids of all of them."""
        return {one.handle.pid for one in self._waiting.values()} | self._ending.keys()

    def add(self, forked: ForkedKeeper) -> None:
        """Hold a keeper whose child waits."""
        self.discard(forked.spec["lock_id"])
        self._waiting[forked.spec["lock_id"]] = forked
        self._poller.by(forked.spec["not_after"])

    def take(self, spec: Spec) -> ForkedKeeper | None:
        """Return the keeper that was forked for this request, whose child executes its program now; None without one.

        What was prepared for another request ends.
        """
        forked = self._waiting.get(spec["lock_id"])
        if forked is not None and forked.is_for(spec) and forked.execute(spec):
            return self._waiting.pop(spec["lock_id"])
        self.discard(spec["lock_id"])
        return None

    def discard(self, lock_id: int) -> None:
        """End what waits for this lock id, if anything does."""
        forked = self._waiting.pop(lock_id, None)
        if forked is not None:
            forked.handle.channel.close()  # nobody is left to begin its term: the keeper kills what waits, and ends
            forked.worker.close()
            self._loggers.drop(forked.spec)
            kill_at = linux.boottime() + END_WITHIN
            self._ending[forked.handle.pid] = kill_at, forked
            self._poller.by(kill_at)

    def discard_all(self) -> None:
        """End all that wait: the worker that asks for their terms is gone."""
        for lock_id in list(self._waiting):
            self.discard(lock_id)

    def judge(self, now: float) -> float:
        """End what has waited too long, and kill what does not end. Return when to judge again."""
        for lock_id, forked in list(self._waiting.items()):
            if now >= forked.spec["not_after"]:
                self.discard(lock_id)
        for kill_at, forked in self._ending.values():
            if now >= kill_at:
                forked.handle.kill()
        moments = [forked.spec["not_after"] for forked in self._waiting.values()]
        moments += [kill_at for kill_at, forked in self._ending.values() if not forked.handle.killed]
        return min(moments, default=linux.NEVER)

    def reaped(self, pid: int) -> bool:
        """Take in the death of a child of the guardian's. Return whether it was one of these keepers."""
        for lock_id in [lock_id for lock_id, forked in self._waiting.items() if forked.handle.pid == pid]:
            self.discard(lock_id)
        if pid not in self._ending:
            return False
        _, forked = self._ending.pop(pid)
        forked.handle.reaped()
        if forked.handle.directory:
            cgroup.remove(forked.handle.directory)
        return True
