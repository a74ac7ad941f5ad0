"""No secret anywhere: passwords and environment values show in no answer, log, title, file or complaint.

Each secret is a word that occurs nowhere else; everything that a daemon shows or leaves behind is searched for it.
"""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tests.support.commands import highlanderctl, highlanderd, led
from tests.support.deaths import gone, marked
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.ports import reserved_port
from tests.support.postgres import Cluster, Database
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; nothing here waits for it, and a worker that is replaced on a busy machine may need seconds to start."""
PASSWORD = "secret-of-the-database"
SECRETS = {
    "CLEAR": "secret-in-clear",
    "REFERRED": "secret-by-reference",
    "FILED": "secret-in-a-file",
    "LISTED": "secret-in-an-environment-file",
    "ARGUED": "secret-in-an-argument",
}
PROGRAMS = """
[program.beat]
command = ["sh", "-c", "sleep 1000 # ${ARGUED}"]
environment = { CLEAR = "secret-in-clear", REFERRED = "${REFERRED}", FILED = "file:../filed" }
environment_file = "../listed"
inherit_environment = true
[program.broken]
command = ["no-such-command", "${ARGUED}"]
environment = { CLEAR = "secret-in-clear", REFERRED = "${REFERRED}", FILED = "file:../filed" }
"""


@pytest.fixture
def database(cluster: Cluster) -> Database:
    """A database whose role needs its password."""
    database = cluster.database()
    settled_ledger(database, LEASE)
    cluster.sql(f"ALTER ROLE \"{database.role}\" PASSWORD '{PASSWORD}'")
    rules = cluster.data / "pg_hba.conf"
    rules.write_text(f"host all {database.role} all scram-sha-256\n{rules.read_text()}")
    cluster.sql("SELECT pg_reload_conf()")
    return database


@pytest.fixture
def three(nodes: Nodes, database: Database, monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """Daemons whose dsn is written in clear, by reference, and in a file; each leads a program of its own."""
    dsn = make_conninfo(database.dsn, password=PASSWORD)
    for name in ("REFERRED", "ARGUED"):
        monkeypatch.setenv(name, SECRETS[name])
    monkeypatch.setenv("DATABASE", dsn)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    (nodes.directory / "filed").write_text(SECRETS["FILED"] + "\n")
    (nodes.directory / "listed").write_text(f"LISTED={SECRETS['LISTED']}\n")
    (nodes.directory / "dsn").write_text(dsn + "\n")
    for name, where in {"a": dsn, "b": "${DATABASE}", "c": "file:../dsn"}.items():
        node = Node(name, nodes.directory / name, where, LEASE, nodes.journal)
        nodes.nodes.append(node)
        node.configure(PROGRAMS.replace("program.", f"program.{name}-"))
        node.file.write_text(node.file.read_text().replace('listen = ""', f'listen = "127.0.0.1:{reserved_port()}"'))
        node.start()
    for node in nodes.nodes:
        led(node, f"{node.name}-beat")
    return nodes.nodes


def test_nothing_that_a_daemon_shows_keeps_or_hands_on_holds_a_secret(three: list[Node]) -> None:
    for node in three:
        _check_child(node)
        program = f"{node.name}-beat"
        wait_for(lambda node=node: node.program(f"{node.name}-broken")["failures"] > 0, what="one has failed")  # type: ignore[misc]
        _reload_what_is_wrong(node)
        worker = node.worker
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda node=node, worker=worker: node.worker not in (0, worker) and node.up(), what="a new worker")  # type: ignore[misc]
        led(node, program)
        shown = dict(_shown(node))
        assert "${ARGUED}" in shown["show"], "the command is shown as it was written"
        assert "CLEAR, FILED, JOURNAL, REFERRED" in shown["show"], "names of variables are no secrets"
        for place, text in shown.items():
            assert text, f"{place} shows something"
            assert [word for word in (PASSWORD, *SECRETS.values()) if word in text] == [], f"{node.name}: {place}"


def _check_child(node: Node) -> None:
    """A child gets its own secrets, and none of the daemon's."""
    pid = node.program(f"{node.name}-beat")["pid"]
    pairs = wait_for(Path(f"/proc/{pid}/environ").read_text, what="it is executed").split("\0")[:-1]
    environment = dict(pair.split("=", 1) for pair in pairs)
    assert {name: environment.get(name) for name in SECRETS} == SECRETS
    own = {name: value for name, value in environment.items() if name != "DATABASE"}  # inherited, as it was told
    assert not [name for name in own if name.startswith("PG")]
    assert not [name for name, value in own.items() if PASSWORD in value]


