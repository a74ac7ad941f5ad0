"""What users get wrong, and what they are told: real daemons, exact sentences, exit codes."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.bad_input import LEASE, QUIET, UNREACHABLE, answering, begin
from tests.support.commands import answers, highlanderctl, highlanderd, led
from tests.support.nodes import PACKAGE, Node, Nodes, settled_ledger
from tests.support.ports import reserved_port
from tests.support.postgres import Database
from tests.support.wait import wait_for

# ---------------------------------------------------------------------------------------------- nothing is ever started


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = highlanderd("-c", tmp_path / "none.toml")
    assert (done.code, done.out) == (78, "")
    assert done.err == f"{tmp_path}/none.toml: there is no such file; create it, or name another one\n"


def test_every_problem_is_told_at_once_with_the_nearest_known_key(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        '[daemon]\nnodee = "a"\n[postgres]\ndsn = "embedded"\nlaese = 3\n'
        '[program.beat]\ncomand = "beat"\ncommand = "sleep 1"\nlock_key = "one"\n'
        '[program.bot]\ncommand = "sleep 1"\nlock_key = "one"\n'
    )
    done = highlanderd("-c", file)
    assert done.code == 78
    assert done.err.splitlines() == [
        f"{file}:2: daemon.nodee: there is no such key in [daemon]; write node",
        f"{file}:5: postgres.laese: there is no such key in [postgres]; write lease",
        f"{file}:7: program.beat.comand: there is no such key in [program.beat]; write command",
        f"{file}:12: program.bot.lock_key: gives program bot the lock id -2761357026925638508, which program beat "
        f"({file}:9) has already; give one of them another lock_key",
    ]
    assert highlanderd("-c", file, "--check") == done


def test_what_is_no_toml(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[program:beat]\ncommand = sleep 1\n")
    done = highlanderd("-c", file)
    assert done.code == 78
    assert done.err == (
        f"{file}:1: this is not TOML: expected ']' at the end of a table declaration (column 9); "
        "write a program's table as [program.NAME]\n"
    )


def test_a_named_include_must_exist_and_a_pattern_may_match_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    rest = f'[postgres]\ndsn = "embedded"\n{QUIET}'
    file.write_text(f'[daemon]\nnode = "a"\ninclude = "more.toml"\n{rest}')
    done = highlanderd("-c", file, "--check")
    assert done.code == 78
    assert done.err == (
        f"{file}:3: daemon.include: {tmp_path}/more.toml: there is no such file; create it, or name another one\n"
    )
    file.write_text(f'[daemon]\nnode = "a"\ninclude = "conf.d/*.toml"\n{rest}')
    done = highlanderd("-c", file, "--check")
    assert (done.code, done.out.splitlines()[0]) == (0, f"{file}: valid; node a, programs: beat")
    assert done.err == (
        f'warning: {file}:3: daemon.include: there is no directory for "conf.d/*.toml"; correct it, or create one\n'
    )
    (tmp_path / "conf.d").mkdir()
    assert highlanderd("-c", file, "--check").err == ""


@pytest.mark.parametrize(("path", "why"), [("occupied/x", "Not a directory"), ("occupied", "File exists")])
@pytest.mark.parametrize("key", ["state_dir", "run_dir"])
def test_a_directory_that_cannot_be_made(tmp_path: Path, key: str, path: str, why: str) -> None:
    file, occupied = tmp_path / "a.toml", tmp_path / "occupied"
    occupied.write_text("")
    other = {"state_dir": "run_dir", "run_dir": "state_dir"}[key]
    file.write_text(
        f'[daemon]\n{key} = "{path}"\n{other} = "fine"\n[postgres]\ndsn = "{UNREACHABLE.format(1)}"\n{QUIET}'
    )
    done = highlanderd("-c", file)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"highlanderd: cannot use daemon.{key} {tmp_path / path}: {why}; "
        "remove what stands there and is no directory, or name another one\n"
    )


FULL_DISK = 'mount -t tmpfs -o size=16k,mode=755 none "$0" 2>&- || exit 77; cat /dev/zero >"$0/full" 2>&-; exec "$@"'
"""For ``sh -c`` in a mount namespace of its own: a directory on a file system without room, and a command."""


def test_a_state_directory_without_room_is_a_sentence_with_the_path(tmp_path: Path) -> None:
    file, full = tmp_path / "a.toml", tmp_path / "full"
    full.mkdir()
    file.write_text(
        f'[daemon]\nrun_dir = "run"\nstate_dir = "full"\n[postgres]\ndsn = "{UNREACHABLE.format(1)}"\n{QUIET}'
    )
    daemon = [sys.executable, "-m", "highlanderd", "-c", str(file)]
    command = ["unshare", "--mount", "sh", "-c", FULL_DISK, str(full), *daemon]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PACKAGE)}, capture_output=True, text=True)
    if run.returncode == 77 or "unshare" in run.stderr:
        pytest.skip("no file system can be mounted here")
    assert (run.returncode, run.stdout) == (1, "")
    said = f"cannot write {full}/instance: No space left on device; mend that, or name another [daemon] state_dir\n"
    assert run.stderr == said


# -------------------------------------------------------------------------------------------------- two daemons at once


def test_a_second_daemon_is_refused_and_the_first_one_goes_on(nodes: Nodes) -> None:
    first = answering(begin(nodes, UNREACHABLE.format(reserved_port())))
    worker, state = first.worker, first.home / "state"
    text, second = first.file.read_text(), first.home / "second.toml"

    second.write_text(text.replace(str(state), str(first.home / "other")))
    done = highlanderd("-c", second)
    assert done.code == 1
    assert done.err.splitlines()[-1] == (
        f"highlanderd: a running daemon already answers on {first.socket}; stop it, or give this one its own run_dir"
    )
    assert not (first.home / "other").exists()

    second.write_text(text.replace(str(first.socket.parent), str(first.home / "elsewhere")))
    done = highlanderd("-c", second)
    assert done.code == 1
    assert done.err.splitlines()[-1] == (
        f"highlanderd: another daemon already uses daemon.state_dir {state}; give each daemon of a host its own"
    )
    assert first.worker == worker
    assert highlanderctl(first.socket, "version").code == 0


def test_two_daemons_with_one_name_are_told_apart_and_told(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    leader = begin(nodes, database.dsn)
    led(leader, "beat")
    other = Node("a", nodes.directory / "other", database.dsn, LEASE, nodes.journal)
    nodes.nodes.append(other)
    other.configure(QUIET)
    other.start()
    told = (
        'warning: another daemon also calls itself "a": no page can tell the two apart; give each its own daemon.node\n'
    )
    wait_for(lambda: answers(other) and told in highlanderctl(other.socket, "status").err, what="it is told")
    wait_for(lambda: other.program("beat")["leader"] == "a", what="it knows who leads")
    assert other.program("beat")["state"] == "waiting"
    assert "warning" not in highlanderctl(leader.socket, "status").err


def test_a_stale_socket_is_replaced(nodes: Nodes) -> None:
    home = nodes.directory / "a"
    (home / "run").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home / "run" / "control.sock"))
    assert highlanderctl(home / "run" / "control.sock", "status").code == 5
    answering(begin(nodes, UNREACHABLE.format(reserved_port())))


# ------------------------------------------------------------------------------------------- its own directories


def test_the_umask_of_the_starter_opens_no_directory_of_the_daemon(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    node.enter = ("sh", "-c", 'umask 0; exec "$0" "$@"')
    nodes.nodes.append(node)
    node.configure(QUIET)
    node.start()
    led(node, "beat")
    found = {path: path.stat().st_mode for path in (node.home / "state", *(node.home / "state").iterdir())}
    assert {path: oct(mode) for path, mode in found.items() if mode & (stat.S_IWGRP | stat.S_IWOTH)} == {}


def test_a_state_directory_that_others_may_write_is_not_used(nodes: Nodes, database: Database) -> None:
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    nodes.nodes.append(node)
    node.configure(QUIET)
    (node.home / "state").mkdir()
    (node.home / "state").chmod(0o777)
    node.start()
    wait_for(lambda: not node.runs, what="it has ended")
    assert f"highlanderd: cannot use daemon.state_dir: everybody may write to {node.home}/state" in node.log.read_text()
    assert list((node.home / "state").iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- a busy port


def test_a_busy_port_keeps_nobody_from_leading_and_is_taken_when_it_is_free(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    with socket.create_server(("127.0.0.1", reserved_port())) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
        nodes.nodes.append(node)
        node.configure(QUIET)
        node.file.write_text(node.file.read_text().replace('listen = ""', f'listen = "{listen}"'))
        node.start()
        led(node, "beat")
        warning = (
            f"warning: cannot listen on {listen}: Address already in use; change [metrics] listen, or switch it off "
            'with listen = ""; trying again every 5 s'
        )
        wait_for(lambda: warning in highlanderctl(node.socket, "status").err.splitlines(), what="the status warns")
    wait_for(lambda: "warning" not in highlanderctl(node.socket, "status").err, what="the warning is gone")
    with urllib.request.urlopen(f"http://{listen}/readyz", timeout=60) as answer:
        assert answer.status == 200
