"""Readiness and liveness on real daemons: who is not ready or hangs loses the lead, and a healthy child never does."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from highlanderd.guardian import cgroup
from tests.support.commands import NOBODY, as_nobody, highlanderctl
from tests.support.long import first_of
from tests.support.nodes import Node, Nodes, ends, settled_ledger
from tests.support.ports import reserved_port
from tests.support.postgres import Database
from tests.support.proxy import OpensDoors
from tests.support.wait import wait_for

LEASE = 20.0
"""Seconds; nothing here waits for it."""
CHILD = [sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "children" / "probed_child.py")]
HTTP = '{{ http = "http://localhost:{port}/health", period = "0.3s", timeout = "2s" }}'
TCP = '{{ tcp = "127.0.0.1:{port}", period = "0.3s", timeout = "2s" }}'
CHECK = (
    "import socket, sys; s = socket.create_connection(('127.0.0.1', {port}), 2); s.sendall(b'GET /'); "
    "sys.exit(b' 200 ' not in s.recv(100))"
)
EXEC = f"""{{{{ exec = ["{sys.executable}", "-I", "-S", "-c", "{CHECK}"], period = "0.3s", timeout = "5s" }}}}"""
NOTIFY = '"notify"'
KINDS = {"http": HTTP, "exec": EXEC, "notify": NOTIFY, "tcp": TCP}


def program(ready: str, alive: str = "", **keys: str) -> str:
    """Return the table of the one program, whose child answers on a port of its own."""
    port = reserved_port()
    lines = {"ready": ready, **({"alive": alive} if alive else {}), **keys}
    written = "\n".join(f"{key} = {value.format(port=port)}" for key, value in lines.items())
    environment = f'PORT = "{port}"' + (', DOOR = "1"' if ready == TCP else "")
    return f"[program.web]\ncommand = {CHILD!r}\nenvironment = {{ {environment} }}\n{written}\n"


def says(nodes: Nodes, what: str, so: bool = True) -> None:
    """Make the child ready or not, hang or not."""
    file = Path(f"{nodes.journal.path}.{what}")
    if so:
        file.touch()
    else:
        file.unlink()


def leader(nodes: Nodes) -> Node:
    return nodes.await_led("web")["web"]


def await_ready(node: Node) -> None:
    wait_for(lambda: node.program("web")["ready"], what=f"{node.name} has it ready")


@pytest.mark.parametrize("kind", [*KINDS])
def test_a_program_is_ready_when_it_says_so_itself(nodes: Nodes, database: Database, kind: str) -> None:
    settled_ledger(database, LEASE)
    says(nodes, "unready")
    [node] = nodes(database, "a", programs=program(KINDS[kind]), lease=LEASE)
    leader(nodes)
    wait_for(lambda: "not ready yet: " in node.program("web")["reason"], what="status says why")
    assert not node.program("web")["ready"]
    says(nodes, "unready", so=False)
    await_ready(node)
    assert ends(database, "web") == [None]


@pytest.fixture(params=["cgroups", "no cgroups"])
def ordinary(request: pytest.FixtureRequest, nodes: Nodes) -> Iterator[tuple[str, ...]]:
    """What makes a daemon an ordinary user's, whose service manager has given it a cgroup, or none."""
    user, own = as_nobody(), cgroup.own()
    for path in (nodes.directory, nodes.directory / "a"):
        path.mkdir(exist_ok=True)
        os.chown(path, NOBODY, NOBODY)
    if request.param == "no cgroups":
        yield user
        return
    if own is None:
        pytest.skip("no writable cgroup v2 here")
    delegated = Path(own) / f"ordinary.{os.getpid()}"
    delegated.mkdir()
    for path in (delegated, delegated / "cgroup.procs"):
        os.chown(path, NOBODY, NOBODY)
    yield ("sh", "-c", f'echo 0 >{delegated}/cgroup.procs && exec "$@"', "sh", *user)
    nodes.end()
    wait_for(lambda: not (delegated / "cgroup.procs").read_text(), what="the cgroup is empty")
    delegated.rmdir()


