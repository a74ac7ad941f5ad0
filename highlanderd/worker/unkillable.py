"""Processes that SIGKILL does not end: what the log and ``status`` say of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from highlanderd.core.status import Process
from highlanderd.errors import enumerated
from highlanderd.system.linux import boottime
from highlanderd.worker.member import Member
from highlanderd.worker.processes import process_of

log = logging.getLogger(__name__)


class UnkillableLog:
    """Logs each program whose tree does not die: once for as long as that lasts."""

    def __init__(self) -> None:
        self._logged: frozenset[str] = frozenset()

    def update(self, members: Iterable[Member]) -> None:
        """Log the programs that are new."""
        now = sentences(members)
        for name in now.keys() - self._logged:
            log.warning("%s", now[name], extra={"program": name})
        self._logged = frozenset(now)


def sentences(members: Iterable[Member]) -> Mapping[str, str]:
    """Return a sentence for each program whose tree does not die, by its name."""
    return {
        (name := member.program.name): f"{name}: {unkillable_words(member, processes)}; {_outlook(member)}"
        for member in members
        if (processes := unkillable(member))
    }


def unkillable(member: Member) -> tuple[Process, ...]:
    """Return the processes of a program that SIGKILL has not ended for a while."""
    child = member.program.child
    if child is None or not child.unkillable:
        return ()
    return tuple(process for process in map(process_of, child.unkillable) if process is not None)


def unkillable_words(member: Member, processes: tuple[Process, ...]) -> str:
    """Return which processes SIGKILL does not end, and since when."""
    child = member.program.child
    since = child.killed_at if child is not None else None
    ago = "" if since is None else f" {boottime() - since:.0f} s ago"
    shown = enumerated([f"{one.pid} ({one.name}, state {one.state})" for one in processes])
    return f"SIGKILL was sent{ago} and does not end {shown}"


def _outlook(member: Member) -> str:
    term = member.program.term
    if term is not None and boottime() < term.trusted_until:
        lock = "the lock is kept, because to release it would start a second copy"
    else:
        lock = "its lease has run out, so another node may run a second copy meanwhile"
    return (
        f"{lock}. State D waits for a disk or a network file system, Z is held by the debugger that traces it: end "
        "that, or restart this host. The rest goes on by itself"
    )
