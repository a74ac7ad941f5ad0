"""What a real keeper learns of its child: what that says by sd_notify(3), and how probes in its tree have ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from highlanderd.guardian import messages
from highlanderd.guardian.notify import TELL_EVERY, NotifySocket
from highlanderd.system import linux
from tests.support.long import first_of
from tests.support.processes import Fact, Node, children, gone, node_at
from tests.support.wait import wait_for

SAY = (
    "import os, socket, sys, time\n"
    "def say(*words):\n"
    "    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "    s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
    "    s.send('\\n'.join(words).encode())\n"
)
SPEC = {"program": "beat", "lock_id": 7, "epoch": 1, "deadline": 60.0, "memo": b""}
OTHERS = SAY + "os.environ['NOTIFY_SOCKET'] = sys.argv[1]\nsay('READY=1')\nprint('said', flush=True)\ntime.sleep(1000)"
ADDRESS = "echo $NOTIFY_SOCKET; exec sleep 1000"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path) as node:
        yield node


def python(node: Node, script: str, **more: object) -> int:
    return node.spawn(sys.executable, "-I", "-S", "-c", SAY + script, notify=True, **more)


def reported(node: Node, epoch: int, true: Callable[[Fact], object]) -> Fact:
    """Wait until the keeper's report says so."""

    def looked() -> Fact | None:
        node.tell("report", epoch=epoch)
        report = node.expect("report", epoch=epoch)
        return report if true(report) else None

    found = wait_for(looked, what="the keeper has reported it")
    assert found is not None
    return found


def test_a_child_says_that_it_is_ready_and_any_process_of_its_tree_may_speak_for_it(node: Node) -> None:
    below = "import subprocess; subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)\n"
    script = f"say('STATUS=warming up')\n{below}time.sleep(1000)"
    word = SAY + "say('READY=1')\ntime.sleep(1000)"
    epoch = node.spawn(sys.executable, "-I", "-S", "-c", SAY + script, word, notify=True)
    started = node.expect("Started", epoch=epoch)["at"]
    assert reported(node, epoch, lambda report: report["ready"])["ready"] >= started
    assert reported(node, epoch, lambda report: report["says"])["says"] == "warming up"


def test_a_child_that_was_not_asked_to_speak_has_no_socket(node: Node) -> None:
    epoch = node.shell("echo ${NOTIFY_SOCKET-none}; exec sleep 1000")
    assert node.line(epoch) == "none\n"


def test_who_is_not_of_the_tree_is_not_heard(node: Node) -> None:
    epoch = node.shell(ADDRESS, notify=True)
    address = node.line(epoch).strip()
    other = node.spawn(sys.executable, "-I", "-S", "-c", OTHERS, address, epoch=7, program="other", lock_id=8)
    assert node.line(other) == "said\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.connect("\0" + address[1:])
        for _ in range(500):  # more than the socket holds: the keeper reads them all
            stranger.send(b"READY=1\nSTATUS=from a stranger")
    node.tell("entrust", epoch=epoch, deadline=60, memo="heard")
    report = reported(node, epoch, lambda report: report["memo"] == "heard")
    assert (report["ready"], report["says"]) == (None, "")


def test_descriptors_that_a_child_passes_along_do_not_stay_in_the_keeper(node: Node) -> None:
    """And a pipe that was passed is closed at once: that is how systemd-notify waits until it was heard."""
    script = (
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
        "for _ in range(50):\n"
        "    socket.send_fds(s, [b'BARRIER=1'], [0] * 200)\n"
        "mine, theirs = os.pipe()\n"
        "socket.send_fds(s, [b'BARRIER=1'], [theirs])\n"
        "os.close(theirs)\n"
        "os.read(mine, 1)\n"
        "print('heard', flush=True)\n"
        "time.sleep(1000)"
    )
    epoch = python(node, script)
    assert node.line(epoch) == "heard\n"
    assert descriptors(node) < 30


def test_a_child_may_ask_for_more_time(node: Node) -> None:
    epoch = python(node, "say('EXTEND_TIMEOUT_USEC=50000000')\ntime.sleep(1000)")
    started = node.expect("Started", epoch=epoch)["at"]
    until = reported(node, epoch, lambda report: report["extended"])["extended"]
    assert started + 50 <= until < started + 110


def test_a_child_that_asks_for_more_time_without_end_costs_few_reports_and_the_last_word_counts() -> None:
    heard, state, reports = NotifySocket(), messages.state(SPEC), 0
    flood = "for n in range(1, 3001):\n    say(f'EXTEND_TIMEOUT_USEC={n * 1_000_000}')\n"
    environ = {"NOTIFY_SOCKET": heard.address.decode()}
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", SAY + flood], env=environ) as child:
        while child.poll() is None:
            reports += heard.hear(state)
        wait_for(lambda: heard.hear(state) or heard.tell_at == linux.NEVER, what="the last word is reported")
    assert reports <= (time.monotonic() - began) / TELL_EVERY + 1
    assert state["extended"] > linux.boottime() + 2000
    heard.close()


def test_a_watchdog_that_is_not_satisfied_is_reported_and_one_that_is_not_watched_yet_is_not(node: Node) -> None:
    lively = python(
        node, "while True:\n    say('WATCHDOG=1')\n    time.sleep(0.1)", program="lively", lock_id=8, epoch=8
    )
    silent = python(node, "say('READY=1')\ntime.sleep(1000)")
    for epoch in (lively, silent):
        node.expect("Started", epoch=epoch)
        node.tell("watch", epoch=epoch, within=5.0)
    said = reported(node, silent, lambda report: report["unhealthy"])["unhealthy"]
    assert said == "it has not said WATCHDOG=1 for 5 s"
    node.tell("report", epoch=lively)
    assert node.expect("report", epoch=lively)["unhealthy"] is None


