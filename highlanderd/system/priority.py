"""Raise the nice priority of this process while it kills a tree.

Real-time policies are not used: the kernel spins when a process is reaped that its reaper keeps from leaving a
processor (for a second, until such policies are throttled).
"""

from __future__ import annotations

import os

from highlanderd.system.proctree import SCARCE, contents

HIGHEST, LOWEST = -20, 19  # nice values


class _Before:
    """The nice values before they were raised; None while they are not."""

    nice: int | None = None
    group: int | None = None
    """The nice value of the autogroup, which is the session."""


def raise_priority() -> None:
    """Take the highest nice priority, if allowed, until ``restore_priority()``. Processes forked meanwhile inherit it.

    Where sessions share processors as autogroups, this session's group is raised, too.
    """
    former = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, HIGHEST)
    except OSError:
        return
    if _Before.nice is None:
        _Before.nice = former
    try:
        group = int(contents("/proc/self/autogroup").split()[-1])
    except (OSError, IndexError):  # there are no such groups, or there is no descriptor to look with
        return
    if _Before.group is None:
        _Before.group = group
    _set_group(HIGHEST)


def restore_priority() -> bool:
    """Undo ``raise_priority()``. False when the system wants that tried again later."""
    _restore_process()
    if _Before.group is not None and _set_group(_Before.group):
        _Before.group = None
    return _Before.group is None


def restore_after_fork() -> None:
    """Undo the parent's ``raise_priority()`` for this process; the group is shared, and the parent restores it."""
    _restore_process()
    _Before.group = None


def take_lowest() -> None:
    """Run, and read and write, only when no other process of this session wants to."""
    os.setpriority(os.PRIO_PROCESS, 0, LOWEST)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _restore_process() -> None:
    if _Before.nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, _Before.nice)
        _Before.nice = None


def _set_group(nice: int) -> bool:
    try:
        fd = os.open("/proc/self/autogroup", os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno not in SCARCE
    try:
        os.write(fd, str(nice).encode())
    except BlockingIOError:  # once in a tenth of a second, for all the machine, unless with CAP_SYS_ADMIN
        return False
    except OSError:
        return True
    finally:
        os.close(fd)
    return True
