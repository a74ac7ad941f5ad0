"""Claims about what children use: as cgroups count it, and else as /proc shows it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import cast

import pytest

from highlanderd.core.status import Usage
from highlanderd.guardian import cgroup
from highlanderd.worker import meter as meters
from highlanderd.worker.interfaces import ProgramChild
from highlanderd.worker.meter import Meter
from highlanderd.worker.usage import MeasuredTree, cgroup_counts, usages

INSTANCE = "6f3f1b0e-5d4c-4c1b-8f1a-2f6f3b0c9d11"
TREE = """
import os, sys, threading, time
files = [open("/dev/null") for _ in range(40)]
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
if os.fork() == 0:
    time.sleep(600)
if (dead := os.fork()) == 0:
    os._exit(0)
os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody reaps it
while time.process_time() < 0.3:
    pass
print(flush=True)
time.sleep(600)
"""


class Child:
    """A child whose keeper is this very test."""

    def __init__(self, number: int) -> None:
        self.number, self.looks = number, 0

    @property
    def keeper_pid(self) -> int:
        self.looks += 1
        return os.getpid()


def child(number: int) -> ProgramChild:
    return cast("ProgramChild", Child(number))


def counted(directory: Path, **files: str) -> Path:
    """Write what the kernel shows of a cgroup."""
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text)
    return directory


def test_what_a_tree_uses_is_that_of_all_its_processes() -> None:
    command = ["sh", "-c", '"$@"; exit', "keeper", sys.executable, "-I", "-S", "-c", TREE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as keeper:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        found, nobody = (usages({7: MeasuredTree(pid, None)}, 60)[7] for pid in (keeper.pid, keeper.pid + 1_000_000))
        os.killpg(keeper.pid, signal.SIGKILL)
    assert (found.processes, found.tasks, found.oom_kills) == (2, 3, None)
    assert found.cpu > 0.2  # ticks are rounded down
    assert found.memory > 2 << 20
    assert found.open_files is not None
    assert found.open_files >= 80
    assert (nobody.processes, nobody.cpu, nobody.open_files) == (0, 0, 0)


def test_a_look_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        usages({7: MeasuredTree(os.getpid(), None)}, -1)


def test_what_the_kernel_counts_of_a_cgroup_goes_before_what_proc_shows(tmp_path: Path) -> None:
    place = counted(
        tmp_path,
        cpu_stat="usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
        memory_current="4096\n",
        memory_events="low 0\noom 1\noom_kill 2\noom_group_kill 9\n",
    )
    assert cgroup_counts(str(place)) == {"cpu": 2_500_000, "memory": 4096, "oom_kills": 2, "limit_reached": 1}
    found = usages({7: MeasuredTree(os.getpid(), str(place))}, 60)[7]
    assert (found.cpu, found.memory, found.oom_kills) == (2.5, 4096, 2)
    assert cgroup_counts(f"{tmp_path}/gone") == {}


def test_what_the_kernel_killed_is_counted_once_and_at_the_end_of_the_child_too(tmp_path: Path) -> None:
    kills: list[tuple[str, int]] = []
    meter = Meter(INSTANCE, str(tmp_path), lambda program, more: kills.append((program, more)))
    place = counted(tmp_path / cgroup.name(INSTANCE, 4), memory_events="oom_kill 2\n")
    asyncio.run(meter.measure({"beat": child(4)}))
    meter.exited("beat", child(4))
    assert kills == [("beat", 2)]
    counted(place, memory_events="oom_kill 5\n")
    meter.exited("beat", child(4))
    meter.exited("beat", child(5))  # it has no cgroup
    assert kills == [("beat", 2), ("beat", 3)]


def test_a_reading_is_of_that_very_child() -> None:
    meter = Meter(INSTANCE, None, lambda *_: None)

    async def measured() -> None:
        async with asyncio.timeout(60):
            while meter.of(child(4)) is None:  # a busy machine needs longer than one who asks waits
                await meter.measure({"beat": child(4), "young": child(0)})

    asyncio.run(measured())
    assert [meter.of(child(5)), meter.of(child(0)), meter.of(None)] == [None, None, None]


def test_all_who_ask_at_the_same_time_share_one_look() -> None:
    meter, one = Meter(INSTANCE, None, lambda *_: None), Child(4)

    async def twice() -> None:
        children = {"beat": cast("ProgramChild", one)}
        await asyncio.gather(meter.measure(children), meter.measure(children))

    asyncio.run(twice())
    assert one.looks == 1


def test_nobody_waits_for_a_look_that_takes_longer_than_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(meters, "boottime", lambda: now)
    looks = [threading.Event(), threading.Event()]
    monkeypatch.setattr(meters, "WAIT", 60.0)

    def usages(*_: object) -> dict[int, Usage]:
        nonlocal now
        look = looks.pop(0)
        look.wait(60)
        now += 61
        return {4: Usage(1.0, 2, 3, 4, 5, None)}

    monkeypatch.setattr(meters, "usages", usages)

    async def twice() -> None:
        nonlocal now
        meter, first, second = Meter(INSTANCE, None, lambda *_: None), *looks
        first.set()
        while meter.of(child(4)) is None:
            await meter.measure({"beat": child(4)})
        now += meters.STALE / 2
        meter._due = 0.0
        asyncio.get_running_loop().call_soon(second.set)  # once anybody waits
        await meter.measure({"beat": child(4)})
        assert not second.is_set()
        assert meter.of(child(4)) is not None
        second.set()
        assert meter._look is not None
        await meter._look

    asyncio.run(twice())


def test_a_look_that_nobody_waits_for_leaves_the_interpreter_to_what_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = []

    def usages(*_: object) -> dict[int, Usage]:
        looks.append(1)
        return {}

    monkeypatch.setattr(meters, "WAIT", -1.0)  # each look takes longer
    monkeypatch.setattr(meters, "usages", usages)

    async def twice(later: float) -> None:
        monkeypatch.setattr(meters, "LATER", later)
        meter = Meter(INSTANCE, None, lambda *_: None)
        await meter.measure({"beat": child(4)})
        meter._due = 0.0
        await meter.measure({"beat": child(4)})
        await asyncio.sleep(0.05)
        assert meter._look is not None
        if later:
            meter._look.cancel()
        else:
            await meter._look

    asyncio.run(twice(60.0))
    assert len(looks) == 1
    asyncio.run(twice(0.0))
    assert len(looks) == 3
