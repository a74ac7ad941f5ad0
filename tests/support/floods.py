"""Floods: children that fork without end, kept within bounds, and gone after the test whatever it has found.

A flood is known by its mark, a path in its environment. Its processes hold the journal's locks besides, so that the
next leader's child says ``doubled`` beside a single one of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.guardian import cgroup
from tests.support.deaths import gone, marked
from tests.support.long import first_of
from tests.support.wait import wait_for

FLOOD = [sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "children" / "flood_child.py")]
"""The command, to be followed by kind and count."""
FREEZER = Path("/sys/fs/cgroup/freezer")


def alive(mark: Path) -> list[int]:
    """List the flood's processes that run, by the mark in their environment."""
    return [pid for pid in marked(mark) if not gone(pid)]


def family(mark: Path, epoch: int) -> list[int]:
    """List the processes that run of one term's tree."""
    word = f"HIGHLANDER_EPOCH={epoch}".encode()
    return [pid for pid in alive(mark) if word in _environment(pid)]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended
        return []


@contextlib.contextmanager
def dried(mark: Path) -> Iterator[None]:
    """Leave nothing of a flood behind: all processes of a user can be killed in one step, so that none forks."""
    try:
        yield
    finally:
        while pids := alive(mark):
            strangers = {uid for uid in map(_owner, pids) if uid is not None and uid != os.geteuid()}
            for pid in pids if not strangers else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for uid in strangers:
                _kill_all_of(uid)


def _owner(pid: int) -> int | None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}").stat().st_uid
    return None


def _kill_all_of(uid: int) -> None:
    script = "import os, sys; os.setuid(int(sys.argv[1])); os.kill(-1, 9)"  # as that user it reaches no other one's
    subprocess.run([sys.executable, "-I", "-S", "-c", script, str(uid)], stderr=subprocess.DEVNULL, check=False)


@pytest.fixture(params=first_of(["cgroups", "no cgroups"]))
def grouping(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether what is started from here on can make cgroups: as the machine has it, and without."""
    own = cgroup.own()
    if request.param == "cgroups":
        if own is None:
            pytest.skip("no writable cgroup v2 here")
        yield True
        return
    if own is None:
        yield False
        return
    barren = Path(own) / f"barren.{os.getpid()}"
    barren.mkdir()
    try:
        (barren / "cgroup.max.descendants").write_text("0")
        (barren / "cgroup.procs").write_text("0")
        yield False
    finally:
        wait_for(lambda: _left(barren, "cgroup.procs"), what="the cgroup is empty, and removed")


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Have a process sleep as one does that waits for a dead disk: SIGKILL does not wake it."""
    if os.geteuid() != 0 or not (FREEZER / "tasks").exists():
        pytest.skip("needs root and the freezer of cgroup v1")
    icebox = FREEZER / f"icebox.{pid}"
    icebox.mkdir()
    try:
        (icebox / "tasks").write_text(str(pid))
        (icebox / "freezer.state").write_text("FROZEN")
        wait_for(lambda: (icebox / "freezer.state").read_text() == "FROZEN\n", what="it is frozen")
        yield
    finally:
        (icebox / "freezer.state").write_text("THAWED")
        wait_for(lambda: _left(icebox, "tasks"), what="the icebox is empty, and removed")


def _left(directory: Path, file: str) -> bool:
    """Move what is in a cgroup to the one above, a shared server perhaps, and remove it; whether that is done."""
    for pid in (directory / file).read_text().split():
        with contextlib.suppress(OSError):  # it has ended
            (directory.parent / file).write_text(pid)
    try:
        directory.rmdir()
    except OSError:  # somebody in it is not quite dead
        return False
    return True
