"""A child is born in its own cgroup, or enters it where the kernel forbids that."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from highlanderd.guardian import cgroup

FORK = """
import os, sys
from highlanderd.guardian import cgroup
from highlanderd.system import linux

def say():
    print(open("/proc/self/cgroup").read(), flush=True)
    return 7

pid = cgroup.fork_into(sys.argv[1], say)
print("none" if pid is None else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
"""A process of one thread, which forks, and prints how its child has ended."""


def forked_into(directory: Path | str) -> list[str]:
    """Return what a child says that is forked into a cgroup, and how it ended."""
    run = subprocess.run([sys.executable, "-c", FORK, directory], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


@pytest.fixture
def directory() -> Iterator[str]:
    own = cgroup.own()
    if own is None:
        pytest.skip("no writable cgroup v2 here")
    made = f"{own}/{cgroup.name(str(uuid4()), 1)}"
    assert cgroup.create(made)
    yield made
    cgroup.remove(made, within=60.0)
    assert not Path(made).exists()


def test_a_process_is_in_its_cgroup_from_its_first_instruction_on(directory: str) -> None:
    *said, code = forked_into(directory)
    assert any(line.endswith(f"/{Path(directory).name}") for line in said)
    assert code == "7"


def test_a_process_that_cannot_be_born_there_is_not_forked(tmp_path: Path) -> None:
    assert forked_into(tmp_path) == ["none"]
    assert forked_into(tmp_path / "missing") == ["none"]
