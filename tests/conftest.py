"""What every rung of the ladder shares: see README.md beside this file."""

from __future__ import annotations

import signal

pytest_plugins = ["fix_postgres", "fix_proxy", "fix_nodes", "fix_floods", "fix_service"]


def pytest_configure() -> None:
    """Let what tests start be interrupted, even where a shell has started all this in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
