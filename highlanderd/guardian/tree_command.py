"""A command that runs in a child's tree, as the child's user and with its environment: a probe, or a hook.

It counts for the proof that the tree is empty, and dies with the tree.
"""

from __future__ import annotations

import os
import time

from highlanderd.guardian.start import Start
from highlanderd.system import linux
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.launch import Spec


class TreeCommand:
    """The command, from its fork until it is reaped. Raises OSError when it cannot be forked.

    ``spec`` is the child's request, ``argv`` what to run instead. It gets SIGKILL after ``timeout`` seconds, and is not
    executed at ``deadline`` or later. Its output goes into ``streams``, write ends of pipes by name, which are closed
    here; what is not among them goes nowhere.
    """

    __slots__ = ("_start", "_timeout", "kill_at")

    def __init__(
        self, spec: Spec, argv: list[bytes], timeout: float, deadline: float, directory: str | None,
        nofile: tuple[int, int], streams: dict[str, int] | None = None,
    ) -> None:  # fmt: skip
        streams = streams or {}
        where = {name: "pipe" if name in streams else "null" for name in ("stdout", "stderr")}
        order = {**spec, **where, "argv": argv, "foreground": None, "deadline": deadline, "not_after": deadline}
        self._start = Start(order, directory, nofile, streams)
        self._timeout = timeout
        self.kill_at = time.monotonic() + timeout
        """When it gets SIGKILL, by CLOCK_MONOTONIC; never again once it has got it."""

    @property
    def pid(self) -> int:
        """Its own process, which leads a session: what it starts is in its group, unless that is left."""
        return self._start.pid

    def fileno(self) -> int:
        """Return the descriptor of the answer whether it was executed; -1 once that is known."""
        return self._start.fileno()

    def executed(self) -> bool:
        """Return whether it was executed, as far as that is known."""
        return (self._start.fileno() < 0 or self._start.read()) and self._start.failure is None

    def kill(self) -> None:
        """Kill it, and what it has started. It is not reaped yet, so pid and group are its own."""
        self.kill_at = linux.NEVER
        linux.send(self.pid, signal.SIGKILL)
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return  # it has no group of its own yet, or has become another user

    def ended(self) -> str | None:
        """Return why it has no status that counts, once it is reaped; None if it has."""
        if self._start.fileno() >= 0 and not self._start.read():
            self._start.close()
        if self._start.failure is not None:
            return self._start.failure
        return f"it did not end within {self._timeout:g} s" if self.kill_at == linux.NEVER else None
