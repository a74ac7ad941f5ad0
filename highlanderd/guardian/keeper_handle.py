"""One keeper as the guardian sees it: its process, its channel, its last state, and when it has to be killed."""

from __future__ import annotations

import os

from highlanderd.guardian import messages, protocol
from highlanderd.system import linux
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Channel, Message
    from highlanderd.guardian.deadline_notes import DeadlineNotes
    from highlanderd.guardian.launch import Spec

SHORTEST_GRACE, GRACE = 0.05, 0.02  # seconds, share of a lease: from its deadline to its report that it kills
SHORTEST_SILENCE, SILENCE = 0.2, 0.05  # seconds, share of a lease: from one report to the next, while it kills
END_WITHIN = 2.0  # seconds from its dismissal with an empty tree to its own end


class KeeperHandle:
    """A keeper that was forked and is not reaped yet, or is dead with a tree that is not proven empty."""

    __slots__ = (
        *("_notes", "_place"),
        *("channel", "directory", "dismissed_at", "killed", "number", "pid", "reported_at", "state", "term"),
    )

    def __init__(
        self,
        number: int,
        pid: int,
        channel: Channel,
        spec: Spec,
        directory: str | None,
        notes: DeadlineNotes | None = None,
        place: int = 0,
    ) -> None:
        """``place`` is where it notes its deadlines in ``notes``."""
        self.number, self.pid, self.channel, self.directory = number, pid, channel, directory
        self._notes, self._place = notes, place
        self.term = protocol.term_of(spec)
        self.state = messages.state(spec)
        """The last one that it has sent, with what it has noted since, as far as that was looked at."""
        self.reported_at = 0.0
        self.killed = False
        """It got SIGKILL from the guardian."""
        self.dismissed_at = linux.NEVER
        """When the last process was gone that it could report to."""

    @property
    def program(self) -> str:
        """The name of its program."""
        name: str = self.term["program"]
        return name

    def receive(self, state: Message) -> None:
        """Take in a state that it has sent."""
        self.state, self.reported_at = state, linux.boottime()

    def look(self) -> None:
        """Take in what it has noted. Until then an earlier deadline is known: it reports one that comes nearer."""
        if self._notes is not None:
            deadline, memo = self._notes.read(self._place)
            if deadline >= self.state["deadline"]:  # the same one may have come again, with another memo
                self.state["deadline"], self.state["memo"] = deadline, memo

    def reaped(self) -> None:
        """Take in that its process is gone, and what it has noted."""
        self.look()
        if self._notes is not None:
            self._notes.give_back(self._place)
            self._notes = None

    def kill_at(self, lease: float) -> float:
        """Return when to kill it, unless it reports in time.

        It has to report that it kills its tree 2 % of a lease after its deadline at the latest. From then on it has to
        report every 5 % of a lease, so that a keeper is found out that freezes while it kills. With an empty tree, and
        no process to report to, it has to end.
        """
        if self.killed:
            return linux.NEVER
        if self.state["empty"]:
            return self.dismissed_at + END_WITHIN
        if self.state["killed"]:
            return self.reported_at + max(SILENCE * lease, SHORTEST_SILENCE)
        return float(self.state["deadline"]) + max(GRACE * lease, SHORTEST_GRACE)

    @property
    def fault(self) -> str:
        """What it has done wrong once ``kill_at`` has passed."""
        if self.state["empty"]:
            return "does not leave, though its tree is empty"
        return "has fallen silent while it killed" if self.state["killed"] else "has let its deadline pass"

    @property
    def ending(self) -> bool:
        """Whether its tree is empty, or being killed."""
        return bool(self.killed or self.state["empty"] or self.state["killed"])

    def dismiss(self) -> None:
        """Note that no process is left that it could report to: with an empty tree it has to end."""
        self.dismissed_at = min(self.dismissed_at, linux.boottime())

    def bury(self) -> None:
        """Take in its death: its tree is not proven empty, and is killed from now on."""
        self.state = {**self.state, "killed_at": self.state["killed_at"] or linux.boottime(), "undying": []}

    def kill(self) -> None:
        """Kill the keeper. Its child dies with it; the rest of its tree becomes the guardian's."""
        if not self.killed:
            self.killed = True
            os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the pid is its own
