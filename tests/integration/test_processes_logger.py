"""Claims about loggers: no death costs a line, and root writes to no file that a program's user has chosen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deaths import gone, stand_still
from tests.support.processes import Node, node_at
from tests.support.scarcity import tiny_disk
from tests.support.wait import wait_for

LINES = 100_000
STRANGER = 60_321
"""A user that nobody else is."""
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs as another user")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path) as node:
        yield node


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return a directory that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="hl-logger-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def numbers(first: str = "", last: str = "", count: int = LINES) -> str:
    """Return a script that writes so many numbered lines, and waits in the middle for a file ``go``."""
    half = count // 2
    return f"{first} seq 1 {half}; while [ ! -e go ]; do sleep 0.02; done; seq {half + 1} {count}; {last}"


def logged(node: Node, script: str, path: Path, **more: object) -> int:
    """Have a script started whose output goes to ``path``."""
    log = {"files": {"stdout": str(path), "stderr": str(path)}, **dict(more.pop("log", {}))}  # type: ignore[call-overload]
    return node.shell(script, log=log, cwd=str(path.parent), **more)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def expected(count: int = LINES) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def logger(node: Node) -> int:
    return wait_for(lambda: next(iter(node.loggers()), 0), what="there is a logger")


def told(node: Node, epoch: int, what: str) -> Any:
    """Return what the logger's latest report says: it comes later than the line that it is about."""
    node.tell("logged", epoch=epoch)
    return node.expect("logged")[what]


def test_a_child_s_lines_reach_the_file_and_the_logger_ends_with_it(node: Node, tmp_path: Path) -> None:
    path, errors = tmp_path / "log", tmp_path / "errors"
    log = {"files": {"stdout": str(path), "stderr": str(errors)}}
    epoch = node.shell("echo out; echo err >&2; printf 'no end'", log=log)
    node.expect("Emptied", epoch=epoch)
    wait_for(lambda: told(node, epoch, "lines") == {"stdout": 2, "stderr": 1}, what="three lines are counted")
    wait_for(lambda: not node.loggers(), what="the logger has ended")
    assert path.read_text() == "out\nno end"
    assert errors.read_text() == "err\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_child_without_a_file_gets_its_logger_with_its_first_output(node: Node, tmp_path: Path) -> None:
    log = {"files": {}, "inherit": ["stdout", "stderr"]}
    epoch = node.shell("while [ ! -e go ]; do sleep 0.02; done; echo out; exec sleep 1000", log=log, cwd=str(tmp_path))
    node.expect("Started", epoch=epoch)
    quiet = node.shell("exec sleep 1000", program="quiet", lock_id=2, log=log)  # the guardian has turned since
    node.expect("Started", epoch=quiet)
    assert not node.loggers()
    (tmp_path / "go").touch()
    wait_for(lambda: told(node, epoch, "lines") == {"stdout": 1, "stderr": 0}, what="the line is counted")
    assert len(node.loggers()) == 1


def test_a_stream_that_ends_without_output_needs_no_logger(node: Node, tmp_path: Path) -> None:
    log = {"files": {}, "inherit": ["stdout", "stderr"]}
    script = "exec 2>&-; : > ended; while [ ! -e go ]; do sleep 0.02; done; echo out; exec sleep 1000"
    epoch = node.shell(script, log=log, cwd=str(tmp_path))
    wait_for((tmp_path / "ended").exists, what="its stderr has ended")
    quiet = node.shell("exec sleep 1000", program="quiet", lock_id=2, log=log)  # the guardian has turned since
    node.expect("Started", epoch=quiet)
    assert not node.loggers()
    (tmp_path / "go").touch()
    wait_for(lambda: told(node, epoch, "lines") == {"stdout": 1, "stderr": 0}, what="the line is counted")


def test_the_last_words_of_a_child_that_ends_at_once_are_written(node: Node) -> None:
    log = {"files": {}, "inherit": ["stdout", "stderr"]}
    epoch = node.shell("echo out; echo err >&2", log=log)
    node.expect("Emptied", epoch=epoch)
    wait_for(lambda: told(node, epoch, "lines") == {"stdout": 1, "stderr": 1}, what="both lines are counted")
    wait_for(lambda: not node.loggers(), what="the logger has ended")


