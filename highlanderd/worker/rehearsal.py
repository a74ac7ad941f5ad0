"""A rehearsal: a process of the installed code loads what it would be handed over, and waits to become the next worker.

It is a child of the present worker, as the daemon's user and in the unit's sandbox, and its command is the one that the
guardian executes for a worker. The present worker renews leases while it loads, which takes a second and more on a busy
machine. Code of an earlier version ends once it has loaded.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from highlanderd.errors import CONFIGURATION_INVALID, DONE, ConfigurationError, HighlanderError
from highlanderd.guardian import protocol, shapes
from highlanderd.guardian.channel import channel_pair
from highlanderd.guardian.spare import DESCRIPTOR, installed
from highlanderd.system import linux

WITHIN: Final = 60.0
"""Seconds to load a large configuration on a slow machine."""
MOST_LINES: Final = 50
"""Lines of what the installed code says that are passed on."""
MOST_SAID: Final = 1 << 24
"""Bytes that it may say: code that never stops would fill the machine's memory."""
MOST_BYTES: Final = 1 << 16
"""Bytes of it that are looked at."""
ENDED_WITHIN: Final = 0.1
"""Seconds for the end of a process that got SIGKILL; it takes milliseconds."""
REFUSED: Final = "the installed code cannot take over; the present worker goes on"


class Rehearsal:
    """A process of the installed code that has loaded everything."""

    def __init__(self, command: Sequence[str], handover: bytes) -> None:
        """Execute ``command`` with what the next worker would be handed over, and wait until it has loaded that.

        Takes seconds. Raises OSError when it cannot be executed, ConfigurationError or HighlanderError when it cannot
        take over.
        """
        self.spare: tuple[int, int] | None
        """Its pid and its code's number, if it waits to become the next worker; None when it has ended."""
        self._code = installed()  # before it is executed: code that changes meanwhile is not what it has loaded
        self.channel, theirs = channel_pair()
        with contextlib.ExitStack() as unwanted, contextlib.ExitStack() as lent:
            unwanted.callback(self.channel.close)  # not left to the garbage collector: a traceback keeps this object

            def lend(fd: int) -> int:
                lent.callback(os.close, fd)
                return fd

            lent.callback(theirs.close)
            handed, log = lend(linux.memfd("handover", handover)), lend(os.dup(2))
            said = lend(linux.sized_memfd("said", MOST_SAID))
            self._process = subprocess.Popen(
                [*command, "--check", "--handover", str(handed)],
                env={**os.environ, DESCRIPTOR: f"{theirs.fileno()},{log}"},
                pass_fds=(theirs.fileno(), handed, log),
                process_group=0,
                stdin=subprocess.DEVNULL,
                stderr=said,
            )
            theirs.close()  # so that its end is seen
            self.spare, code = self._loaded()
            self.warnings = _last_lines(said)
            if self.spare is not None:
                unwanted.pop_all()
        if code == CONFIGURATION_INVALID:
            problem = f"{REFUSED}, because it does not load this machine's configuration:"
            raise ConfigurationError((problem, *self.warnings))
        if code != DONE:
            how = f"it ended with code {code}" if code > 0 else f"it was ended by signal {-code}"
            raise HighlanderError("\n".join((f"{REFUSED}; {how}{':' if self.warnings else ''}", *self.warnings)))

    def _loaded(self) -> tuple[tuple[int, int] | None, int]:
        """Wait until it has loaded; return what ``spare`` is then, and the exit code that it has ended with, or DONE.

        Raises HighlanderError when it has done neither within a minute.
        """
        until = time.monotonic() + WITHIN
        poller = select.poll()
        poller.register(self.channel.fileno(), select.POLLIN)
        with contextlib.suppress(EOFError, ValueError):
            while poller.poll(1000 * max(until - time.monotonic(), 0.0)):
                received = self.channel.receive()
                if received is not None and shapes.check(protocol.WORKER, received[0]):
                    return self._waiting(received[0]["pid"]), DONE
        try:
            return None, self._process.wait(max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self.end()
            raise HighlanderError(f"{REFUSED}: it has not loaded within {WITHIN:g} s") from None

    def _waiting(self, pid: int) -> tuple[int, int] | None:
        """Return pid and number of the code; None if files have changed since: it ends, because its code is old now."""
        if self._code is None or installed() != self._code:
            self.end()
            return None
        return pid, self._code

    def end(self) -> None:
        """End the process, if it has not ended. One that hangs in the kernel is waited for no longer than a moment."""
        self.channel.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDED_WITHIN)


def _last_lines(fd: int) -> tuple[str, ...]:
    """Return the last lines that a process has written there, which may be more than anybody wants to read."""
    size = os.lseek(fd, 0, os.SEEK_CUR)  # the writer shares it
    data = os.pread(fd, min(size, MOST_BYTES), max(size - MOST_BYTES, 0))
    return tuple(data.decode("utf-8", "replace").splitlines()[-MOST_LINES:])
