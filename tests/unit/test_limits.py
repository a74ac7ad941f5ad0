"""Claims about what ``--check`` says that an ordinary user's daemon may not grant, or this machine cannot set."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from highlanderd.config import limits
from highlanderd.config.limits import beyond, cgroup_limits, resource_limits, rlimits, unserved
from tests.support.commands import NOBODY
from tests.support.configuration import POSTGRES, loaded

SCRIPT = """
import json, os, sys
from highlanderd.config.limits import urgent
os.setuid(int(sys.argv[1]))
print(json.dumps(urgent(*json.loads(sys.argv[2]))))
"""


def found(uid: int, *wanted: int | None) -> dict[str, str]:
    """Return what a process of this user may not grant of a nice value and an OOM score."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(uid), json.dumps(wanted)], capture_output=True, text=True, check=True
    )
    said: dict[str, str] = json.loads(run.stdout)
    return said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_only_root_may_be_more_urgent_or_better_protected_than_the_daemon_is() -> None:
    said = found(NOBODY, -20, -1000)
    assert said["nice"].startswith("is -20, and only root may go below ")
    assert said["oom_score_adj"].startswith("is -1000, and only root may go below the daemon's own ")
    assert found(NOBODY, 19, 1000) == found(NOBODY, None, None) == found(0, -20, -1000) == {}


WRITTEN = {"nofile": 99, "memory_max": "64MiB", "cpu_max": "50%", "tasks_max": "unlimited"}


def test_each_limit_goes_to_who_can_set_it() -> None:
    both = resource_limits(WRITTEN)
    assert rlimits(both) == {"nofile": 99}
    assert cgroup_limits(both) == {"memory_max": 64 << 20, "cpu_max": 50_000}  # a new cgroup is unlimited
    assert beyond({"memory_max": 1 << 60, "cpu_max": 1, "tasks_max": -1}) == []


def test_what_this_machine_cannot_set_is_a_warning_and_the_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "lack", lambda controller: "not here" if controller == "memory" else "")
    configuration = loaded(
        f'{POSTGRES}[program.x]\ncommand = "sh"\nlimits = {{ memory_max = "64MiB", cpu_max = 0.5, nofile = 99 }}\n'
    )
    assert [one.split(": ", 1)[1] for one in configuration.warnings if "cannot hold" in one] == [
        "program.x.limits: memory_max cannot hold, and the program runs without: not here"
    ]
    assert configuration.findings == ()


def test_a_limit_above_what_the_machine_has_was_perhaps_meant_in_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "lack", lambda _: "")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    (said,) = unserved(resource_limits({"cpu_max": 150}))
    assert said.startswith("cpu_max is 150 processors, and this machine has 2, so it limits nothing; ")
    assert unserved(resource_limits({"cpu_max": 2})) == []