@pytest.mark.long
@pytest.mark.parametrize("kind", [*KINDS])
def test_an_ordinary_users_daemon_asks_its_program_and_ends_a_term_in_which_it_hangs(
    nodes: Nodes, database: Database, ordinary: tuple[str, ...], kind: str
) -> None:
    settled_ledger(database, LEASE)
    says(nodes, "unready")
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    nodes.nodes.append(node)
    node.enter = ordinary
    node.configure(program(KINDS[kind], KINDS[kind], alive_timeout='"1s"'))
    node.start()
    leader(nodes)
    assert not node.program("web")["ready"]
    child = node.program("web")["pid"]
    assert f"\nUid:\t{NOBODY}\t" in Path(f"/proc/{child}/status").read_text()
    assert ("highlander." in Path(f"/proc/{child}/cgroup").read_text()) == (ordinary[0] == "sh")
    says(nodes, "unready", so=False)
    await_ready(node)
    says(nodes, "hangs.a")
    wait_for(lambda: ends(database, "web")[0] == "unhealthy", what="the term has ended for it")
    says(nodes, "hangs.a", so=False)
    await_ready(node)


@pytest.mark.parametrize("kind", first_of(KINDS))
def test_what_is_not_ready_in_time_has_its_chance_on_the_next_node(nodes: Nodes, database: Database, kind: str) -> None:
    settled_ledger(database, LEASE)
    says(nodes, "unready")
    keys = {"ready_timeout": '"2s"', "backoff": '"120s"', "backoff_max": '"120s"'}
    nodes(database, "a", "b", programs=program(KINDS[kind], **keys), lease=LEASE)
    first = leader(nodes)
    wait_for(lambda: ends(database, "web")[0] == "not_ready", what="its time is over")
    says(nodes, "unready", so=False)  # now: the next one has no longer
    wait_for(lambda: first.program("web")["state"] == "backoff", what="the first node has given it up")
    assert re.search(r"not ready \d", first.program("web")["reason"])
    await_ready(nodes.await_led("web", without=first)["web"])


