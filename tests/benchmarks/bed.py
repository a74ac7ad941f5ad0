"""What a measurement stands on: a server of its own, real daemons, and figures in words."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from highlanderd.embedded.account import unprivileged
from highlanderd.embedded.installation import installed, pick, reachable
from tests.support import nodes
from tests.support.postgres import DISK, Cluster, Clusters, passable_directory
from tests.support.wait import LOOK_EVERY


@contextlib.contextmanager
def server(**settings: str) -> Iterator[Cluster]:
    """Return a server, and leave nothing of it."""
    account = unprivileged()
    with passable_directory(DISK) as shelf, passable_directory(DISK) as directory:
        if account.foreign:
            os.chown(shelf, account.uid, account.gid)
        programs = reachable(pick(installed(), None), account, shelf)
        with contextlib.closing(Clusters(programs, account, directory)) as clusters:
            yield clusters.create(**settings)


def program(name: str, command: Sequence[str], **keys: object) -> str:
    """Return the table of one program in a configuration file."""
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in {"command": command, **keys}.items())
    return f"[program.{name}]\n{''.join(lines)}"


def sleepers(count: int) -> str:
    """Return the tables of so many programs that do nothing: p0, p1 and so on."""
    return "".join(program(f"p{number}", ["sleep", "infinity"]) for number in range(count))


@contextlib.contextmanager
def daemons() -> Iterator[nodes.Nodes]:
    """Return daemons to start, and leave nothing of them."""
    with passable_directory(DISK) as directory:
        made = nodes.Nodes(directory)
        try:
            yield made
        finally:
            with contextlib.redirect_stdout(None):
                made.close()


def await_sparingly(fact: Callable[[], bool], within: float, what: str) -> None:
    """Wait for a fact that takes long to look at: looking has a fifth of the time, and the measured the rest of it.

    Raises AssertionError when it is not so within so many seconds.
    """
    end = time.monotonic() + within
    while True:
        began = time.monotonic()
        if fact():
            return
        if began > end:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(max(LOOK_EVERY, 4 * (time.monotonic() - began)))


def timed(action: Callable[[], object], times: int) -> list[float]:
    """Return the seconds that an action takes, each time."""
    taken = []
    for _ in range(times):
        began = time.monotonic()
        action()
        taken.append(time.monotonic() - began)
    return taken


def whole(command: Sequence[str | Path]) -> None:
    """Run Python as a shell would: ``highlanderctl`` in the tests is forked, and need not import anything."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(nodes.PACKAGE), "LANG": "C.UTF-8"}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)


def milliseconds(seconds: Sequence[float]) -> str:
    """Say a sample in words."""
    ordered = sorted(seconds)
    shown = (median(ordered), ordered[0], ordered[-1])
    return "median {:6.1f} ms   (best {:.1f}, worst {:.1f}; of {})".format(*(1000 * one for one in shown), len(ordered))
