"""The hooks of one child: commands of its program that run in its tree, one at a time, each for so long at most.

``before_start`` runs before the program, which is not executed when it fails. ``after_ready`` and ``before_stop`` run
while the program does, when the worker says so; signals wait for ``before_stop``. ``after_stop`` runs when nothing of
the program is left, and only after it has ended the tree counts as empty. The keeper's deadline holds for all of them.
"""

from __future__ import annotations

import os
import time

from highlanderd.guardian.tree_command import TreeCommand
from highlanderd.system import linux
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.launch import Spec

BEFORE_START, AFTER_READY, BEFORE_STOP, AFTER_STOP = "before_start", "after_ready", "before_stop", "after_stop"


class Hooks:
    """The hooks that ``spec`` orders. What becomes of them is in the keeper's ``state``, which is the keeper's own.

    ``streams`` are the write ends of the pipes that a logger reads, which these hooks write to as well.
    """

    __slots__ = ("_command", "_due", "_hold_until", "_name", "_spec", "_state", "_streams", "cause")

    def __init__(self, spec: Spec, state: Message, streams: dict[str, int]) -> None:
        self._spec, self._state = spec, state
        self._streams = streams
        self._command: TreeCommand | None = None
        self._name = ""
        """Of the hook that runs."""
        self._due: list[str] = []
        """What runs next."""
        self._hold_until: float | None = None
        """When ``after_stop`` runs though nobody has said why the term ends; None before its time has come."""
        self.cause: str | None = None
        """Why the term ends, once the worker has said so."""

    def lent(self, logged: dict[str, int]) -> dict[str, int]:
        """Return the pipes for the program, which closes them: copies, because hooks need them afterwards."""
        return {name: os.dup(fd) for name, fd in logged.items()}

    def close(self) -> None:
        """Let the logger see the end of the output: no hook will run any more."""
        streams, self._streams = self._streams, {}
        for fd in streams.values():
            os.close(fd)

    def has(self, name: str) -> bool:
        """Return whether this hook is ordered, and was not begun."""
        begun = self._command is not None and self._name == name
        return name in self._spec["hooks"] and name not in self._state["hooks"] and name not in self._due and not begun

    def add(self, name: str) -> None:
        """Have a hook run once, and end the one that runs: only ``before_stop`` can meet one, ``after_ready``."""
        if self.has(name):
            self._due = [name]
            if self._command is not None:
                self._command.kill()

    def cancel(self) -> None:
        """Run no more of what is due."""
        self._due.clear()

    @property
    def alone(self) -> bool:
        """Whether signals for the program have to wait: a hook is due, or another one than ``after_ready`` runs."""
        return bool(self._due) or (self._command is not None and self._name != AFTER_READY)

    @property
    def failure(self) -> str | None:
        """Why the program must not be executed; None when it may, as far as is known."""
        why = self._state["hooks"].get(BEFORE_START)
        return f"{BEFORE_START}: {why}" if why else None

    @property
    def executed(self) -> bool:
        """Whether ``before_start`` was executed: the start is no longer in doubt."""
        return BEFORE_START in self._state["hooks"]

    @property
    def prepared(self) -> bool:
        """Whether ``before_start`` has done its work."""
        return bool(self._state["hooks"].get(BEFORE_START, "-") == "")

    @property
    def source(self) -> TreeCommand | None:
        """What to wait for: whether the hook was executed."""
        return self._command if self._command is not None and self._command.fileno() >= 0 else None

    @property
    def patience(self) -> float:
        """Seconds until something is due here; ``NEVER`` for nothing."""
        due = linux.NEVER if self._command is None else self._command.kill_at
        return due if due == linux.NEVER else max(0.0, due - time.monotonic())

    def turn(self, directory: str | None, nofile: tuple[int, int]) -> bool:
        """Begin what is due, and kill a hook whose time is over. Return whether there is something to report."""
        if self._command is None:
            return bool(self._due) and self._begin(self._due.pop(0), directory, nofile)
        if time.monotonic() >= self._command.kill_at:
            self._command.kill()
        if self.source is not None and self._command.executed() and self._name not in self._state["hooks"]:
            self._state["hooks"] = {**self._state["hooks"], self._name: None}
            return True
        return False

    def _begin(self, name: str, directory: str | None, nofile: tuple[int, int]) -> bool:
        spec, until = self._spec, self._state["deadline"]
        if name == BEFORE_START:  # until it is executed, the worker does not know whether the order has arrived
            until = min(until, spec["not_after"])
        streams = {stream: os.dup(fd) for stream, fd in self._streams.items()}
        late = self._state["killed"] is not None
        order = {**spec, "env": {**spec["env"], **self._variables(name)}, "late": late}
        self._name = name
        try:
            argv, timeout = spec["hooks"][name], spec["hook_timeout"]
            self._command = TreeCommand(order, argv, timeout, until, directory, nofile, streams)
        except OSError as error:
            self._end(name, f"cannot be forked: {error.strerror}")
            return True
        return False

    def _variables(self, name: str) -> dict[bytes, bytes]:
        """Return what a hook finds in its environment, in addition to what its program does."""
        cause = self._spec.get("cause", "") if name == BEFORE_START else self.cause or ""
        found = {"EVENT": name, "CAUSE": cause}
        status = self._state["status"]
        if status is not None and self._state["started"] is not None:
            number = status & 0x7F
            found["EXIT_STATUS" if not number else "EXIT_SIGNAL"] = _signal_name(number) if number else str(status >> 8)
        return {f"HIGHLANDER_{key}".encode(): value.encode() for key, value in found.items()}

    def reaped(self, pid: int, status: int) -> bool:
        """Take in a death in the tree. Return whether it was the hook's."""
        if self._command is None or pid != self._command.pid:
            return False
        why = self._command.ended()
        if why is None and status:
            number = status & 0x7F
            why = f"was killed by {_signal_name(number)}" if number else f"exited with status {status >> 8}"
        if self._due:  # before_stop has ended it
            why = "was killed, because the program is to stop"
        self._command = None
        self._end(self._name, why or "")
        return True

    def _end(self, name: str, why: str) -> None:
        self._state["hooks"] = {**self._state["hooks"], name: why}

    def hold(self, now: float) -> bool:
        """Return whether a tree without processes is not over: ``after_stop`` is still to run.

        It waits until the worker has said why the term ends, for as long as it may run itself at most.
        """
        owed = AFTER_STOP in self._spec["hooks"] and (self._state["started"] is not None or self.prepared)
        if not owed or self.over:
            return False
        if self._hold_until is None:
            self._hold_until = now + self._spec["hook_timeout"]
            self._state["hooks"] = {**self._state["hooks"], AFTER_STOP: None}
        if self._state["started"] is None:
            self.cause = self.cause or "spawn-failed"
        if self._command is None and (self.cause is not None or now >= self._hold_until):
            self._due = [AFTER_STOP]
        return True

    @property
    def after(self) -> bool:
        """Whether nothing of the program is left, and ``after_stop`` is to run, or runs."""
        return AFTER_STOP in self._state["hooks"]

    @property
    def over(self) -> bool:
        """Whether ``after_stop`` has ended: what it has left behind is killed."""
        return self._state["hooks"].get(AFTER_STOP) is not None


def _signal_name(number: int) -> str:
    names = (name for name in dir(signal) if name.startswith("SIG") and getattr(signal, name) == number)
    return next(names, f"signal {number}")
