"""cgroup v2 directories of children: where they can be made, one write kills a whole tree, even without its keeper.

Best effort: no function here fails if the system refuses, and none is a proof that a tree is empty.
"""

# pathlib costs more memory than a keeper has
from __future__ import annotations

import errno
import os
import stat
import time

from highlanderd.system import cgroup_places, linux

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST = 8192  # characters of the file that names the former daemon
LEAF = "highlander.daemon"  # below it: where the daemon's own processes are, if ``leaf.py`` has moved them
REMOVE_WITHIN = 0.2  # seconds for all below one cgroup: the guardian does nothing else meanwhile. 2,000 took 0.55
POLL_EVERY = 0.01  # seconds between two looks at a dying cgroup; the loop that could wait for an event does not run yet


def own() -> str | None:
    """Return the directory of the daemon's cgroup v2, hybrid mounts included; None if no child can be made in it.

    It is the one of this process, or the one above for a process in the daemon's leaf.
    """
    tops = (directory.removesuffix(f"/{LEAF}") for directory, _ in cgroup_places.places())
    return next((top for top in tops if os.access(top, os.W_OK)), None)


def create(directory: str) -> bool:
    """Make the cgroup; return whether that worked."""
    try:
        os.mkdir(directory)
    except OSError:
        return False
    return True


def enter(directory: str) -> None:
    """Move this process into the cgroup, if that is allowed. Its children start there, too."""
    try:
        write(f"{directory}/cgroup.procs", b"0")
    except OSError:
        return


def fork_into(directory: str, run: Callable[[], int]) -> int | None:
    """Fork a process that is born in the cgroup, as ``linux.fork`` does; return its pid.

    None when this kernel does not do that, or something forbids it: ``enter`` may still work. Raises OSError when there
    is no room for another process.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return linux.fork(run, fd)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.ENOMEM):
            raise
        return None
    finally:
        os.close(fd)


def kill(directory: str) -> None:
    """Send SIGKILL to everything in the cgroup and below, forks under way included (Linux 5.14)."""
    try:
        write(f"{directory}/cgroup.kill", b"1")
    except OSError:
        return


def killer(directory: str) -> int | None:
    """Open what ``kill_by`` needs, because no file may be openable by then; None if there is none."""
    try:
        return os.open(f"{directory}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None


def kill_by(fd: int) -> None:
    """Do what ``kill`` does, with the descriptor from ``killer``."""
    try:
        os.pwrite(fd, b"1", 0)
    except OSError:
        return


def write(path: str, data: bytes) -> None:
    """Write to a file of a cgroup. Raises OSError when the kernel refuses that, or there is no such file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def populated(directory: str) -> bool:
    """Whether anything lives in the cgroup or below."""
    return "populated 1" in cgroup_places.lines(f"{directory}/cgroup.events")


def remove(directory: str, within: float = REMOVE_WITHIN) -> None:
    """Remove the cgroup and those below it, except where processes live, and what takes longer than ``within`` seconds.

    A child that root runs may have made any number of them, in any depth.
    """
    end, found = time.monotonic() + within, [directory]
    for each in found:  # it grows
        if time.monotonic() >= end:
            break
        found += _directories(each)
    for each in reversed(found):
        if time.monotonic() >= end:
            break
        try:
            os.rmdir(each)
        except OSError:
            continue


def _directories(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def name(instance: str, number: int) -> str:
    """Return the name for the cgroup of an instance's ``number``-th child."""
    return f"highlander.{instance}.{number}"


def sweep(parent: str, instance: str, within: float) -> list[str]:
    """Kill what an instance has left in its cgroups; return those that are still populated after ``within`` seconds."""
    end = time.monotonic() + within
    left = list(_left(parent, instance))
    while left and time.monotonic() < end:
        for directory in left:
            kill(directory)
        alive = [directory for directory in left if populated(directory)]
        for directory in set(left).difference(alive):  # one that dies from here on has the next round
            remove(directory, within=max(end - time.monotonic(), 0.0))
        left = alive
        if left:
            time.sleep(POLL_EVERY)
    return left


def _left(parent: str, instance: str) -> Iterator[str]:
    return (path for path in _directories(parent) if os.path.basename(path).startswith(f"highlander.{instance}."))


def succeed(path: str, instance: str, within: float) -> list[str]:
    """Kill what the instance written in ``path`` has left in its cgroups, then write ``instance`` and its place there.

    Returns the cgroups that are still populated after ``within`` seconds; nothing is written then.
    """
    former = _former(path)
    if former is not None:
        left = sweep(*former, within)
        if left:
            return left
    new = f"{path}.new"
    if os.path.lexists(new):
        os.unlink(new)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(f"{instance}\n{own() or ''}\n")
    os.replace(new, path)
    return []


def _former(path: str) -> tuple[str, str] | None:
    """Return place and instance of the former daemon, if they can be true: root kills what they name."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, errors="replace") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
            return None
        instance, _, place = file.read(LONGEST).partition("\n")
    place = place.rstrip("\n")
    mounted = any(place == mount or place.startswith(f"{mount.rstrip('/')}/") for _, mount in cgroup_places.mounts())
    return (place, instance) if mounted and _is_instance(instance) and ".." not in place.split("/") else None


def _is_instance(text: str) -> bool:
    """Return whether this is a UUID: anything shorter could name the cgroups of others."""
    return [len(part) for part in text.split("-")] == [8, 4, 4, 4, 12] and not text.strip("0123456789abcdef-")
