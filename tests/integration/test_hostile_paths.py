"""Whatever a program's user puts where root will look: no secret is read, nothing is written, no other waits."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.commands import answers, highlanderd, led
from tests.support.nodes import PATIENCE, Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root opens what another user may not")

LEASE = 10.0
GAMES = 54321
"""A user that nobody else is."""
PROGRAM = """
[program.{name}]
command = ["sleep", "1000"]
user = {user}
group = {user}
backoff = "100ms"
{key} = "{path}"
"""
TRAPS = {
    "secret": ("environment_file", "the program's user may not read the environment file"),
    "fifo": ("environment_file", "this is no regular file"),
    "zero": ("environment_file", "this is no regular file"),
    "huge": ("environment_file", "larger than 1 MiB"),
    "locked": ("directory", "cannot enter directory"),
}
"""By the name of the program and of what is put there: the key, and what is said."""


def prepare(home: Path) -> Path:
    """Make a directory of games', with a trap for each key. Return the canary."""
    canary = home.parent / "canary"
    canary.write_text("TOKEN=hunter2\n")
    canary.chmod(0o600)
    (home.parent / "closed").mkdir(mode=0o700)
    home.mkdir()
    os.chown(home, GAMES, GAMES)
    (home / "secret").symlink_to(canary)
    os.mkfifo(home / "fifo", 0o666)
    (home / "zero").symlink_to("/dev/zero")
    (home / "huge").touch()
    os.truncate(home / "huge", 1 << 40)
    (home / "locked").symlink_to(home.parent / "closed")
    (home / "log").symlink_to(canary)
    return canary


def test_no_trap_of_a_programs_user_leads_root_anywhere_or_holds_up_another_program(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    nodes.nodes.append(node)
    home = node.home / "games"
    canary = prepare(home)
    before = canary.stat()
    bad = [PROGRAM.format(name=name, user=GAMES, key=key, path=home / name) for name, (key, _) in TRAPS.items()]
    logs = PROGRAM.format(name="logs", user=GAMES, key="stdout", path=home / "log").replace('"sleep", "1000"', '"id"')
    node.configure("".join((*bad, logs, '[program.good]\ncommand = ["sleep", "1000"]\n')))
    node.start()
    led(node, "good")
    worker = node.worker
    for name, (_, words) in TRAPS.items():

        def says(name: str = name, words: str = words) -> bool:
            return answers(node) and words in str(node.program(name)["reason"])

        wait_for(says, PATIENCE, f"{name} says {words}")
    wait_for(lambda: node.program("logs")["restarts"] >= 2, PATIENCE, "what writes into a link has run a few times")
    after = canary.stat()
    assert canary.read_text() == "TOKEN=hunter2\n"
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert "hunter2" not in node.log.read_text()
    assert (node.worker, node.program("good")["restarts"]) == (worker, 0)
    assert stat.S_ISLNK((home / "log").lstat().st_mode)


def test_a_check_names_the_traps_and_ends(nodes: Nodes, database: Database) -> None:
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    home = node.home / "games"
    prepare(home)
    node.configure(
        "".join(PROGRAM.format(name=name, user=GAMES, key=key, path=home / name) for name, (key, _) in TRAPS.items())
    )
    checked = highlanderd("--check", "-c", node.file)
    assert checked.code == 78
    said = {line.split(": ")[1] for line in checked.err.splitlines()}
    assert said == {f"program.{name}.{key}" for name, (key, _) in TRAPS.items()}
    assert "hunter2" not in checked.err
