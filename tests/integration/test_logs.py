"""Claims about log files under a whole daemon: rotation from outside, a disk that hangs, another configuration."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import highlanderctl
from tests.support.long import first_of
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

SAY = """
[program.{name}]
command = ["sh", "-c", "while :; do echo {name}; sleep 0.05; done"]
"""
LEASE = 30.0
"""Seconds; nothing here waits for it, and a worker that is replaced on a busy machine may need seconds to start."""


def led(node: Node, *programs: str) -> None:
    """Wait until a node leads these programs."""
    wait_for(lambda: set(node.leading()) >= set(programs), what=f"{programs} are led")


def grows(path: Path) -> None:
    """Wait until lines are added to a file."""
    size = path.stat().st_size if path.exists() else 0
    wait_for(lambda: path.exists() and path.stat().st_size > size, what=f"{path} grows")


def test_reopen_makes_moved_files_anew_and_says_which_cannot_be_opened(nodes: Nodes, database: Database) -> None:
    home = nodes.directory / "logs"
    home.mkdir()
    path = home / "log"
    settled_ledger(database, LEASE)
    programs = SAY.format(name="say") + f'stdout = "{path}"\n' + SAY.format(name="plain")
    [node] = nodes(database, "a", programs=programs, lease=LEASE)
    led(node, "say", "plain")
    grows(path)
    answer = highlanderctl(node.socket, "reopen", "plain")
    assert (answer.code, answer.out) == (0, "plain: nothing to open: it writes no log file here\n")
    path.rename(home / "log.old")
    answer = highlanderctl(node.socket, "reopen", "say")
    assert (answer.code, answer.out) == (0, "say: log files opened anew\n")
    grows(path)
    home.rename(nodes.directory / "away")
    answer = highlanderctl(node.socket, "reopen", "say")
    assert answer.code == 1
    assert f"cannot open {path}: No such file or directory; mend that, and give the order again" in answer.err


def test_a_reload_changes_how_a_running_child_is_logged(nodes: Nodes, database: Database) -> None:
    path = nodes.directory / "log"
    programs = SAY.format(name="say") + f'stdout = "{path}"\n'
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=programs, lease=LEASE)
    led(node, "say")
    grows(path)
    (pid,) = highlanderctl(node.socket, "pid", "say").out.split()
    node.configure(programs + 'log_format = "json"\n')
    assert "applies at once" in highlanderctl(node.socket, "reload").out
    wait_for(lambda: path.read_text().rstrip().endswith("}"), what="lines come as JSON")
    assert json.loads(path.read_text().splitlines()[-1])["line"] == "say"
    assert highlanderctl(node.socket, "pid", "say").out.split() == [pid]


@contextmanager
def frozen_disk(directory: Path) -> Iterator[tuple[Path, list[str]]]:
    """Return a small disk of its own, and the command that freezes it."""
    if os.geteuid():
        pytest.skip("only root may mount a disk")
    image, disk = directory / "image", directory / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(20 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield disk, ["fsfreeze", "--freeze", str(disk)]
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(disk)], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # the node is not closed yet


@pytest.mark.parametrize("overflow", first_of(["wait", "drop"]))
def test_a_frozen_log_disk_stops_its_own_program_s_log_alone(nodes: Nodes, database: Database, overflow: str) -> None:
    with frozen_disk(nodes.directory) as (disk, freeze):
        other = nodes.directory / "other.log"
        programs = SAY.format(name="stuck") + f'stdout = "{disk}/log"\nlog_overflow = "{overflow}"\n'
        programs += SAY.format(name="other") + f'stdout = "{other}"\n' + SAY.format(name="heard")
        settled_ledger(database, LEASE)
        [node] = nodes(database, "a", programs=programs, lease=LEASE)
        led(node, "stuck", "other", "heard")
        grows(disk / "log")
        before = {name: highlanderctl(node.socket, "pid", name).out for name in ("stuck", "other", "heard")}
        subprocess.run(freeze, check=True)
        grows(other)
        worker = node.worker
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: node.worker not in (0, worker), what="the worker is replaced")
        led(node, "stuck", "other", "heard")
        grows(other)
        grows(node.log)
        assert {name: highlanderctl(node.socket, "pid", name).out for name in before} == before
        subprocess.run(["fsfreeze", "--unfreeze", str(disk)], check=True)
        grows(disk / "log")
