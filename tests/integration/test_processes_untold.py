"""What a worker is told of terms whose keepers answer nothing, and a round of killing: each alone, in this process."""

from __future__ import annotations

import os
import signal
import time

import pytest

from highlanderd.guardian.channel import channel_pair
from highlanderd.guardian.keeper_handle import KeeperHandle
from highlanderd.guardian.keepers import Keepers
from highlanderd.guardian.killing import TreeKill
from highlanderd.guardian.worker import Worker
from highlanderd.system import linux, priority, proctree
from tests.support.wait import wait_for


def _pause() -> int:
    signal.pause()
    return 0


@pytest.mark.parametrize("dead", [True, False])
def test_a_term_whose_keeper_cannot_be_introduced_is_told_and_the_keeper_left_alive(dead: bool) -> None:
    """Untold, the new worker would take the row for its own, nobody's, and release it beside the tree."""
    worker = Worker([], "test")
    worker.channel, theirs = channel_pair()
    keepers = Keepers(worker, linux.Poller(), linux.Signals([signal.SIGCHLD]), proctree.Children(), "test", (64, 64))
    pid = linux.fork(_pause)
    ours, keepers_end = channel_pair()
    term = {"program": "beat", "lock_id": 7, "epoch": 5}
    handle = KeeperHandle(1, pid, ours, {**term, "deadline": linux.boottime() + 60, "memo": b"led"}, None)
    keepers._living[pid] = handle
    if dead:
        keepers_end.close()
    else:
        while ours.send({"is": "filler"}):  # it reads nothing
            pass
    keepers.list_to_worker()
    told = [message for message, _ in iter(theirs.receive, None)]
    assert [message["is"] for message in told] == ["term", "listed"]
    assert (told[0]["epoch"], told[0]["state"]["memo"]) == (5, b"led")
    assert not handle.killed
    if not dead:
        while keepers_end.receive():
            pass
        keepers.judge(linux.boottime())
        introduced = theirs.receive()
        assert introduced is not None
        assert introduced[0]["is"] == "keeper"
        assert len(introduced[1]) == 1
        os.close(introduced[1][0])
        keepers_end.close()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for channel in (ours, theirs, worker.channel):
        channel.close()


def _brood(told: int, count: int) -> int:
    for _ in range(count):
        linux.fork(_pause)
    os.write(told, b"!")
    return _pause()


def _kill_brood(count: int) -> int:
    """Kill as a keeper does; gives how many hundredths of a second of its own time the longest round took."""
    linux.become_subreaper()
    hears, told = os.pipe()
    linux.fork(lambda: _brood(told, count))
    os.read(hears, 1)
    killing, longest = TreeKill(), 0.0
    while True:
        before = time.process_time()
        killing.round(proctree.children(os.getpid()))
        longest = max(longest, time.process_time() - before)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return min(int(longest * 100), 100)
        if not killing.unfinished:
            time.sleep(0.05)  # as a keeper does: the dying need the processor, too


def test_a_round_of_killing_ends_in_time_and_the_next_ones_go_on() -> None:
    """Who walks for long is taken for frozen."""
    _, status = os.waitpid(linux.fork(lambda: _kill_brood(600)), 0)
    assert os.waitstatus_to_exitcode(status) < 6, "hundredths of a second"


def test_a_raised_priority_is_not_inherited_and_is_restored() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    priority.raise_priority()
    _, status = os.waitpid(linux.fork(lambda: int(os.getpriority(os.PRIO_PROCESS, 0) != before)), 0)
    wait_for(priority.restore_priority, what="its priority is as before")
    assert status == 0
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
