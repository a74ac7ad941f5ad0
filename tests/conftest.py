"""What every rung of the ladder shares; README.md describes them."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
from typing import Final

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

TEARDOWN_WITHIN: Final = 300.0
"""Seconds."""

pytest_plugins = [
    "tests.support.skips",
    "tests.support.examples",
    "tests.support.postgres_fixtures",
    "tests.support.embedded",
    "tests.support.proxy",
    "tests.support.nodes",
    "tests.support.floods",
    "tests.support.services",
    "tests.support.runs",
    "tests.support.renewals",
]


def pytest_configure() -> None:
    """Let what tests start be interrupted, as a shell or nohup may forbid, and have bytecode, as containers may forbid.

    Hundreds of daemons are started: without bytecode each of them compiles the whole package.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from now on, and never among thousands of tests, which stay: that costs each process seconds."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Have a teardown that hangs end the process with a traceback: a failure before it has ended all other timers."""
    errors = item.config.stash[fault_handler_stderr_fd_key]
    faulthandler.dump_traceback_later(TEARDOWN_WITHIN, exit=True, file=errors)
