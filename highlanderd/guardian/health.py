"""What a keeper learns of its child's health: what the child says itself, and how probes in its tree have ended.

All of it goes into the keeper's state; the worker judges it.
"""

from __future__ import annotations

import time

from highlanderd.guardian.notify import NotifySocket
from highlanderd.guardian.tree_command import TreeCommand
from highlanderd.system import linux

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.launch import Spec

LONGEST_PATIENCE = 3600.0  # seconds that the keeper sleeps at most because of what is due here


class Health:
    """The socket for sd_notify(3), where the child was asked to use it, and the one probe that may run.

    ``state`` is the keeper's own. A method that returns a truth value says whether it is worth a report at once.
    """

    __slots__ = ("_notify", "_probe", "_state")

    def __init__(self, state: Message) -> None:
        self._state = state
        self._notify: NotifySocket | None = None
        self._probe: TreeCommand | None = None

    def prepare(self, spec: Spec) -> Spec:
        """Return the request with the socket's address in it, if it wants one. Raises OSError when there is none."""
        if not spec.get("notify"):
            return spec
        self._notify = NotifySocket()
        return {**spec, "env": {**spec["env"], b"NOTIFY_SOCKET": self._notify.address}}

    @property
    def source(self) -> NotifySocket | None:
        """What to wait for; nothing once the main process has ended, or is being killed."""
        return self._notify if self._alive else None

    @property
    def _alive(self) -> bool:
        state = self._state
        return state["started"] is not None and state["status"] is None and not state["killed"]

    @property
    def patience(self) -> float:
        """Seconds until something is due here; ``NEVER`` for nothing."""
        due = linux.NEVER if self._probe is None else self._probe.kill_at
        if (source := self.source) is not None:
            due = min(due, source.tell_at, source.due if self._state["unhealthy"] is None else linux.NEVER)
        return due if due == linux.NEVER else min(max(0.0, due - time.monotonic()), LONGEST_PATIENCE)

    def turn(self) -> bool:
        """Hear what the child says, and kill a probe whose time is over.

        The child's words of status wait for the next report: they may come in floods.
        """
        if self._probe is not None and time.monotonic() >= self._probe.kill_at:
            self._probe.kill()
        if self._notify is None or self._state["started"] is None:
            return False
        if self._state["status"] is not None:  # what is left of the tree must not wait for a reader
            self._notify.close()
            self._notify = None
            return False
        return self._notify.hear(self._state)

    def watch(self, within: float) -> None:
        """Expect a word of the child every ``within`` seconds."""
        if self._notify is not None:
            self._notify.watch(within)

    def probe(self, order: Message, spec: Spec, directory: str | None, nofile: tuple[int, int]) -> bool:
        """Run a probe, unless one runs already, or there is nothing to ask."""
        if self._probe is not None or not self._alive:
            return False
        self._state.update(probe=order["n"], probe_status=None, probe_failed=None)
        try:
            until = self._state["deadline"]
            self._probe = TreeCommand(spec, order["argv"], order["timeout"], until, directory, nofile)
        except OSError as error:
            self._state["probe_failed"] = f"it cannot be forked: {error.strerror}"
        return True

    def reaped(self, pid: int, status: int) -> bool:
        """Take in a death in the tree: of the probe, or of the main process, which leaves nothing to ask."""
        if self._probe is None:
            return False
        if pid == self._state["pid"]:
            self._probe.kill()
        if pid != self._probe.pid:
            return False
        self._state.update(probe_status=status, probe_failed=self._probe.ended())
        self._probe = None
        return True
