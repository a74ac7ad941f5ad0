"""How much this process weighs for the scheduler: more than all others while there is a tree to kill.

It refuses real-time policies: the kernel spins when a process is reaped that its reaper keeps from leaving a processor
(a second, until such policies are throttled).
"""

from __future__ import annotations

import os

from highlanderd.system.proctree import SCARCE, contents

MOST_HURRIED = -20  # the nice value of the greatest weight


class _Weight:
    """How this process weighed before its hurry; None while it is in none."""

    nice: int | None = None
    group: int | None = None
    """The nice value of the group that its session is."""


def hurry() -> None:
    """Weigh more than all that is not in a hurry, if allowed, until ``calm()``. What is forked meanwhile inherits it.

    Where sessions share processors as groups, ours has to weigh more, too.
    """
    former = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, MOST_HURRIED)
    except OSError:
        return
    if _Weight.nice is None:
        _Weight.nice = former
    try:
        group = int(contents("/proc/self/autogroup").split()[-1])
    except (OSError, IndexError):  # there are no such groups, or there is no descriptor to look with
        return
    if _Weight.group is None:
        _Weight.group = group
    _weigh_group(MOST_HURRIED)


def calm() -> bool:
    """Weigh as before ``hurry()``. False when the system wants that tried again later."""
    _calm_process()
    if _Weight.group is not None and _weigh_group(_Weight.group):
        _Weight.group = None
    return _Weight.group is None


def calm_fork() -> None:
    """Weigh as our parent did before its hurry; the group that we share is the parent's to calm."""
    _calm_process()
    _Weight.group = None


def _calm_process() -> None:
    if _Weight.nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, _Weight.nice)
        _Weight.nice = None


def _weigh_group(nice: int) -> bool:
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
