"""``highlanderd`` without becoming a daemon: check, print, and what it refuses at the command line."""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from highlanderd import __version__
from highlanderd.config import load
from highlanderd.errors import HighlanderError
from highlanderd.worker import startup
from highlanderd.worker.startup import LIBRARIES
from tests.support.commands import highlanderd, led
from tests.support.nodes import Nodes
from tests.support.postgres import Database
from tests.support.processes import ROOT

GOOD = '[daemon]\nnode = "a"\nstate_dir = "state"\nrun_dir = "run"\n[postgres]\ndsn = "host=db1 dbname=ops user=ops"\n'


def test_the_version_is_one_line() -> None:
    done = highlanderd("--version")
    assert (done.code, done.out, done.err) == (0, f"highlanderd {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--frobnicate",), "there is no option --frobnicate; 'highlanderd --help' lists those that there are"),
        (("rnu", "--", "true"), "there is no command 'rnu'; did you mean 'run'?"),
        (("-c",), "argument -c/--config: expected one argument"),
        (("--check", "--print-schema"), "argument --print-schema: not allowed with argument --check"),
        (("--from", "1"), "--from belongs to --print-schema"),
        (("--check", "--from", "1"), "--from belongs to --print-schema"),
        (("--print-schema", "--from", "7"), "--from 7: there is a way to schema 4 from 1, 2, 3 only"),
        (("--print-schema", "--from", "0"), "--from 0: there is a way to schema 4 from 1, 2, 3 only"),
        (("--print-schema", "--from", "x"), "argument --from: invalid int value: 'x'"),
    ],
)
def test_usage_errors_exit_with_two(words: tuple[str, ...], said: str) -> None:
    done = highlanderd(*words)  # without a file, which would be 78: the command line is judged first
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0].startswith("usage: highlanderd [-h]")
    assert done.err.splitlines()[-1] == f"highlanderd: error: {said}"


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_daemon_that_lacks_a_library_of_its_worker_ends_with_one_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def found(wanted: str) -> object:
        return None if wanted == name else object()

    monkeypatch.setattr(startup, "find_spec", found)
    (tmp_path / "node.toml").write_text(GOOD)
    with pytest.raises(HighlanderError, match=f"for want of a library: No module named '{name}'; install that"):
        startup.become_daemon(tmp_path / "node.toml", load(tmp_path / "node.toml", {}), None)
    assert [file.name for file in tmp_path.iterdir()] == ["node.toml"]


def test_an_option_that_a_command_has_not_is_answered_with_its_usage() -> None:
    done = highlanderd("run", "--at-most-evry", "1h", "--", "true")
    assert (done.code, done.err.startswith("usage: highlanderd run ")) == (2, True)
    assert "highlanderd run: error: there is no option --at-most-evry; did you mean --at-most-every?" in done.err


def test_a_command_that_is_none_is_named_beside_those_that_there_are() -> None:
    done = highlanderd("start")
    assert (done.code, done.out) == (2, "")
    said = "highlanderd: error: argument COMMAND: invalid choice: 'start' (choose from"
    assert done.err.splitlines()[-1].startswith(said), "each Python quotes them in its own way"


def test_help_names_the_exit_codes_and_hides_what_is_not_for_people() -> None:
    done = highlanderd("--help")
    assert done.code == 0
    assert "Exit codes: 0 done, 1 failed, 2 usage, 78 configuration invalid, 130 Ctrl-C." in " ".join(done.out.split())
    assert "--worker" not in done.out


def test_check_names_what_is_valid_and_touches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f'{GOOD}[program.beat]\ncommand = "sleep 1"\n[program.bot]\ncommand = "sleep 1"\n')
    done = highlanderd("-c", file, "--check")
    assert (done.code, done.err) == (0, "")
    valid, lease, *bounds = done.out.splitlines()
    assert valid == f"{file}: valid; node a, programs: beat, bot"
    assert lease == "with a lease of 10s (an existing ledger's own lease rules):"
    assert bounds
    assert list(tmp_path.iterdir()) == [file]


def test_check_counts_as_problems_what_this_machine_lacks(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        f'{GOOD}[program.beat]\ncommand = "no-such-command"\nuser = "no-such-user"\ndirectory = "/no/such"\n'
    )
    done = highlanderd("-c", file, "--check")
    assert (done.code, done.out) == (78, "")
    assert done.err.splitlines() == [
        f'{file}:8: program.beat.command: there is no command "no-such-command" in the child\'s PATH; install it, '
        "write its whole path, or set PATH in environment",
        f'{file}:9: program.beat.user: there is no user "no-such-user" on this machine; create it, or set another user',
        f"{file}:10: program.beat.directory: the directory /no/such does not exist; create it, or name another one",
    ]


def test_a_printed_schema_lets_a_role_lead_that_may_do_nothing_else(nodes: Nodes, database: Database) -> None:
    database.sql("DROP SCHEMA highlander")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.sql("CREATE SCHEMA mine")
    file = nodes.directory / "print.toml"
    file.write_text(f'[postgres]\ndsn = "{database.dsn}"\nlease = 6\n')
    printed = highlanderd("-c", file, "--print-schema")
    assert printed.code == 0
    assert [line for line in printed.err.splitlines() if line] == []
    assert re.search("^BEGIN;$.*^COMMIT;$", printed.out, re.MULTILINE | re.DOTALL)

    administrator = make_conninfo(database.dsn, user=database.server.user)
    with psycopg.connect(administrator) as connection:
        connection.execute(printed.out.encode())
    with psycopg.connect(administrator) as connection, pytest.raises(psycopg.errors.DuplicateTable):
        connection.execute(printed.out.encode())  # once more: refused as a whole

    [node] = nodes(database, "a", programs=["beat"], lease=6.0)
    led(node, "beat")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.sql("DROP TABLE highlander.lease")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.sql("ALTER TABLE highlander.lease DISABLE TRIGGER ALL")


def test_an_embedded_server_that_is_not_installed_is_said_by_check(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for place in map(Path, site.getsitepackages()):
        for entry in place.iterdir():
            if "pgserver" not in entry.name:
                (packages / entry.name).symlink_to(entry)
    file = tmp_path / "highlander.toml"
    file.write_text('[daemon]\nstate_dir = "state"\nrun_dir = "run"\n[postgres]\ndsn = "embedded"\n')
    command = [sys.executable, "-S", "-m", "highlanderd", "-c", str(file), "--check"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{packages}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert f"{file}: postgres.dsn: the embedded PostgreSQL is not installed: " in done.stderr
