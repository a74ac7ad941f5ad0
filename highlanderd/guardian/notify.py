"""What a child says of itself: the socket of sd_notify(3), who may speak, and what counts.

The socket is the keeper's, so it outlives workers. Its address is an abstract one that the kernel chose. Any process of
this host can reach that, so the kernel names the sender of each datagram, and what does not come from below the keeper
is dropped. Descriptors that somebody passes along never arrive: there is room for the sender's name alone, and the
kernel closes the rest.
"""

from __future__ import annotations

import os
import sys
import time

from highlanderd.system import linux, proctree
from highlanderd.system.stdlib import socket

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message

LONGEST = 4096  # bytes of a datagram; a longer one is dropped whole, as nothing that counts is so long
LONGEST_STATUS = 200  # characters; it travels with every report
AT_ONCE = 16  # datagrams a turn: the deadline is looked at in between
DEEPEST = 100  # levels between a sender and the keeper
TELL_EVERY = 0.1  # seconds between two reports of more time: a child that asks without end costs no more
MICROSECONDS = 1e6
MOST = 10**15 - 1  # microseconds, some thirty years: a larger number counts as this one, so that each sum is a moment
_NUMBERS = ("EXTEND_TIMEOUT_USEC", "WATCHDOG_USEC")
_WORDS = ("READY", "WATCHDOG", "STATUS")


def parse(data: bytes) -> dict[str, str]:
    """Return what counts of a datagram, the last word on each; anybody may have written it.

    >>> parse(b"READY=1\\nSTATUS=warm\\nMAINPID=1\\nWATCHDOG_USEC=soon")
    {'READY': '1', 'STATUS': 'warm'}
    >>> parse(b"EXTEND_TIMEOUT_USEC=18446744073709551615")
    {'EXTEND_TIMEOUT_USEC': '999999999999999'}
    """
    found: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        name, equals, value = line.partition("=")
        if equals and name in _WORDS:
            found[name] = "".join(sign if sign.isprintable() else " " for sign in value[:LONGEST_STATUS])
        elif equals and name in _NUMBERS and value.isascii() and value.isdigit():
            found[name] = str(min(int(value), MOST))
    return found


class NotifySocket:
    """The socket, and the watchdog of a child that says WATCHDOG=1. Raises OSError when there is no socket to be had.

    Its words go into the keeper's state: ``ready``, ``says``, ``extended``, ``unhealthy``. The watchdog's times are
    CLOCK_MONOTONIC: while the machine is suspended, no child can say anything.
    """

    __slots__ = ("_chosen", "_heard_at", "_ordered", "_socket", "_tell_at", "_untold")

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")  # a name that nobody has
        self._heard_at: float | None = None
        """Its last word, or when the worker began to watch it; None before that."""
        self._ordered = linux.NEVER
        """Seconds between two words, as the worker wants it."""
        self._chosen: float | None = None
        """The same, as the child has chosen it instead."""
        self._untold, self._tell_at = False, 0.0

    @property
    def address(self) -> bytes:
        """What NOTIFY_SOCKET says."""
        name: bytes = self._socket.getsockname()
        return b"@" + name[1:]

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def close(self) -> None:
        """Have the kernel refuse what is still said."""
        self._socket.close()

    def watch(self, within: float) -> None:
        """Expect a word every ``within`` seconds from now on. What the child has chosen itself stays."""
        if self._heard_at is None:
            self._heard_at = time.monotonic()
        self._ordered = within

    @property
    def due(self) -> float:
        """When the child has been silent for too long, by CLOCK_MONOTONIC; never before it is watched."""
        return linux.NEVER if self._heard_at is None else self._heard_at + self._within

    @property
    def _within(self) -> float:
        return self._ordered if self._chosen is None else self._chosen

    @property
    def tell_at(self) -> float:
        """When the child's wish for more time is to be reported, by CLOCK_MONOTONIC; never without one."""
        return self._tell_at if self._untold else linux.NEVER

    def hear(self, state: Message) -> bool:
        """Take what was said into the state; return whether that is worth a report at once."""
        before = state["ready"], state["unhealthy"]
        for _ in range(AT_ONCE):
            datagram = self._receive()
            if datagram is None:
                break
            said = parse(datagram[0])
            if said and is_below(datagram[1], os.getpid()):
                self._take_in(said, state)
        if time.monotonic() >= self.due and state["unhealthy"] is None:
            state["unhealthy"] = f"it has not said WATCHDOG=1 for {self._within:g} s"
        if before == (state["ready"], state["unhealthy"]) and time.monotonic() < self.tell_at:
            return False
        self._untold, self._tell_at = False, time.monotonic() + TELL_EVERY
        return True

    def _receive(self) -> tuple[bytes, int] | None:
        """Return a datagram and its sender's pid, 0 for one that does not count; None when there is none."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(LONGEST, socket.CMSG_SPACE(12))
        except BlockingIOError:
            return None
        credentials = ancillary[0][2] if ancillary and ancillary[0][1] == socket.SCM_CREDENTIALS else b""
        whole = not flags & socket.MSG_TRUNC
        return data, int.from_bytes(credentials[:4], sys.byteorder) if whole else 0

    def _take_in(self, said: dict[str, str], state: Message) -> None:
        state["says"] = said.get("STATUS", state["says"])
        if said.get("READY") == "1" and state["ready"] is None:
            state["ready"] = linux.boottime()
        if "EXTEND_TIMEOUT_USEC" in said:
            until = linux.boottime() + int(said["EXTEND_TIMEOUT_USEC"]) / MICROSECONDS
            if until > (state["extended"] or 0.0):
                state["extended"], self._untold = until, True
        if "WATCHDOG_USEC" in said:
            self._chosen = int(said["WATCHDOG_USEC"]) / MICROSECONDS or linux.NEVER
        if self._heard_at is not None and said.get("WATCHDOG") == "1":
            self._heard_at = time.monotonic()
        if said.get("WATCHDOG") == "trigger" and state["unhealthy"] is None:
            state["unhealthy"] = "it has said WATCHDOG=trigger"


def is_below(pid: int, ancestor: int) -> bool:
    """Return whether a process is below ``ancestor``. Raises OSError when there is no descriptor to look with.

    It looks twice: a process between them may end meanwhile, and its children get another parent.
    """
    return _is_below(pid, ancestor) or _is_below(pid, ancestor)


def _is_below(pid: int, ancestor: int) -> bool:
    for _ in range(DEEPEST):
        if pid <= 1:
            return False
        pid = proctree.parent(pid)
        if pid == ancestor:
            return True
    return False
