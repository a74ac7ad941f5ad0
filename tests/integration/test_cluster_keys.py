"""Keys of a program on real processes: as root and as an ordinary user, where cgroups can be made and where not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.guardian import cgroup
from tests.support.commands import NOBODY, as_nobody, led
from tests.support.nodes import Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 20.0
"""Seconds; nothing here waits for it."""
HOOKS = "".join(
    f'{name} = ["sh", "-c", "echo $HIGHLANDER_EVENT >>$TEST_HOME/book"]\n'
    for name in ("before_start", "after_ready", "before_stop", "after_stop")
)
PROGRAMS = f"""
[program.beat]
directory = "."
limits = {{ nofile = 77, core = 0, memory_max = "256MiB", cpu_max = 0.5, tasks_max = 40 }}
nice = 7
oom_score_adj = 333
umask = "027"
no_new_privileges = true
ready = {{ exec = ["test", "-e", "ready"] }}
alive = {{ exec = ["test", "!", "-e", "unwell"], period = "0.2s", threshold = 2 }}
{HOOKS}
[program.once]
directory = "."
command = ["sh", "-c", "echo $HIGHLANDER_EPOCH >>once; exit 3"]
restart = "never"
success_exit_codes = [3]
ready = "1d"
[program.next]
directory = "."
command = ["sh", "-c", "test -e ready && exec sleep 600"]
after = ["once", "beat"]
[program.yearly]
command = "true"
schedule = "0 0 1 1 *"
catch_up = "1h"
[program.elsewhere]
never = ["a"]
[program.chosen]
prefer = ["nowhere", "a"]
failback = "1m"
spread = false
"""
"""``next`` fails unless ``beat`` was ready before it; no node but ``a`` could lead ``chosen``."""


@pytest.fixture(params=["cgroups", "no cgroups"])
def group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield a cgroup for a daemon alone, in which it can make others, or none."""
    own = cgroup.own()
    if os.geteuid() != 0 or own is None:
        pytest.skip("no writable cgroup v2 here")
    made = Path(own) / f"keys.{os.getpid()}"
    made.mkdir()
    if request.param == "no cgroups":
        (made / "cgroup.max.descendants").write_text("0")
    yield made
    cgroup.kill(str(made))
    wait_for(lambda: not (made / "cgroup.procs").read_text(), what="the cgroup is empty")
    cgroup.remove(str(made))


@pytest.fixture(params=["root", "an ordinary user"])
def node(request: pytest.FixtureRequest, group: Path, nodes: Nodes, database: Database) -> Node:
    """A daemon of that user's, in the cgroup."""
    settled_ledger(database, LEASE)
    made = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    nodes.nodes.append(made)
    made.enter = ("sh", "-c", f'echo 0 >{group}/cgroup.procs && exec "$@"', "sh")
    if request.param != "root":
        made.enter += as_nobody()
        for path in (nodes.directory, made.home, group, group / "cgroup.procs"):
            os.chown(path, NOBODY, NOBODY)
    made.configure(PROGRAMS)
    made.start()
    led(made, "beat", "chosen")
    return made


@pytest.mark.long
def test_the_keys_of_a_program_hold(node: Node, group: Path, database: Database) -> None:
    pid = node.program("beat")["pid"]
    assert not node.program("beat")["ready"]
    wait_for(lambda: node.program("next")["reason"].startswith("starts after beat"), what="it waits for beat alone")
    (node.home / "ready").touch()
    wait_for(lambda: node.program("beat")["ready"], what="it is ready")
    wait_for(lambda: node.program("next")["pid"], what="what comes after it has started")
    assert limits_of(pid) == {"Max open files": "77", "Max core file size": "0"}
    status = Path(f"/proc/{pid}/status").read_text()
    assert all(f"\n{line}\n" in status for line in ("Umask:\t0027", "NoNewPrivs:\t1"))
    assert (os.getpriority(os.PRIO_PROCESS, pid), Path(f"/proc/{pid}/oom_score_adj").read_text()) == (7, "333\n")
    grouped = (group / "cgroup.max.descendants").read_text() != "0\n"
    assert ("highlander." in Path(f"/proc/{pid}/cgroup").read_text()) is grouped
    assert grouped or "beat runs without a limit" in node.log.read_text()
    assert (node.program("once")["finished"], (node.home / "once").read_text()) == (True, "1\n")
    assert str(node.program("yearly")["reason"]).startswith("next run at ")
    assert node.program("elsewhere")["reason"] == 'the key "never" names this node'
    (node.home / "unwell").touch()
    wait_for(lambda: ends(database, "beat")[0] == "unhealthy", what="it is not well")
    (node.home / "unwell").unlink()
    wait_for(lambda: node.program("beat")["ready"], what="it runs again")
    node.order("stop", "beat")
    assert (node.home / "book").read_text() == "before_start\nafter_ready\nbefore_stop\nafter_stop\n" * 2


def limits_of(pid: int) -> dict[str, str]:
    """Return the soft limits that the program was given."""
    rows = Path(f"/proc/{pid}/limits").read_text().splitlines()
    names = ("Max open files", "Max core file size")
    return {name: row[len(name) :].split()[0] for name in names for row in rows if row.startswith(name)}