def test_a_killed_worker_costs_no_line(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "log"
    epoch = logged(node, numbers(), path)
    wait_for(lambda: lines(path), what="it writes")
    os.kill(node.worker, signal.SIGKILL)
    (tmp_path / "go").touch()
    wait_for(lambda: len(lines(path)) == LINES, what="all lines are there")
    node.meet()
    assert lines(path) == expected()
    counted = (None, {"stdout": LINES, "stderr": 0})
    wait_for(lambda: told(node, epoch, "lines") in counted, what="it is counted on, or over already")


def test_eight_children_at_full_speed_lose_and_tear_no_line(node: Node, tmp_path: Path) -> None:
    count = 100_000
    names = [f"flood-{number}" for number in range(8)]
    for number, name in enumerate(names):
        log = {"files": {"stdout": str(tmp_path / name)}}
        node.shell(f"seq -f '{name} %.0f' 1 {count}", program=name, lock_id=100 + number, log=log)
    for name in names:
        wait_for(lambda: (lines(tmp_path / name) or [""])[-1] == f"{name} {count}", what="the last line is there")  # noqa: B023
        assert lines(tmp_path / name) == [f"{name} {number}" for number in range(1, count + 1)]


def test_a_killed_logger_is_replaced_and_costs_no_line(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = "i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo $i; done; printf tail; sleep 1000"
    logged(node, script, path)
    killed: set[int] = set()
    while len(killed) < 5:
        pid = wait_for(lambda: next((each for each in node.loggers() if each not in killed), 0), what="there is one")
        before = len(lines(path))
        wait_for(lambda: len(lines(path)) > before or "5000" in lines(path), what="it writes")  # noqa: B023 - at once
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    wait_for(lambda: lines(path) and lines(path)[-1] == "tail", what="the rest is written")
    found = lines(path)
    assert set(expected(5000)) <= set(found)
    assert "has died: another one goes on where it was" in node.errors.read_text()


def test_a_frozen_logger_stops_neither_worker_nor_guardian_nor_another_program(node: Node, tmp_path: Path) -> None:
    """As one whose disk hangs: it takes nothing, and its child waits when the pipe is full."""
    (tmp_path / "a").mkdir()
    epoch = logged(node, "echo begun; while :; do head -c 100000 /dev/zero; done", tmp_path / "a" / "log")
    wait_for(lambda: lines(tmp_path / "a" / "log"), what="it writes")
    frozen = logger(node)
    stand_still(frozen)
    other = logged(node, "echo well; exec sleep 1000", tmp_path / "other", program="other", lock_id=8)
    wait_for(lambda: lines(tmp_path / "other") == ["well"], what="another program's lines are written")
    os.kill(node.worker, signal.SIGKILL)
    assert {each["epoch"] for each in node.meet()["found"]} == {epoch, other}
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    again = logged(node, "echo again; exec sleep 1000", tmp_path / "a" / "again")
    node.expect("Started", epoch=again)
    wait_for(lambda: lines(tmp_path / "a" / "again") == ["again"], what="the next child has a logger of its own")
    assert not gone(frozen)


@AS_ROOT
@pytest.mark.parametrize("swapped", [False, True])
def test_a_link_in_a_user_s_directory_brings_root_to_no_file(node: Node, open_path: Path, swapped: bool) -> None:
    canary, home = open_path / "canary", open_path / "home"
    canary.write_text("root's\n")
    home.mkdir()
    os.chown(home, STRANGER, STRANGER)
    if not swapped:
        (home / "log").symlink_to(canary)
    epoch = logged(
        node,
        f"echo one; sleep 0.2; ln -sf {canary} log; while [ ! -e go ]; do sleep 0.02; echo two; done; sleep 1000",
        home / "log",
        uid=STRANGER,
        gid=STRANGER,
        groups=[STRANGER],
        log={"max_bytes": 100, "backups": 2},
    )
    pid = logger(node)
    wait_for(lambda: _uid(pid) == STRANGER, what="it is the user's")
    wait_for(lambda: told(node, epoch, "troubles"), what="it says that it cannot write")
    (home / "go").touch()
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    assert canary.read_text() == "root's\n"
    assert canary.stat().st_uid == 0
    assert (home / "log").is_symlink(), "and nobody has rotated the link away"


def _uid(pid: int) -> int:
    return int(next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "Uid:" in line).split()[1])


ATTACH = """
import ctypes, os, sys
pid, uid = map(int, sys.argv[1:])
os.setgroups([uid]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    if libc.syscall(number, *map(ctypes.c_long, arguments)) < 0: raise OSError(ctypes.get_errno(), "")
place = ctypes.create_string_buffer(64)
ways = {
    "fd": lambda: os.listdir(f"/proc/{pid}/fd"),
    "mem": lambda: open(f"/proc/{pid}/mem", "r+b"),
    "maps": lambda: open(f"/proc/{pid}/maps").read(1),
    "pidfd_getfd": lambda: syscall(438, os.pidfd_open(pid), 0, 0),
    "trace": lambda: libc.ptrace(16, pid, 0, 0) and syscall(-1),
}
for name, way in ways.items():
    try: way()
    except OSError: continue
    print(name)
"""


@AS_ROOT
def test_no_process_of_the_program_s_user_can_attach_to_its_logger(node: Node, open_path: Path) -> None:
    home = open_path / "home"
    home.mkdir()
    os.chown(home, STRANGER, STRANGER)
    logged(node, "echo one; exec sleep 1000", home / "log", uid=STRANGER, gid=STRANGER, groups=[STRANGER])
    pid = logger(node)
    wait_for(lambda: lines(home / "log") == ["one"], what="it writes")
    assert _uid(pid) == STRANGER
    assert _attached(pid) == []
    sleeper = subprocess.Popen(["sleep", "1000"], user=STRANGER, group=STRANGER, extra_groups=[STRANGER])
    try:
        assert _attached(sleeper.pid) == ["fd", "mem", "maps", "pidfd_getfd", "trace"], "each is a way to others"
    finally:
        sleeper.kill()
        sleeper.wait()


def _attached(pid: int) -> list[str]:
    """Return the ways in which a process of that user can look into another one."""
    arguments = [sys.executable, "-I", "-S", "-c", ATTACH, str(pid), str(STRANGER)]
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout.split()


@AS_ROOT
def test_a_file_where_only_root_can_put_one_is_written_by_root(node: Node) -> None:
    directory = Path("/var/log/highlander-test")
    directory.mkdir(exist_ok=True)
    try:
        epoch = logged(node, "echo said", directory / "log", uid=STRANGER, gid=STRANGER, groups=[STRANGER])
        node.expect("Emptied", epoch=epoch)
        wait_for(lambda: lines(directory / "log") == ["said"], what="it is written")
        assert (directory / "log").stat().st_uid == 0
    finally:
        for each in directory.iterdir():
            each.unlink()
        directory.rmdir()


def test_a_full_disk_is_reported_and_lets_the_child_go_on(node: Node, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 65536) as disk:
        script = f"yes | head -c 5000000; echo through > {tmp_path}/through; while [ ! -e go ]; do sleep 0.02; done"
        epoch = logged(node, f"{script}; echo last; exec sleep 1000", disk / "log")
        wait_for((tmp_path / "through").exists, what="the child has written five times what the pipe holds")
        full = {f"{disk}/log": "No space left on device"}
        wait_for(lambda: told(node, epoch, "troubles") == full, what="it says that it cannot write")
        (disk / "log").unlink()
        (disk / "go").touch()
        node.tell("kill", epoch=epoch)
        node.expect("Emptied", epoch=epoch)


@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_what_is_no_regular_file_gets_no_line_and_holds_nobody(node: Node, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    if kind == "fifo":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    elif kind == "directory":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    epoch = node.shell("echo one; exec sleep 1000", log={"files": {"stdout": str(path)}})
    wait_for(lambda: told(node, epoch, "troubles"), what="it says that it cannot write")
    if kind == "fifo":
        assert os.read(reader, 100) == b""
        os.close(reader)


def test_rotation_keeps_every_line_whole_and_no_file_outgrows_its_size(node: Node, tmp_path: Path) -> None:
    epoch = logged(node, "seq 1 20000", tmp_path / "log", log={"max_bytes": 20_000, "backups": 50})
    node.expect("Emptied", epoch=epoch)
    wait_for(lambda: lines(tmp_path / "log")[-1:] == ["20000"] and not node.loggers(), what="the logger has ended")
    files = [*sorted(tmp_path.glob("log.*"), key=lambda file: -int(file.suffix[1:])), tmp_path / "log"]
    assert len(files) == 6
    assert all(file.stat().st_size <= 20_000 for file in files)
    assert [line for file in files for line in lines(file)] == expected(20_000)


def test_sigusr1_has_the_loggers_open_their_files_anew(node: Node, tmp_path: Path) -> None:
    logged(node, "echo before; while [ ! -e go ]; do sleep 0.02; done; echo after; exec sleep 1000", tmp_path / "log")
    wait_for(lambda: lines(tmp_path / "log") == ["before"], what="it writes")
    (tmp_path / "log").rename(tmp_path / "moved")
    os.kill(node.pid, signal.SIGUSR1)
    wait_for((tmp_path / "log").exists, what="the file is there again, before another line is")
    (tmp_path / "go").touch()
    wait_for(lambda: lines(tmp_path / "log") == ["after"], what="the child goes on")
    assert lines(tmp_path / "moved") == ["before"]


def test_show_has_the_last_lines_of_a_long_output(node: Node, tmp_path: Path) -> None:
    epoch = logged(node, "seq 1 100000; exec sleep 1000", tmp_path / "log")
    wait_for(lambda: lines(tmp_path / "log")[-1:] == ["100000"], what="all is written")
    wait_for(lambda: told(node, epoch, "last") == expected()[-200:], what="the last 200 lines are reported")
