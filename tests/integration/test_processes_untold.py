"""What a worker is told of terms whose keepers answer nothing, and a round of killing: each alone."""

from __future__ import annotations

import os
import signal

import pytest

from highlanderd.guardian.channel import channel_pair
from highlanderd.guardian.keeper_handle import KeeperHandle
from highlanderd.guardian.keepers import Keepers
from highlanderd.guardian.worker import Worker
from highlanderd.system import linux, priority, proctree
from tests.support.brood import kill_brood
from tests.support.processes import PATIENCE, apart
from tests.support.wait import wait_for


@pytest.mark.parametrize("dead", [True, False])
def test_a_term_whose_keeper_cannot_be_introduced_is_told_and_the_keeper_left_alive(dead: bool) -> None:
    """Untold, the new worker would take the row for its own, nobody's, and release it beside the tree."""
    worker = Worker([], "test")
    worker.channel, theirs = channel_pair()
    keepers = Keepers(worker, linux.Poller(), linux.Signals([signal.SIGCHLD]), proctree.Children(), "test", (64, 64))
    pid = os.posix_spawnp("sleep", ["sleep", "1000"], os.environ)
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
        keepers.fork_server.ahead.at = linux.NEVER  # nobody would end what is forked ahead here
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


def test_a_round_of_killing_ends_in_time_and_the_next_ones_go_on() -> None:
    """Who walks for long is taken for frozen."""
    with apart(kill_brood, 600) as killer:
        assert killer.wait(PATIENCE) < 6, "hundredths of a second"


def _raised() -> int:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    priority.raise_priority()
    _, status = os.waitpid(linux.fork(lambda: int(os.getpriority(os.PRIO_PROCESS, 0) != before)), 0)
    wait_for(priority.restore_priority, what="its priority is as before")
    assert status == 0
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    return 0


def test_a_raised_priority_is_not_inherited_and_is_restored() -> None:
    with apart(_raised) as raised:
        assert raised.wait(PATIENCE) == 0
