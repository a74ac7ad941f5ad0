"""The next worker has imported everything before the last one dies, if its code is still the installed code."""

from __future__ import annotations

import contextlib
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from highlanderd.errors import HighlanderError
from tests.support.commands import highlanderctl
from tests.support.deaths import open_files, proc_file
from tests.support.installed import Installed
from tests.support.nodes import PACKAGE, PATIENCE, Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.processes import gone
from tests.support.undisturbed import LEASE, Strained
from tests.support.wait import wait_for

LONG_LEASE = 30.0
"""Seconds; two workers are executed within it, on a busy machine."""


def below(pid: int) -> list[int]:
    """Return the children of a process' first thread."""
    return [int(word) for word in proc_file(f"/proc/{pid}/task/{pid}/children").split()]


def spare_of(node: Node) -> int:
    """Return the pid of the spare, which is a child of the worker while that lives."""

    def shown() -> int:
        commands = {pid: proc_file(f"/proc/{pid}/cmdline") for pid in below(node.worker)}
        return next((pid for pid, command in commands.items() if b"--spare" in command), 0)

    return wait_for(shown, PATIENCE, "the worker has a spare")


def works(node: Node, pid: int) -> bool:
    """Return whether this process is the worker, and leads."""
    with contextlib.suppress(HighlanderError):
        return node.worker == pid and bool(node.leading())
    return False


def another_works(node: Node, *others: int) -> bool:
    """Return whether a worker leads that is none of these."""
    with contextlib.suppress(HighlanderError):
        return node.worker not in others and bool(node.leading())
    return False


def test_the_spare_of_a_dead_worker_is_the_next_worker_and_has_a_spare_of_its_own(
    nodes: Nodes, database: Database
) -> None:
    strained = Strained(nodes, database, "[program.beat]\n", lease=LONG_LEASE)
    node = strained.node
    for _ in range(2):
        spare, dead = spare_of(node), node.worker
        os.kill(dead, signal.SIGKILL)
        wait_for(partial(works, node, spare), PATIENCE, "the spare works")
        assert gone(dead)
        assert os.getpgid(spare) == spare, "a signal to the terminal's group does not reach it"
    assert strained.await_led() == strained.led
    strained.works()


def test_a_spare_that_is_frozen_or_dead_is_passed_over(nodes: Nodes, database: Database) -> None:
    strained = Strained(nodes, database, "[program.beat]\n", lease=LONG_LEASE)
    node = strained.node
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        spare, dead = spare_of(node), node.worker
        os.kill(spare, signum)
        os.kill(dead, signal.SIGKILL)
        wait_for(partial(another_works, node, dead, spare), PATIENCE, "another worker works")
        wait_for(partial(gone, spare), PATIENCE, "nothing is left of the spare")
    assert "no sign of life" not in node.log.read_text(), "nobody has waited for it"
    assert strained.await_led() == strained.led


def test_a_worker_of_other_code_is_not_the_spare_but_executed(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    installed = Installed(nodes.directory / "site")
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    nodes.nodes.append(node)
    node.environment = installed.environment
    node.configure(["beat"])
    node.start()
    nodes.await_led("beat")
    spare, dead = spare_of(node), node.worker
    installed.of_version("99.0")
    os.kill(dead, signal.SIGKILL)
    wait_for(partial(another_works, node, dead, spare), PATIENCE, "another worker works")
    assert node.status()["worker"]["version"] == "99.0"
    wait_for(lambda: gone(spare), PATIENCE, "the spare of the old code has ended")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["in good order", "killed"])
def test_no_spare_outlives_its_guardian(nodes: Nodes, database: Database, signum: int) -> None:
    node = Strained(nodes, database, "[program.beat]\n").node
    spare = spare_of(node)
    node.signal(signum)
    node.ended()
    wait_for(partial(gone, spare), PATIENCE, "the spare has ended")


def test_the_first_worker_is_forked_by_the_process_that_becomes_the_guardian(nodes: Nodes, database: Database) -> None:
    """It is confined as those are that guardian or worker execute: rights, descriptors, limits and process group."""
    settled_ledger(database, LONG_LEASE)
    node = Node("a", nodes.directory / "a", database.dsn, LONG_LEASE, nodes.journal)
    nodes.nodes.append(node)
    node.environment = {"PYTHONPATH": str(PACKAGE)}  # so it is executed
    node.configure(["beat"])
    node.start()
    nodes.await_led("beat")
    first = node.worker
    forked = confinement(first)
    assert command_of(first)[1:] == ["-m", "highlanderd", "-c", str(node.file), "--worker"]
    os.kill(spare_of(node), signal.SIGKILL)
    os.kill(first, signal.SIGKILL)
    wait_for(partial(another_works, node, first), PATIENCE, "another worker works")
    assert command_of(node.worker)[1:-1] == ["-m", "highlanderd", "-c", str(node.file), "--worker"]
    wait_for(lambda: forked == confinement(node.worker), PATIENCE, "it is confined as the first one was")
    assert highlanderctl(node.socket, "renew").code == 0
    wait_for(lambda: forked == confinement(node.worker), PATIENCE, "so is one that a worker has executed")
    assert forked["NoNewPrivs"] == "1"


def command_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]


def confinement(pid: int) -> dict[str, str]:
    """Return what confines a worker, and which files it holds."""
    place = Path(f"/proc/{pid}")
    shown = dict(line.split(":\t") for line in (place / "status").read_text().splitlines() if ":\t" in line)
    kept = {name: value for name, value in shown.items() if name.startswith(("Cap", "NoNew", "Sig")) and name != "SigQ"}
    files = sorted(
        {name for name in open_files(pid).values() if name.startswith("/") and not name.startswith("/proc/")}
    )
    return {
        **kept,
        "files": " ".join(files),
        "limit": next(line for line in (place / "limits").read_text().splitlines() if "open files" in line),
        "input": str((place / "fd" / "0").readlink()),
        "own group": str(os.getpgid(pid) == pid),
    }
