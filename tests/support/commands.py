"""The commands as users run them: real processes, their exit codes and what they print."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from highlanderd.errors import HighlanderError
from tests.support.memory_node import Ended, ended
from tests.support.nodes import PATIENCE, Node
from tests.support.wait import wait_for

NOBODY = 65534


def highlanderd(*arguments: str | Path, **environment: str) -> Ended:
    """Run ``highlanderd`` to its end: it must not become a daemon."""
    return asyncio.run(ended([sys.executable, "-m", "highlanderd", *map(str, arguments)], **environment))


def highlanderctl(socket: Path, *arguments: str, before: tuple[str, ...] = ()) -> Ended:
    """Run ``highlanderctl`` for the daemon of a socket; ``before`` are words that go before the command."""
    command = [*before, sys.executable, "-m", "highlanderd.ctl", "--socket", str(socket), *arguments]
    return asyncio.run(ended(command))


def answers(node: Node) -> bool:
    """Whether it answers on its control socket, connected or not."""
    try:
        node.status()
    except HighlanderError:
        return False
    return True


def led(node: Node, *programs: str) -> None:
    """Wait until it leads these programs, each with a child."""
    wait_for(lambda: answers(node) and node.leading().keys() >= {*programs}, PATIENCE, f"{node.name} leads {programs}")


def as_nobody() -> tuple[str, ...]:
    """Return the words before a command that make it nobody's, who may read what it needs; skip without such a way."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip("needs root, and util-linux's setpriv")
    rights = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    return (setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *rights)
