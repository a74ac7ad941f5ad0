"""Taking away what a process needs, and giving it back: descriptors, room in files, processes."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wait import wait_for

PIDS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
"""Where the controller of processes may be: version 1, version 2."""


def let_open_nothing_more(pid: int) -> None:
    """Lower the limit to the descriptors that are open; the next ``open`` is refused with EMFILE."""
    held = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH208
    first_free = min(set(range(len(held) + 1)) - held)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))


def let_open_again(pid: int) -> None:
    """Give back what ``let_open_nothing_more`` has taken."""
    most = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def no_descriptors(*pids: int) -> Iterator[None]:
    """Let these processes open nothing for the block."""
    for pid in pids:
        let_open_nothing_more(pid)
    yield
    for pid in pids:
        let_open_again(pid)


@contextlib.contextmanager
def no_more_processes(*pids: int, spare: int = 0) -> Iterator[None]:
    """Let these processes and what they fork fork ``spare`` times more for the block; then EAGAIN.

    As root by a cgroup, because no limit counts for root; skipped where none can be made.
    """
    if os.geteuid():
        most = resource.prlimit(pids[0], resource.RLIMIT_NPROC)
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_NPROC, (min(1, spare), most[1]))  # it counts all of the user's
        yield
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_NPROC, most)
        return
    top = next((top for top in PIDS if _counts_processes(top)), None)
    if top is None:
        pytest.skip("root may always fork, unless a cgroup with the controller `pids` can be made")
    group = top / f"highlander-test-{os.getpid()}"
    group.mkdir()
    try:
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text(str(int((group / "pids.current").read_text()) + spare))
        yield
    finally:
        for one in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (top / "cgroup.procs").write_text(one)
        wait_for(lambda: _removed(group), what="the cgroup is empty")


def _counts_processes(top: Path) -> bool:
    version_2 = top / "cgroup.subtree_control"
    if version_2.exists():
        return os.access(top, os.W_OK) and "pids" in version_2.read_text().split()
    return os.access(top / "cgroup.procs", os.W_OK)


def _removed(group: Path) -> bool:
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


@contextlib.contextmanager
def no_room(pid: int, file: Path) -> Iterator[None]:
    """Let ``file`` grow no more by this process for the block: EFBIG, as a full disk gives ENOSPC."""
    most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (file.stat().st_size, most[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, most)


@contextlib.contextmanager
def tiny_disk(directory: Path, size: int) -> Iterator[Path]:
    """Mount a file system of ``size`` bytes on a new directory; skipped where that is not allowed."""
    directory.mkdir(mode=0o777)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "highlander-test", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)
