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
from highlanderd.guardian.channel import Message, channel_pair
from highlanderd.guardian.spare import DESCRIPTOR
from highlanderd.system import linux

WITHIN: Final = 60.0
"""Seconds to load a large configuration on a slow machine."""
MOST_LINES: Final = 50
"""Lines of what the installed code says that are passed on."""
REFUSED: Final = "the installed code cannot take over; the present worker goes on"


class Rehearsal:
    """A process of the installed code that has loaded everything."""

    def __init__(self, command: Sequence[str], handover: bytes) -> None:
        """Execute ``command`` with what the next worker would be handed over, and wait until it has loaded that.

        Takes seconds. Raises OSError when it cannot be executed, ConfigurationError or HighlanderError when it cannot
        take over.
        """
        self.spare: Message | None
        """What it has said of itself, if it waits to become the next worker; None when it has ended."""
        self.channel, theirs = channel_pair()
        with contextlib.ExitStack() as unwanted, contextlib.ExitStack() as lent:
            unwanted.callback(self.channel.close)

            def lend(fd: int) -> int:
                lent.callback(os.close, fd)
                return fd

            lent.callback(theirs.close)
            handed, said, log = lend(linux.memfd("handover", handover)), lend(linux.memfd("said", b"")), lend(os.dup(2))
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
            self.warnings = tuple(linux.read_whole(said).decode("utf-8", "replace").splitlines()[-MOST_LINES:])
            if self.spare is not None:
                unwanted.pop_all()
        if code == CONFIGURATION_INVALID:
            problem = f"{REFUSED}, because it does not load this machine's configuration:"
            raise ConfigurationError((problem, *self.warnings))
        if code != DONE:
            raise HighlanderError("\n".join((f"{REFUSED}; it ended with code {code}:", *self.warnings)))

    def _loaded(self) -> tuple[Message | None, int]:
        """Wait until it has loaded; return what it says of itself then, or None and the exit code that it ended with.

        Raises HighlanderError when it has done neither within a minute.
        """
        until = time.monotonic() + WITHIN
        poller = select.poll()
        poller.register(self.channel.fileno(), select.POLLIN)
        if poller.poll(1000 * WITHIN):
            with contextlib.suppress(EOFError, ValueError):
                received = self.channel.receive()
                if received is not None and shapes.check(protocol.WORKER, received[0]):
                    return received[0], DONE
        try:
            return None, self._process.wait(until - time.monotonic())
        except subprocess.TimeoutExpired:
            self.end()
            raise HighlanderError(f"{REFUSED}: it has not loaded within {WITHIN:g} s") from None

    def end(self) -> None:
        """End the process, if it has not ended, and wait for that: on a busy machine it takes its time."""
        self.channel.close()
        self._process.kill()
        self._process.wait()