def test_a_program_that_is_not_ready_in_time_is_started_again_where_there_is_no_other_node(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    says(nodes, "unready")
    [node] = nodes(database, "a", programs=program(HTTP, ready_timeout='"1s"'), lease=LEASE)
    wait_for(lambda: ends(database, "web")[:2] == ["not_ready", "not_ready"], what="two terms have ended so")
    says(nodes, "unready", so=False)
    await_ready(node)


@pytest.mark.parametrize("kind", first_of(KINDS))
def test_a_program_that_hangs_moves_to_the_next_node(nodes: Nodes, database: Database, kind: str) -> None:
    """It accepts and never answers, and is deaf to nothing: its tree has ended before the next one begins."""
    settled_ledger(database, LEASE)
    keys = {"alive_timeout": '"4s"', "backoff": '"120s"', "backoff_max": '"120s"'}
    nodes(database, "a", "b", programs=program(KINDS[kind], KINDS[kind], **keys), lease=LEASE)
    first = leader(nodes)
    await_ready(first)
    says(nodes, f"hangs.{first.name}")
    second = nodes.await_led("web", without=first)["web"]
    await_ready(second)
    assert ends(database, "web") == ["unhealthy", None]
    assert "not alive: " in first.program("web")["reason"]


def test_a_worker_that_stands_still_takes_nobody_for_unwell(nodes: Nodes, database: Database) -> None:
    """One bad answer would end the term here, and each time the worker stands still while it waits for one."""
    lease = 2 * LEASE  # a busy machine may leave it standing for twice as long
    settled_ledger(database, lease)
    once = '{{ http = "http://127.0.0.1:{port}/", period = "0.1s", timeout = "2s", threshold = 1 }}'
    [node] = nodes(database, "a", programs=program(HTTP, once), lease=lease)
    await_ready(node)
    for _ in range(2):
        node.freeze(node.worker)
        _live_on(nodes, 2.8)
        node.thaw()
        assert node.program("web")["ready"]
    assert ends(database, "web") == [None]


def _live_on(nodes: Nodes, seconds: float) -> None:
    """Let the child write for so long."""
    until = nodes.life("web").last + seconds
    wait_for(lambda: nodes.life("web").last > until, what="the child lives on")


def test_who_was_ready_is_ready_for_the_next_worker(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=program(HTTP, ready_timeout='"5s"'), lease=LEASE)
    await_ready(node)
    says(nodes, "unready")
    os.kill(node.worker, signal.SIGKILL)
    wait_for(lambda: node.up() and node.program("web")["ready"], what="the next worker knows that it is ready")
    _live_on(nodes, 6)
    assert node.program("web")["ready"]
    assert ends(database, "web") == [None]


def test_probes_go_on_while_postgresql_is_away(nodes: Nodes, database: Database, door: OpensDoors) -> None:
    settled_ledger(database, 60.0)
    way = door(database.dsn)
    [node] = nodes(way.dsn(database.dsn), "a", programs=program(HTTP, HTTP), lease=60.0)
    await_ready(node)
    way.swallow()
    says(nodes, "hangs.a")
    wait_for(lambda: node.program("web")["state"] == "draining", what="the term is being ended")
    assert "not alive: " in node.program("web")["reason"]
    says(nodes, "hangs.a", so=False)
    way.heal()
    await_ready(node)
    assert ends(database, "web") == ["unhealthy", None]


def test_a_release_and_a_wait_are_over_once_the_program_is_ready_on_the_other_node(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    nodes(database, "a", "b", programs=program(HTTP), lease=LEASE)
    first = leader(nodes)
    await_ready(first)
    says(nodes, "unready")
    late = highlanderctl(first.socket, "release", "web", "--timeout", "6s")
    assert (late.code, "is not ready there yet" in late.err) == (7, True), late
    second = leader(nodes)
    assert second is not first
    waiting = highlanderctl(first.socket, "wait", "web", "--for", "ready", "--timeout", "1s")
    assert waiting.code == 7, waiting
    says(nodes, "unready", so=False)
    for node in (first, second):
        waited = highlanderctl(node.socket, "wait", "web", "--for", "ready")
        assert (waited.code, "ready, " in waited.out) == (0, True), waited
    back = highlanderctl(second.socket, "release", "web")
    assert back.code == 0, back
    assert first.program("web")["ready"]


def test_a_restart_is_over_once_the_program_is_ready(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=program(HTTP), lease=LEASE)
    leader(nodes)
    await_ready(node)
    node.order("restart", "web")
    assert node.program("web")["ready"]


def test_a_reload_has_the_running_child_asked_anew(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    table = program(HTTP)
    [node] = nodes(database, "a", programs=table, lease=LEASE)
    leader(nodes)
    await_ready(node)
    life = nodes.life("web")
    nothing = f"tcp = '127.0.0.1:{reserved_port()}', period = '0.1s', threshold = 2"
    node.configure(f"{table}alive = {{ {nothing} }}\n")
    told = node.control.ask("POST", "/v1/reload", {"dry_run": True})
    assert told["changes"] == ["web: changed (alive): applies at once"]
    node.control.ask("POST", "/v1/reload", {})
    wait_for(lambda: ends(database, "web")[0] == "unhealthy", what="what it is asked now is what nobody answers")
    assert nodes.journal.lives("web")[0].main == life.main
    node.configure(table.replace("ready = ", "ready = 'notify' #"))
    told = node.control.ask("POST", "/v1/reload", {"dry_run": True})
    [change] = told["changes"]
    assert "(ready, alive)" in change
    assert "at once" not in change


HAPROXY = """
global
    stats socket {admin}
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend singleton
    bind 127.0.0.1:{front}
    default_backend web
backend web
    option httpchk
    http-check send meth GET uri /leader/web
    http-check expect status 200
    default-server inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions
{servers}
"""


def _release(nodes: Nodes) -> None:
    leader(nodes).order("release", "web")


def _release_and_kill_the_worker(nodes: Nodes) -> None:
    """Kill the next leader's worker, too, while the program gets ready there."""
    first = leader(nodes)
    first.order("release", "web", wait=False)
    second = nodes.await_led("web", without=first)["web"]
    os.kill(second.worker, signal.SIGKILL)


def _kill_the_child(nodes: Nodes) -> None:
    os.kill(leader(nodes).program("web")["pid"], signal.SIGKILL)


def _crash_the_node(nodes: Nodes) -> None:
    leader(nodes).crash()


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="there is no haproxy here")
@pytest.mark.parametrize(
    ("failovers", "lease"),
    [
        pytest.param([_release] * 3, LEASE, id="orders", marks=pytest.mark.long),
        pytest.param(
            [_kill_the_child, _release_and_kill_the_worker, _crash_the_node], 6.0, id="deaths", marks=pytest.mark.long
        ),
    ],
)
def test_no_request_reaches_a_program_before_it_is_ready_through_three_failovers(
    nodes: Nodes, database: Database, failovers: list[Callable[[Nodes], None]], lease: float
) -> None:
    """The child takes two seconds to get ready, and notes each request that comes before."""
    settled_ledger(database, lease)
    front, servers = reserved_port(), []
    for name in ("a", "b", "c"):
        node = Node(name, nodes.directory / name, database.dsn, lease, nodes.journal)
        web, metrics = reserved_port(), reserved_port()
        ready = f'{{{{ http = "http://127.0.0.1:{web}/health", period = "0.2s" }}}}'
        table = program(ready, backoff='"2s"')  # longer than HAProxy needs to see that the former child is gone
        node.configure(table.replace("PORT = ", f'SLOW = "2", PORT = "{web}", FORMER = '))
        node.file.write_text(node.file.read_text().replace('listen = ""', f'listen = "127.0.0.1:{metrics}"'))
        servers.append(f"    server {name} 127.0.0.1:{web} check port {metrics}")
        nodes.nodes.append(node)
        node.start()
    nodes.await_up(*nodes.nodes)
    await_ready(leader(nodes))
    file, admin = nodes.directory / "haproxy.cfg", nodes.directory / "haproxy.sock"
    file.write_text(HAPROXY.format(front=front, servers="\n".join(servers), admin=admin))
    with subprocess.Popen(
        ["haproxy", "-db", "-f", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as proxy:
        try:
            wait_for(lambda: _statuses(admin) == ["DOWN", "DOWN", "UP"], what="HAProxy has made its first checks")
            served = [_served_by_another(front, b"")]
            for fail_over in failovers:
                fail_over(nodes)
                served.append(_served_by_another(front, served[-1]))
        finally:
            proxy.kill()
    assert all(one != other for one, other in pairwise(served))
    assert not Path(f"{nodes.journal.path}.early").exists()


def _statuses(admin: Path) -> list[str]:
    """Return what HAProxy takes its servers for, sorted; before its first checks each is up."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(admin))
        connection.sendall(b"show stat\n")
        rows = csv.DictReader(b"".join(iter(lambda: connection.recv(4096), b"")).decode().lstrip("# ").splitlines())
        return sorted(row["status"] for row in rows if row["svname"] in ("a", "b", "c"))
    return []


def _served_by_another(front: int, former: bytes) -> bytes:
    """Ask again and again, until another term's child has answered; gives its epoch."""

    def answer() -> bytes:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", front), 2) as connection:
            connection.sendall(b"GET /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            said = b"".join(iter(lambda: connection.recv(4096), b""))
            body = said.partition(b"\r\n\r\n")[2]
            return body if b" 200 " in said.partition(b"\r\n")[0] and body != former else b""
        return b""

    return wait_for(answer, what="another child serves")
