"""The cgroup of the daemon's own processes, beside those of its children.

A cgroup passes the controllers of memory on only while no process is in itself. So what the daemon consists of moves
into a leaf, before anything is started, and the cgroup that was the daemon's holds nothing but the leaf and the
cgroups of children. Where no child could be limited anyway, nothing moves.
"""

from __future__ import annotations

import os

from highlanderd.guardian import cgroup
from highlanderd.system import cgroup_places, controllers, proctree

TRIES = 10  # of processes that are forked meanwhile: a worker that begins


def settle() -> None:
    """Move this process, and what is below it, into the leaf of its cgroup, if no other process is in that.

    Best effort, as all of ``cgroup``: a program whose limits cannot be set then says why.
    """
    top = cgroup.own()
    limiting = set(controllers.CONTROLLERS.values())
    if top is None or not os.path.exists(f"{top}/cgroup.type") or not limiting.intersection(controllers.offered(top)):
        return  # the root has no such file, and passes controllers on whatever is in it
    try:
        _move_all(top)
    except OSError:
        return


def _move_all(top: str) -> None:
    for _ in range(TRIES):
        inside = _pids(top)
        if not inside or not {*inside} <= {os.getpid(), *proctree.descendants(os.getpid())}:
            return
        cgroup.create(f"{top}/{cgroup.LEAF}")
        for pid in inside:
            _move(pid, f"{top}/{cgroup.LEAF}")


def _move(pid: int, leaf: str) -> None:
    try:
        cgroup.write(f"{leaf}/cgroup.procs", b"%d" % pid)
    except ProcessLookupError:
        return


def _pids(directory: str) -> list[int]:
    """Return the processes of a cgroup; those that this process cannot see are 0."""
    return [int(line) for line in cgroup_places.lines(f"{directory}/cgroup.procs")]
