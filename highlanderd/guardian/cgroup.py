"""cgroup v2 directories of children: where they can be made, one write kills a whole tree, even without its keeper.

Best effort: no function here fails if the system refuses, and none is a proof that a tree is empty.
"""

# pathlib costs more memory than a keeper has
from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Iterator

POLL_EVERY = 0.01  # seconds between two looks at a dying cgroup; the loop that could wait for an event does not run yet


def own() -> str | None:
    """Return the directory of this process' cgroup v2, hybrid mounts included; None if no child can be made in it."""
    place = None
    for line in _lines("/proc/self/cgroup"):
        if line.startswith("0::"):
            place = line[3:]
    for line in _lines("/proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        if place is not None and rest.startswith("cgroup2 "):
            root, mount = (_unescaped(field) for field in fields.split()[3:5])
            inside = place.removeprefix(root.rstrip("/"))
            directory = (mount + inside).rstrip("/")
            if (inside == "" or inside.startswith("/")) and os.access(directory, os.W_OK):
                return directory
    return None


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def _unescaped(field: str) -> str:
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, character)
    return field


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
        _write(f"{directory}/cgroup.procs", b"0")
    except OSError:
        return


def kill(directory: str) -> None:
    """Send SIGKILL to everything in the cgroup and below, forks under way included (Linux 5.14)."""
    try:
        _write(f"{directory}/cgroup.kill", b"1")
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


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def populated(directory: str) -> bool:
    """Whether anything lives in the cgroup or below."""
    return "populated 1" in _lines(f"{directory}/cgroup.events")


def remove(directory: str) -> None:
    """Remove the cgroup and those below it, except where processes live."""
    for below in _directories(directory):
        remove(below)
    try:
        os.rmdir(directory)
    except OSError:
        return


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
            if not populated(directory):
                remove(directory)
        left = [directory for directory in left if populated(directory)]
        if left:
            time.sleep(POLL_EVERY)
    return left


def _left(parent: str, instance: str) -> Iterator[str]:
    return (path for path in _directories(parent) if os.path.basename(path).startswith(f"highlander.{instance}."))


def succeed(path: str, instance: str, within: float) -> list[str]:
    """Kill what the instance written in ``path`` has left in its cgroups, then write ``instance`` and its place there.

    Returns the cgroups that are still populated after ``within`` seconds; nothing is written then.
    """
    former = _lines(path)
    if len(former) == 2 and all(former):
        left = sweep(former[1], former[0], within)
        if left:
            return left
    with open(f"{path}.new", "w") as file:
        file.write(f"{instance}\n{own() or ''}\n")
    os.replace(f"{path}.new", path)
    return []
