"""A node contends for what it has descriptors and processes for, and says what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from highlanderd.config import ProgramConfig
from highlanderd.config.needs import (
    OWN_MEMORY,
    OWN_PROCESSES,
    RESERVE,
    Limits,
    affordable,
    crowd,
    descriptors,
    memory,
    processes,
    processes_of,
    scarcity,
    shortage,
)
from highlanderd.config.probes import ExecCheck, Probe
from highlanderd.system.host_limits import NO_LIMIT, HostLimit, along
from tests.support.scarcity import no_more_processes

PACKAGE = Path(__file__).parents[2]


def programs(count: int, **keys: str) -> dict[str, ProgramConfig]:
    names = [f"program-{number}" for number in range(count)]
    return {name: ProgramConfig(name=name, command=("true",), **keys) for name in names}  # type: ignore[arg-type]


def files(most: int) -> Limits:
    return Limits(files=HostLimit(most, "LimitNOFILE in the unit"))


def tasks(most: int) -> Limits:
    return Limits(processes=HostLimit(most, "/sys/fs/cgroup/system.slice/highlanderd.service/pids.max"))


@pytest.mark.parametrize(("limited", "needed"), [(files, descriptors), (tasks, processes)])
def test_what_is_affordable_needs_no_more_than_the_limit_and_one_more_would(
    limited: Callable[[int], Limits], needed: Callable[..., int]
) -> None:
    wanted = programs(400)
    for most in (0, 200, 256, 1024, 1500):
        names = list(affordable(wanted, limited(most)))
        assert names == [] or needed([wanted[name] for name in names]) <= most
        more = list(wanted)[: len(names) + 1]
        assert needed([wanted[name] for name in more]) > most or len(names) == len(wanted)


def test_the_first_ones_in_the_file_contend() -> None:
    led = affordable(programs(400), files(1024))
    assert led == set(list(programs(400))[: len(led)])


def test_the_tightest_limit_decides_and_is_named() -> None:
    both = Limits(files=HostLimit(1024, "LimitNOFILE"), processes=HostLimit(100, "TasksMax"))
    assert affordable(programs(400), both) == affordable(programs(400), tasks(100))
    assert "TasksMax" in shortage(programs(400), both)


def test_a_reserve_is_kept_that_no_program_takes() -> None:
    assert descriptors([]) >= RESERVE
    assert processes([]) == OWN_PROCESSES


def test_output_costs_a_program_descriptors_processes_and_memory() -> None:
    into_files = programs(300, stdout="/var/log/out", stderr="/var/log/err")
    silent = programs(300, stdout="null", stderr="null").values()
    assert descriptors(into_files.values()) > descriptors(silent)
    assert processes(into_files.values()) == processes(silent) + 300
    assert memory(into_files.values()) > memory(silent) > OWN_MEMORY


def test_a_thread_for_each_file_that_may_drop_lines_and_each_probe_s_command_are_counted() -> None:
    config = ProgramConfig(name="beat", command=("true",), stdout="/var/log/out", stderr="/var/log/err")
    probe = Probe(ExecCheck(("true",)))
    assert processes_of(config) == 3
    assert processes_of(config.model_copy(update={"log_overflow": "drop"})) == 5
    assert processes_of(config.model_copy(update={"alive": probe})) == 4


def test_a_shortage_names_the_need_the_limit_and_the_cure() -> None:
    said = shortage(programs(400), files(1024))
    assert "need 1712 open files, and this process may have 1024: only the first 228 of 400 contend" in said
    assert "LimitNOFILE" in said
    assert shortage(programs(400), files(4096)) == ""
    said = shortage(programs(400), tasks(512))
    assert "need 1216 processes and threads, and this process may have 512: only the first 165 of 400 contend" in said
    assert "raise the limit (/sys/fs/cgroup/system.slice/highlanderd.service/pids.max)" in said


def test_a_node_without_limits_contends_for_all() -> None:
    assert affordable(programs(400), Limits()) == set(programs(400))


def test_memory_is_only_warned_of() -> None:
    few = HostLimit(256_000_000, "/sys/fs/cgroup/memory.max")
    assert "takes about 1484 MB of memory to lead all of these programs here" in scarcity(programs(400), few)
    assert "there are 256 MB (/sys/fs/cgroup/memory.max)" in scarcity(programs(400), few)
    assert scarcity(programs(4), few) == ""


def test_a_user_may_be_short_of_processes_for_its_programs() -> None:
    two, few = list(programs(2).values()), HostLimit(1, "LimitNPROC in the unit")
    assert "the 2 programs of its user need 2 processes or more, and RLIMIT_NPROC lets that user have 1" in crowd(
        two, few
    )
    assert crowd(two[:1], few) == crowd(two, NO_LIMIT) == ""


def test_a_cgroup_has_the_limits_of_those_above_it(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup"
    unit = mount / "system.slice" / "highlanderd.service"
    unit.mkdir(parents=True)
    (tmp_path / "pids.max").write_text("3\n")  # is no cgroup's
    (unit / "pids.max").write_text("max\n")
    (unit.parent / "pids.max").write_text("400\n")
    assert min(along(unit, mount, "pids.max")) == HostLimit(400, f"{unit.parent}/pids.max")
    assert min(along(unit, mount, "memory.max")) == NO_LIMIT


_ASKED = """
import os, resource, sys
from highlanderd.system.host_limits import processes
resource.setrlimit(resource.RLIMIT_NPROC, (50, 50))
os.setuid(int(sys.argv[1]))
print(*processes())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="it becomes another user")
def test_a_limit_on_processes_holds_for_users_and_not_for_root() -> None:
    def found(uid: int) -> str:
        command = [sys.executable, "-c", _ASKED, str(uid)]
        return subprocess.run(command, cwd=PACKAGE, stdout=subprocess.PIPE, check=True).stdout.decode()

    assert found(4_000_000) == "50 LimitNPROC in the unit, ulimit -u\n"
    assert "LimitNPROC" not in found(0)


_ASKED_WITHIN = """
import sys
from highlanderd.system.host_limits import processes
sys.stdin.readline()
print(*processes())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs cgroups that may be made, and so root")
def test_a_limit_on_processes_of_either_version_of_cgroups_holds() -> None:
    asked = subprocess.Popen(
        [sys.executable, "-c", _ASKED_WITHIN], cwd=PACKAGE, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with asked, no_more_processes(asked.pid, spare=40):
        said, _ = asked.communicate(b"\n")
    assert said.startswith(b"41 /sys/fs/cgroup/")
    assert said.endswith(b"/pids.max\n")