def _reload_what_is_wrong(node: Node) -> None:
    good = node.file.read_text()
    bad = good.replace("[postgres]", f"[postgres]\npasword = '{PASSWORD}'").replace('CLEAR = "', 'CLEAR = 5, "A=" = "')
    node.file.write_text(bad)
    done = highlanderctl(node.socket, "reload")
    assert done.code == 78
    assert PASSWORD not in done.err
    assert SECRETS["CLEAR"] not in done.err
    node.file.write_text(good)


def _shown(node: Node) -> Iterator[tuple[str, str]]:
    """Return all that a daemon shows and leaves behind, by where."""
    program = f"{node.name}-beat"
    for words in ("status", "status --json", f"show {program}", f"show {program} --json", f"show {node.name}-broken"):
        done = highlanderctl(node.socket, *words.split())
        yield words.replace(f" {program}", ""), done.out + done.err
    for words in ("ledger show", "reload --dry-run", "reload"):
        done = highlanderctl(node.socket, *words.split())
        yield words, done.out + done.err
    for resource in ("/v1/status", f"/v1/programs/{program}", f"/v1/programs/{node.name}-broken", "/v1/ledger"):
        yield resource, str(node.control.ask("GET", resource))
    listen = next(line for line in node.file.read_text().splitlines() if line.startswith("listen")).split('"')[1]
    for page in ("metrics", "healthz", "readyz"):
        with urllib.request.urlopen(f"http://{listen}/{page}", timeout=60) as answer:
            yield page, answer.read().decode()
    yield "the log", node.log.read_text()
    ours = [pid for pid in marked(node.home) if not gone(pid)]
    child = node.program(program)["pid"]
    assert len(ours) >= 4, "guardian, worker, keeper, child"
    below = {child, *(pid for pid in ours if _text(Path(f"/proc/{pid}/comm")) == "sleep\n")}
    for pid in set(ours) - below:  # what a child is started with is for its author to say
        yield f"title of {pid}", _text(Path(f"/proc/{pid}/cmdline")) + _text(Path(f"/proc/{pid}/comm")) or "(ended)"
    for path in (*(node.home / "state").rglob("*"), *(node.home / "run").rglob("*")):
        if path.is_file():
            yield f"file {path}", _text(path) or "(empty)"


def _text(path: Path) -> str:
    """Read a file; empty when it is gone: keepers of a program that cannot be started come and go."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


WRONG = (
    f"postgresql://ops:{PASSWORD}@db1:port/ops",
    f"postgresql://ops:{PASSWORD}@[::1/ops",
    f"postgresql://ops:{PASSWORD}@db1/ops?nonsense=1",
    f"postgresql://ops:{PASSWORD}%zz@db1/ops",
    f"host=db1 password='{PASSWORD}",
    f"postgresql://ops:at@{PASSWORD}@db1/ops",
    f"postgresql://ops:slash/{PASSWORD}@db1/ops",
    f"host=db1 password={PASSWORD} nonsense",
    f"host=db1 pasword={PASSWORD}",
    f"host=db1 password = {PASSWORD} =",
    f"mysql://ops:{PASSWORD}@db1/ops",
    PASSWORD,
)


WAYS = ("in clear", "by reference", "in a file")


@pytest.mark.parametrize(("dsn", "way"), list(zip(WRONG, cycle(WAYS), strict=False)))
def test_a_wrong_dsn_is_refused_without_its_secret(tmp_path: Path, dsn: str, way: str) -> None:
    file = tmp_path / "a.toml"
    (tmp_path / "dsn").write_text(dsn)
    written = {"in clear": dsn, "by reference": "${DATABASE}", "in a file": "file:dsn"}[way]
    file.write_text(f'[postgres]\ndsn = "{written}"\n[program.beat]\ncommand = "sleep 1"\n')
    done = highlanderd("-c", file, "--check", DATABASE=dsn)
    assert (done.code, done.out) == (78, "")
    assert done.err.startswith(f"{file}:2: postgres.dsn: ")
    assert PASSWORD not in done.err