def test_a_child_chooses_its_own_watchdog_and_pulls_it(node: Node) -> None:
    hasty = python(node, "say('WATCHDOG_USEC=200000')\ntime.sleep(1000)")
    node.expect("Started", epoch=hasty)
    node.tell("watch", epoch=hasty, within=1000.0)
    assert "0.2 s" in reported(node, hasty, lambda report: report["unhealthy"])["unhealthy"]
    given_up = python(node, "say('WATCHDOG=trigger')\ntime.sleep(1000)", program="other", lock_id=8, epoch=8)
    assert "trigger" in reported(node, given_up, lambda report: report["unhealthy"])["unhealthy"]


def test_what_was_said_while_no_worker_was_there_is_known_to_the_next(node: Node) -> None:
    epoch = python(node, "sys.stdin.read()\ntime.sleep(1)\nsay('READY=1', 'STATUS=up')\ntime.sleep(1000)")
    node.expect("Started", epoch=epoch)
    node.tell("crash")
    node.meet()
    reported(node, epoch, lambda report: report["ready"] and report["says"] == "up")


def descriptors(node: Node) -> int:
    return len(list(Path(f"/proc/{node.keeper()}/fd").iterdir()))


def probed(node: Node, epoch: int, *argv: str, timeout: float = 30.0) -> Fact:
    """Have a probe run in the tree; gives the report once it has ended."""
    node.tell("probe", epoch=epoch, argv=argv, timeout=timeout)
    number = node.expect("probing", epoch=epoch)["n"]
    return reported(
        node,
        epoch,
        lambda report: report["probe"] == number and (report["probe_status"], report["probe_failed"]) != (None, None),
    )


def test_a_probe_runs_in_the_tree_with_the_childs_environment_and_its_end_is_reported(
    node: Node, tmp_path: Path
) -> None:
    epoch = node.shell("exec sleep 1000", env={"PATH": "/usr/bin:/bin", "COLOUR": "red"})
    node.expect("Started", epoch=epoch)
    report = probed(node, epoch, "sh", "-c", f'echo "$COLOUR $PPID" > {tmp_path}/said; exit 4')
    assert (report["probe_status"], report["probe_failed"]) == (4 << 8, None)
    assert (tmp_path / "said").read_text() == f"red {node.keeper()}\n"
    assert probed(node, epoch, "true")["probe_status"] == 0
    missing = probed(node, epoch, "/no/such/probe")
    assert "/no/such/probe" in missing["probe_failed"]


def test_a_probe_that_hangs_is_killed_with_what_it_has_started(node: Node, tmp_path: Path) -> None:
    epoch = node.shell("exec sleep 1000")
    main = node.expect("Started", epoch=epoch)["pid"]
    script = f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/below; wait"
    report = probed(node, epoch, "sh", "-c", script, timeout=3.0)  # by then it has written
    assert report["probe_failed"] == "it did not end within 3 s"
    assert gone(int((tmp_path / "below").read_text()))
    assert not gone(main)


@pytest.mark.parametrize("cgroup", first_of([True, False]))
def test_a_tree_is_empty_only_without_its_probe_which_dies_with_it(node: Node, cgroup: bool) -> None:
    epoch = node.shell("exec sleep 1000", cgroup=cgroup)
    main = node.expect("Started", epoch=epoch)["pid"]
    node.tell("probe", epoch=epoch, argv=["sleep", "1000"], timeout=500.0)
    [probe] = wait_for(lambda: [pid for pid in children(node.keeper()) if pid != main], what="the probe runs")
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    assert gone(probe)


def test_a_child_that_ends_takes_its_probe_along_and_was_alone(node: Node) -> None:
    epoch = node.shell("exec sleep 1000")
    main = node.expect("Started", epoch=epoch)["pid"]
    node.tell("probe", epoch=epoch, argv=["sleep", "1000"], timeout=500.0)
    wait_for(lambda: len(children(node.keeper())) == 2, what="the probe runs")
    os.kill(main, signal.SIGTERM)
    assert node.expect("Exited", epoch=epoch)["alone"] is True
    node.expect("Emptied", epoch=epoch)


def test_a_probe_that_cannot_be_forked_leaks_nothing_and_the_next_one_runs(node: Node) -> None:
    epoch = node.shell("exec sleep 1000")
    node.expect("Started", epoch=epoch)
    before = descriptors(node)
    for _ in range(20):
        assert probed(node, epoch, "/no/such/probe")["probe_failed"]
    wait_for(lambda: descriptors(node) == before, what="nothing is left of them")
    assert probed(node, epoch, "true")["probe_status"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start programs as another user")
def test_a_probe_and_the_words_of_a_child_are_those_of_the_childs_user(node: Node) -> None:
    argv = ("/usr/bin/python3", "-I", "-S", "-c", SAY + "say('READY=1')\ntime.sleep(1000)")
    epoch = node.spawn(*argv, notify=True, uid=65534, gid=65534)
    reported(node, epoch, lambda report: report["ready"])
    assert probed(node, epoch, "sh", "-c", "test $(id -u) = 65534")["probe_status"] == 0
