"""A child's ordinary life between a real guardian, a real keeper and a worker on either event loop."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.long import first_of
from tests.support.processes import PATIENCE, Node, gone, node_at
from tests.support.wait import wait_for

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may start programs as another user")


@pytest.fixture(params=first_of(["uvloop", "asyncio"]))
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path, loop=request.param) as node:
        yield node


def test_a_child_starts_speaks_exits_and_its_tree_is_proven_empty(node: Node) -> None:
    epoch = node.shell("echo out; echo err >&2; exit 3")
    started = node.expect("Started", epoch=epoch)
    assert node.line(epoch) == "out\n"
    assert node.line(epoch, "stderr") == "err\n"
    exited = node.expect("Exited", epoch=epoch)
    assert exited["status"] == 3 << 8
    assert exited["at"] >= started["at"]
    node.expect("Emptied", epoch=epoch)
    assert gone(started["pid"])
    wait_for(lambda: not node.keepers(), what="the keeper has left")
    assert node.facts == [], "each event is told once"


def test_a_tree_that_outlives_its_main_process_is_not_called_empty(node: Node) -> None:
    epoch = node.shell("setsid sleep 1000 & echo $!")
    survivor = int(node.line(epoch))
    node.expect("Exited", epoch=epoch)
    assert not gone(survivor)
    assert not any(fact["fact"] == "Emptied" for fact in node.facts)
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    assert gone(survivor)


@pytest.mark.parametrize("cgroup", [True, False])
def test_double_forks_sessions_and_ignored_signals_do_not_save_anybody(node: Node, cgroup: bool) -> None:
    script = (
        "trap '' TERM HUP INT; sleep 1000 & echo $!;"
        "(setsid sh -c 'trap \"\" TERM; (sleep 1000 & echo $!); sleep 1000' &);"
        "sh -c 'setsid sh -c \"sleep 1000 & echo \\$!\" &'; sleep 1000"
    )
    epoch = node.shell(script, cgroup=cgroup)
    text = ""
    while len(text.split()) < 3:
        text += node.line(epoch)
    pids = [int(word) for word in text.split()]
    node.tell("signal", epoch=epoch, signum=signal.SIGTERM, to="main")
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    assert all(gone(pid) for pid in pids)


def test_a_stop_signal_reaches_the_whole_tree_or_only_the_main_process(node: Node) -> None:
    sleeper = "setsid sh -c 'trap \"echo told; exit\" TERM; echo up; while :; do sleep 0.02; done' &"
    epoch = node.shell(f"trap 'echo main; exit 5' TERM; {sleeper} while :; do sleep 0.02; done")
    assert node.line(epoch) == "up\n"
    node.tell("signal", epoch=epoch, signum=signal.SIGTERM, to="main")
    assert node.line(epoch) == "main\n"
    assert node.expect("Exited", epoch=epoch)["status"] == 5 << 8
    node.tell("signal", epoch=epoch, signum=signal.SIGTERM, to="tree")
    assert "told" in node.line(epoch)
    node.expect("Emptied", epoch=epoch)


TRACED = """
import ctypes, os, signal, sys
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append("heard"))
assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0  # PTRACE_TRACEME
signal.raise_signal(signal.SIGUSR1)
print(*heard, flush=True)
ctypes.CDLL(None).ptrace(0, 0, 0, 0)
os.execv("/bin/sh", ["sh", "-c", "echo executed; exec sleep 1000"])
"""


def test_a_child_that_asks_to_be_traced_is_let_go_and_no_stop_is_taken_for_its_end(node: Node) -> None:
    epoch = node.spawn(sys.executable, "-I", "-S", "-c", TRACED)
    assert node.line(epoch) == "heard\n"
    assert node.line(epoch) == "executed\n"
    assert not any(fact["fact"] in ("Exited", "Emptied") for fact in node.facts)
    node.tell("kill", epoch=epoch)
    assert node.expect("Exited", epoch=epoch)["status"] == signal.SIGKILL
    node.expect("Emptied", epoch=epoch)


def test_a_signal_to_the_tree_comes_to_each_process_once(node: Node) -> None:
    """Real-time signals, because those queue: a second SIGTERM makes many a program drop what it holds."""
    wait = "import os, signal as s; s.pthread_sigmask(s.SIG_BLOCK, (40, 41)); os.write(1, b'up\\n')"
    epoch = node.spawn(
        *(sys.executable, "-I", "-S", "-c"),
        f"{wait}\nwhile True: os.write(1, b'%d\\n' % s.sigwaitinfo((40, 41)).si_signo)",
    )
    text = node.line(epoch)
    for signum in (40, 41):
        node.tell("signal", epoch=epoch, signum=signum, to="tree")
    while "41" not in text:
        text += node.line(epoch)
    assert text.split() == ["up", "40", "41"]


def test_orders_given_before_the_keeper_is_known_are_carried_out(node: Node) -> None:
    epoch = node.spawn("sleep", "1000")
    node.tell("entrust", epoch=epoch, deadline=50, memo="moved")
    node.tell("kill", epoch=epoch)
    over = wait_for_end(node, epoch)
    assert over in ("Emptied", "SpawnFailed"), "killed before or after its program was executed"
    wait_for(lambda: not node.keepers(), what="the keeper has left")


def wait_for_end(node: Node, epoch: int) -> str:
    """Wait for whichever event ends this child; gives its name."""
    return str(node.expect_any("Emptied", "SpawnFailed", epoch=epoch)["fact"])


def test_a_grandchild_that_holds_the_pipe_delays_nothing(node: Node) -> None:
    epoch = node.shell("(setsid sleep 1000 &); echo main; exit 0")
    assert node.line(epoch) == "main\n"
    assert node.expect("Exited", epoch=epoch)["status"] == 0
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)


@pytest.mark.parametrize(
    ("argv", "order", "words"),
    [
        (["/no/such/program"], {}, ["cannot execute '/no/such/program'", "No such file", "correct `command`"]),
        (["no-such-program"], {}, ["cannot execute 'no-such-program'", "PATH"]),
        (["/etc/passwd"], {}, ["cannot execute '/etc/passwd'", "Permission denied", "chmod +x"]),
        (["passwd"], {"env": {"PATH": "/etc:/nowhere"}}, ["cannot execute 'passwd'", "Permission denied", "chmod +x"]),
        (["/dir/script"], {}, ["interpreter is missing", "install the interpreter"]),
        (["/dir/data"], {}, ["cannot execute", "#!/bin/sh"]),
        (["true"], {"cwd": "/no/such/place"}, ["cannot enter directory '/no/such/place'", "create it"]),
        pytest.param(
            ["true"],
            {"cwd": "/root", "uid": 65534, "gid": 65534, "groups": []},
            ["'/root'", "program's user enter it"],
            marks=as_root,
        ),
    ],
)
def test_what_cannot_be_executed_is_one_sentence_that_names_the_cure(
    node: Node, tmp_path: Path, argv: list[str], order: dict[str, object], words: list[str]
) -> None:
    for name, text in (("script", "#!/no/such/interpreter\n"), ("data", "neither program nor script\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    epoch = node.spawn(*(word.replace("/dir", str(tmp_path)) for word in argv), **order)
    why = node.expect("SpawnFailed", epoch=epoch)["why"]
    for word in words:
        assert word in why
    wait_for(lambda: not node.keepers(), what="the keeper has left")
    assert node.facts == [], "a spawn that failed is nothing else besides"


def test_a_child_inherits_no_descriptor_no_variable_and_no_signal_state(node: Node) -> None:
    epoch = node.spawn("sleep", "1000", env={"PATH": "/usr/bin:/bin", "ONE": "1", "BYTES": "\udce9"})
    proc = Path("/proc") / str(node.expect("Started", epoch=epoch)["pid"])
    # The pipe that tells of the start ends a moment before the kernel has closed the last descriptor and done the rest.
    wait_for(
        lambda: sorted(each.name for each in (proc / "fd").iterdir()) == ["0", "1", "2"], what="only stdio is open"
    )
    wait_for(lambda: (proc / "environ").read_bytes(), what="the program has its environment")
    assert (proc / "environ").read_bytes() == b"PATH=/usr/bin:/bin\0ONE=1\0BYTES=\xe9\0"
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
    libc_own = 0b11 << 31  # signals 32 and 33: whoever started us may ignore them, and libc lets nobody reset them
    for name in ("SigBlk", "SigIgn", "SigCgt"):
        assert int(status[name], 16) & ~libc_own == 0, name
    assert os.getsid(int(proc.name)) == int(proc.name), "a session of its own"


@as_root
def test_a_child_gets_its_user_groups_umask_and_directory(node: Node) -> None:
    epoch = node.shell(
        "id -u; id -g; id -G; umask; pwd; echo direct > /dev/stdout; grep -c . /dev/null",
        uid=65534,
        gid=65534,
        groups=[65534, 4],
        umask=0o027,
        cwd="/tmp",
    )
    text = ""
    while not text.endswith("0\n0\n") and text.count("\n") < 7:
        text += node.line(epoch)
    assert text.split() == ["65534", "65534", "65534", "4", "0027", "/tmp", "direct", "0"]


def test_a_child_keeps_the_file_limit_that_the_daemon_was_started_with(node: Node) -> None:
    epoch = node.shell("ulimit -Sn")
    limit = int(node.line(epoch))
    own = int(Path("/proc/self/limits").read_text().split("Max open files")[1].split()[0])
    assert limit == own


@as_root
def test_a_child_gets_its_limits_its_niceness_and_its_oom_score(node: Node) -> None:
    epoch = node.shell(
        "ulimit -Hn; ulimit -Sn; ulimit -c; nice; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status",
        limits={"nofile": 123, "core": -1},
        nice=7,
        oom_score_adj=321,
        no_new_privileges=True,
        uid=65534,
        gid=65534,
    )
    lines = [node.line(epoch).strip() for _ in range(6)]
    assert lines == ["123", "123", "unlimited", "7", "321", "NoNewPrivs:\t1"]


def test_a_limit_on_files_is_the_programs_and_not_that_of_its_preparation(node: Node) -> None:
    epoch = node.spawn("true", limits={"nofile": 3})
    node.expect("Started", epoch=epoch)  # whether it can live with that, its loader says


def test_without_a_wish_a_child_has_the_daemons_limits(node: Node) -> None:
    epoch = node.shell("ulimit -Sn; nice; grep NoNewPrivs /proc/self/status")
    own = str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    lines = [node.line(epoch).strip() for _ in range(3)]
    assert lines == [own, str(os.getpriority(os.PRIO_PROCESS, 0)), "NoNewPrivs:\t0"]


def test_a_limit_that_the_kernel_refuses_is_named_with_its_cure(node: Node) -> None:
    epoch = node.spawn("true", limits={"nofile": 1 << 40})
    why = node.expect("SpawnFailed", epoch=epoch)["why"]
    assert why.startswith("cannot prepare the child's limits: Operation not permitted; ")
    assert why.endswith("lower it")


def test_null_streams_give_no_pipes(node: Node) -> None:
    epoch = node.shell("exec 3>&1; readlink /proc/$$/fd/3 >&2; exit 1", stdout="null")
    assert node.line(epoch, "stderr") == "/dev/null\n"
    node.expect("Exited", epoch=epoch)


def test_one_term_is_one_spawn(node: Node) -> None:
    epoch = node.spawn("true", epoch=5)
    node.expect("Emptied", epoch=epoch)
    for stale in (5, 4):
        node.spawn("true", epoch=stale)
        assert "not above 5" in node.expect("SpawnFailed", epoch=stale)["why"]
    node.spawn("true", epoch=6)
    node.expect("Emptied", epoch=6)


def test_an_order_that_comes_too_late_starts_nothing(node: Node) -> None:
    epoch = node.spawn("true", not_after=-0.01)
    assert "too late" in node.expect("SpawnFailed", epoch=epoch)["why"]
    epoch = node.spawn("true", deadline=-0.01)
    assert "deadline" in node.expect("SpawnFailed", epoch=epoch)["why"]


def test_a_living_program_is_not_started_a_second_time(node: Node) -> None:
    first = node.spawn("sleep", "1000")
    node.expect("Started", epoch=first)
    second = node.spawn("true")
    assert f"beat still lives in epoch {first}" in node.expect("SpawnFailed", epoch=second)["why"]
    third = node.spawn("true", lock_id=8)
    assert "beat still lives" in node.expect("SpawnFailed", epoch=third)["why"], "another key does not matter"
    node.tell("holds", lock_id=8, program="other")
    assert node.expect("holds")["answer"] is False
    node.tell("holds", lock_id=8, program="beat")
    assert node.expect("holds")["answer"] is True
    node.tell("kill", epoch=first)
    node.expect("Emptied", epoch=first)
    fourth = node.spawn("true")  # at once: the leaving keeper is not in the way
    node.expect("Started", epoch=fourth)
    node.expect("Emptied", epoch=fourth)
    node.tell("holds", lock_id=7, program="beat")
    assert node.expect("holds")["answer"] is False


def test_many_children_do_not_see_each_other(node: Node) -> None:
    for number in range(12):
        node.shell("cat /proc/self/cgroup > /dev/null; exec sleep 1000", program=f"p{number}", lock_id=100 + number)
    pids = [node.expect("Started", epoch=epoch)["pid"] for epoch in range(1, 13)]
    node.tell("kill", epoch=5)
    node.expect("Emptied", epoch=5)
    assert [epoch for epoch, pid in enumerate(pids, 1) if gone(pid)] == [5]


@pytest.mark.parametrize("cgroup", [True, False])
def test_chains_that_fork_and_exit_die_too(node: Node, cgroup: bool) -> None:
    chain = "(setsid sh -c 'while :; do setsid sleep 0.02; done' &)"
    script = f"{chain}; {chain}; {chain}; {chain}; echo lit; while :; do (sleep 0.01 &); sleep 0.01; done"
    epoch = node.shell(script, cgroup=cgroup)
    assert node.line(epoch) == "lit\n"
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    wait_for(lambda: not node.keepers(), what="the keeper has left")


def test_an_orderly_end_gives_the_workers_exit_code(node: Node) -> None:
    node.tell("done", code=7)
    assert node.process.wait(PATIENCE) == 7


def test_an_end_that_forgot_a_child_still_kills_it(node: Node) -> None:
    epoch = node.spawn("sleep", "1000")
    child = node.expect("Started", epoch=epoch)["pid"]
    node.tell("done", code=0)
    assert node.process.wait(PATIENCE) == 0
    assert gone(child)


def test_cgroups_are_removed_behind_the_children(node: Node) -> None:
    instance, parent = ((node.home / "instance").read_text() + "\n").split("\n")[:2]
    if not parent:
        pytest.skip("no writable cgroup v2 here")
    epoch = node.shell("grep ^0:: /proc/self/cgroup; exec sleep 1000")
    assert f"highlander.{instance}.1" in node.line(epoch)
    assert Path(f"{parent}/highlander.{instance}.1").is_dir()
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    wait_for(lambda: not list(Path(parent).glob(f"highlander.{instance}.*")), what="its cgroup is removed")
