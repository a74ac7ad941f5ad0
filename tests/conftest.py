"""What every rung of the ladder shares: see README.md beside this file."""

from __future__ import annotations

import signal

pytest_plugins = [
    "tests.support.skips",
    "tests.support.postgres",
    "tests.support.proxy",
    "tests.support.nodes",
    "tests.support.floods",
    "tests.support.services",
]


def pytest_configure() -> None:
    """Let what tests start be interrupted, even where a shell has started all this in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
