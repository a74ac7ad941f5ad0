"""Holds the network namespaces of one bed, and buries what the bed leaves: also when the run is killed with SIGKILL.

Run as ``undertaker.py COUNT`` in the bed's directory: who kills whatever names that on its command line must not kill
it. It makes ``COUNT`` namespaces without a name, which vanish with their last process, and prints a path to each. At
the end of its standard input it kills every process that carries the directory in its environment or works in it,
removes the directory, and ends. Before all that it removes the cgroups, with everything in them, that a file
``cgroups`` lists in a directory of that directory: a booted machine has such a file.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import time
from pathlib import Path

CLONE_NEWNET = 0x40000000


def namespaces(count: int) -> list[str]:
    """Make network namespaces and stay in the last; gives paths that hold as long as this process."""
    made = []
    for _ in range(count):
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "a network namespace cannot be made here")
        made.append(f"/proc/{os.getpid()}/fd/{os.open('/proc/self/ns/net', os.O_RDONLY)}")
    return made


def left(directory: str) -> list[int]:
    """List the processes that belong to the directory and are not dead yet."""
    names = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [int(name) for name in names if _belongs(name, directory)]


def _belongs(pid: str, directory: str) -> bool:
    try:
        marked = os.fsencode(directory) in Path(f"/proc/{pid}/environ").read_bytes()
        return int(pid) != os.getpid() and (marked or str(Path(f"/proc/{pid}/cwd").readlink()).startswith(directory))
    except OSError:  # it has ended, or is a zombie
        return False


def disband(group: Path) -> None:
    """Remove a cgroup with everything that is in it and below it, if it is there."""
    with contextlib.suppress(OSError):  # it is gone, or of version 1, where the processes are those of version 2
        (group / "cgroup.kill").write_text("1")
    while "populated 1" in _read(group / "cgroup.events"):
        time.sleep(0.01)
    for path, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def main(count: str) -> None:
    """Hold, wait, bury."""
    directory = str(Path.cwd())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print(*namespaces(int(count)), flush=True)
    sys.stdin.read()
    for listed in Path(directory).glob("*/cgroups"):
        for line in listed.read_text().splitlines():
            disband(Path(line))
    while pids := left(directory):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)  # the kernel needs a moment; what forks is met in the next round
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
