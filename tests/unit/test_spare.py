"""A worker that was a spare has a channel to the guardian, however its descriptors are numbered."""

from __future__ import annotations

import subprocess
import sys

from tests.support.nodes import PACKAGE


def test_the_spare_of_the_first_worker_has_a_channel_when_it_begins() -> None:
    command = [sys.executable, "-W", "error", str(PACKAGE / "tests" / "children" / "spares_child.py")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(set(run.stdout.split())) == 2
