"""A worker is confined in a sandbox that forbids to set capabilities, too, as ``hardening/unprivileged.conf`` does."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parents[1] / "children" / "sandboxed_child.py"
CAPSET = {"x86_64": 126, "aarch64": 91}
"""The number of the system call."""


def test_a_process_without_capabilities_is_confined_where_they_cannot_be_set() -> None:
    number = CAPSET.get(platform.machine())
    if number is None:
        pytest.skip(f"needs the number of capset on {platform.machine()}")
    done = subprocess.run([sys.executable, CHILD, str(number)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "confined\n"), done.stderr
