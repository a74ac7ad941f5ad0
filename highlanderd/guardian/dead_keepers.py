"""What dead keepers have left behind: it is killed here, and proven gone before anything else may run in its place.

A living process has a living line of parents up to the guardian, and a living keeper holds its own tree. So the trees
of dead keepers are empty once the guardian has no child but worker, spare, fork server, keepers and loggers. The list
of children is exact, because nothing but the guardian itself reaps what is on it. Several dead keepers are therefore
proven empty together: nothing says which of them an orphan belonged to.
"""

from __future__ import annotations

from highlanderd.guardian import cgroup, messages
from highlanderd.guardian.killing import TreeKill, unkillable
from highlanderd.system import priority

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Set

    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.keeper_handle import KeeperHandle
    from highlanderd.guardian.loggers import Loggers
    from highlanderd.guardian.worker import Worker
    from highlanderd.system import proctree


class DeadKeepers:
    """Keepers that are dead, from their death to the worker's acknowledgement that their trees are empty."""

    def __init__(self, worker: Worker, children: proctree.Children, loggers: Loggers) -> None:
        self._worker, self._children, self._loggers = worker, children, loggers
        self._killing = TreeKill()
        self._inherited = set(children.now())
        """Children from before an exec made this process the guardian, an embedded server perhaps: not ours to kill."""
        self.unproven: list[KeeperHandle] = []
        """Those whose trees are not proven empty yet."""
        self.proven: list[Message] = []
        """The terms whose trees are proven empty, until a worker acknowledges that."""

    @property
    def again_at_once(self) -> bool:
        """Whether the last round of killing ran out of time before it had killed all."""
        return bool(self.unproven) and self._killing.unfinished

    def bury(self, handle: KeeperHandle) -> None:
        """Take in the death of a keeper whose tree is not proven empty."""
        if not self.unproven:
            priority.raise_priority()  # a tree that floods the machine would keep us from killing it
        handle.bury()
        self.unproven.append(handle)

    def reaped(self, pid: int) -> None:
        """Take in the death of a child, whose pid may be another process' from now on."""
        self._inherited.discard(pid)

    def kill(self, living: Set[int]) -> None:
        """Kill one round of what they have left; if nothing is left, conclude. ``living`` are keepers, loggers and
        the fork server.

        If the worker has left an orphan, it dies with the others.
        """
        if not self.unproven:
            return
        for handle in self.unproven:
            if handle.directory:
                cgroup.kill(handle.directory)
        known = {self._worker.pid, self._worker.spare_pid, *self._worker.lingering, *living, *self._inherited}
        try:
            orphans = [pid for pid in self._children.now() if pid not in known]
        except OSError:
            return  # nothing is proven in this round
        if orphans:
            self._kill_orphans(orphans)
        else:
            handles, self.unproven = self.unproven, []
            for handle in handles:
                self.conclude(handle)

    def _kill_orphans(self, orphans: list[int]) -> None:
        for handle in self.unproven:
            named = unkillable(handle.state["killed_at"], orphans)
            if named != handle.state["undying"]:
                handle.state["undying"] = named
                self._worker.send(messages.term(handle.number, handle.term, handle.state))
        try:
            self._killing.round(orphans)
        except OSError:
            return  # the orphans themselves are killed; what is below them becomes ours when they die

    def conclude(self, handle: KeeperHandle) -> None:
        """Report that the tree is proven empty, until a worker has acknowledged it."""
        if handle.directory:
            cgroup.remove(handle.directory)
        self._loggers.leave(handle.term)
        self.proven.append(handle.term)
        self._worker.send(messages.emptied(handle.term))

    def acknowledge(self, lock_id: int, epoch: int) -> None:
        """Forget a term: a worker knows that its tree is empty."""
        self.proven = [term for term in self.proven if (term["lock_id"], term["epoch"]) != (lock_id, epoch)]
