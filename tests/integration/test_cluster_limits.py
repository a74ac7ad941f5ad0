"""Limits by cgroup on a real daemon, where the kernel has the controllers: it says itself what it killed, and why."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.system import cgroup_places, controllers
from tests.support.commands import NOBODY, as_nobody
from tests.support.nodes import Node, Nodes, ends
from tests.support.postgres import Database
from tests.support.wait import wait_for

HOG = "import os, time; os.fork() or time.sleep(600); held = [bytearray(b'x') * (4 << 20) for _ in range(64)]"
"""Needs four times as much memory as it may have, and has a child that needs none."""


def parent() -> Path | None:
    """Return a cgroup that passes on all that limits a program, this process' own or one above; None without one."""
    for directory, mount in cgroup_places.places():
        for each in (Path(directory), *Path(directory).parents):
            inside = each.is_relative_to(mount) and os.access(each, os.W_OK)
            if inside and set(controllers.CONTROLLERS.values()) <= set(controllers.passed_on(str(each))):
                return each
    return None


@pytest.fixture
def delegated() -> Iterator[Path]:
    """Yield a cgroup for a daemon alone, as systemd makes one with ``Delegate=yes``."""
    above = parent()
    if above is None:
        pytest.skip("needs cgroups of version 2 with the controllers of memory, processors and processes")
    made = above / f"highlander-test.{os.getpid()}"
    made.mkdir()
    yield made
    wait_for(lambda: _removed(made), what="the daemon is gone, and its cgroups are removed")


def _removed(top: Path) -> bool:
    try:
        for each in (*(path for path in top.iterdir() if path.is_dir()), top):
            each.rmdir()
    except OSError:  # somebody in it is not quite dead
        return False
    return True


@pytest.fixture(params=["root", "an ordinary user"])
def becomes(request: pytest.FixtureRequest, delegated: Path, nodes: Nodes) -> tuple[str, ...]:
    """Return the words before a daemon's command that make it somebody's, who has been given the cgroup."""
    if request.param == "root":
        return ()
    for path in (nodes.directory, delegated, *(delegated / f"cgroup.{name}" for name in ("procs", "subtree_control"))):
        os.chown(path, NOBODY, NOBODY)
    return as_nobody()


def test_limits_hold_and_a_tree_without_memory_is_killed_as_a_whole(
    delegated: Path, becomes: tuple[str, ...], nodes: Nodes, database: Database
) -> None:
    command = f'command = ["{sys.executable}", "-I", "-S", "-c", "{HOG}"]'
    limits = 'limits = { memory_max = "64MiB", cpu_max = 0.5, tasks_max = 30 }'
    programs = f'[program.hog]\n{command}\n{limits}\nbackoff = "60s"\n[program.calm]\ncommand = "sleep 600"\n{limits}\n'
    node = Node("a", nodes.directory / "a", database.dsn, 20.0, nodes.journal)
    nodes.nodes.append(node)
    node.configure(programs)
    os.chown(node.home, nodes.directory.stat().st_uid, -1)
    node.enter = ("sh", "-c", f'echo 0 >{delegated}/cgroup.procs && exec "$0" "$@"', *becomes)
    node.start()
    nodes.await_up(node)
    wait_for(lambda: ends(database, "hog")[:1] == ["out_of_memory"], what="the kernel has killed it, and is named")
    wait_for(lambda: node.program("calm")["pid"], what="its neighbour runs")
    inside = Path(f"/proc/{node.program('calm')['pid']}/cgroup").read_text().rpartition("/")[2].strip()
    files = ("memory.max", "memory.oom.group", "cpu.max", "pids.max")
    held = {name: (delegated / inside / name).read_text().strip() for name in files}
    assert held == dict(zip(files, ("67108864", "1", "50000 100000", "30"), strict=True))
    assert "runs without a limit" not in node.log.read_text()
