"""Which program the worker was handling when it died, and which programs are in quarantine for that.

The worker writes into a memfd what it is at, because a process that is killed or crashes has no time to say so. The
guardian outlives workers, so the record is kept here: it lasts until an operator starts the program, or until the
daemon ends.
"""

from __future__ import annotations

import os
import struct

from highlanderd.system import linux
from highlanderd.system.stdlib import signal

SLOT = struct.Struct(
    "=d256s"
)  # since when, in CLOCK_BOOTTIME seconds, and the program's name; empty when it is at none
DEATHS = 2  # of workers, until their program is kept away from the next one
WITHIN = 3600.0  # seconds from the first of them to the last
LASTED = 0.3  # seconds in one turn of one program; they take microseconds, and a worker may be killed in any of them
MOST = 100  # programs: each travels in every ``hello``
CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS})


def written(program: str, since: float) -> bytes:
    """Return what the worker writes while it handles a program."""
    return SLOT.pack(since, program.encode("utf-8", "surrogateescape"))


NOTHING = SLOT.pack(0.0, b"")


class Suspects:
    """The programs that workers have died of. Times are seconds on CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        self.quarantined: dict[str, str] = {}
        """How the last worker died of it, by program."""
        self._fd: int | None = None
        self._deaths: dict[str, list[float]] = {}

    def attend(self, fd: int) -> None:
        """Take the memory in which the present worker writes."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = fd

    def lift(self, program: str) -> None:
        """End a quarantine."""
        self.quarantined.pop(program, None)
        self._deaths.pop(program, None)

    def worker_died(self, status: int, now: float, *, stopped: bool) -> str | None:
        """Take in a worker's death, and return the program that it was handling. ``stopped``: a signal had stopped it.

        A death counts against a program when the worker crashed while it handled that, or was killed after it had done
        so for long. A worker that is killed from outside is most often at none, and at none for long.
        """
        program, since = self._take()
        crashed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in CRASHES
        if not program or stopped or not (crashed or now - since >= LASTED):
            return None
        deaths = [at for at in self._deaths.get(program, []) if now - at < WITHIN]
        self._deaths[program] = deaths = [*deaths, now]
        if len(deaths) >= DEATHS and len(self.quarantined) < MOST:
            self.quarantined[program] = linux.ending(status)
        return program

    def _take(self) -> tuple[str, float]:
        """Return what the dead worker has written, and empty it: the next one may die before it writes anything."""
        data = b"" if self._fd is None else os.pread(self._fd, SLOT.size, 0)
        if self._fd is None or len(data) < SLOT.size:
            return "", 0.0
        try:
            os.pwrite(self._fd, NOTHING, 0)
        except OSError:  # for want of memory, or by RLIMIT_FSIZE; the next worker lends its own
            os.close(self._fd)
            self._fd = None
        since, name = SLOT.unpack(data)
        return os.fsdecode(name.partition(b"\0")[0]), since
