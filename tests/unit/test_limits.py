"""Claims about what ``--check`` says that an ordinary user's daemon may not grant."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.commands import NOBODY

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
