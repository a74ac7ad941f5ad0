"""What a measurement stands on: a server of its own, real daemons, and figures in words."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from highlanderd.embedded.account import unprivileged
from highlanderd.embedded.installation import installed, pick, reachable
from tests.support.nodes import Nodes
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


def sleepers(count: int) -> str:
    """Return the sections of so many programs that do nothing: p0, p1 and so on."""
    return "".join(f'[program.p{number}]\ncommand = ["sleep", "infinity"]\n' for number in range(count))


@contextlib.contextmanager
def daemons() -> Iterator[Nodes]:
    """Return daemons to start, and leave nothing of them."""
    with passable_directory(DISK) as directory:
        nodes = Nodes(directory)
        try:
            yield nodes
        finally:
            with contextlib.redirect_stdout(None):
                nodes.close()


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


def milliseconds(seconds: Sequence[float]) -> str:
    """Say a sample in words."""
    ordered = sorted(seconds)
    shown = (median(ordered), ordered[0], ordered[-1])
    return "median {:6.1f} ms   (best {:.1f}, worst {:.1f}; of {})".format(*(1000 * one for one in shown), len(ordered))
