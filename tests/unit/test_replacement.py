"""A rehearsal that is refused costs the worker no descriptor and no renewal of a lease; an outdated one is no spare."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from functools import partial
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from highlanderd.errors import NeedsForce
from highlanderd.system.linux import boottime
from highlanderd.worker import rehearsal, replacement
from highlanderd.worker.rehearsal import Rehearsal
from highlanderd.worker.replacement import TRIES, WorkerReplacement
from tests.support.wait import wait_for

PATIENCE = 10.0
LOADED = """
import os, signal
from highlanderd.guardian import messages
from highlanderd.guardian.channel import Channel
from highlanderd.guardian.spare import DESCRIPTOR
Channel.of(int(os.environ[DESCRIPTOR].partition(",")[0])).post(messages.loaded(os.getpid()))
signal.pause()
"""
"""A process that says at once that it has loaded the installed code."""


def descriptors() -> set[str]:
    """Return this process' open descriptors."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_a_rehearsal_that_cannot_begin_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> int:
        raise OSError("too many open files")

    before = descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", full)
        with pytest.raises(OSError, match="too many open files"):
            Rehearsal(["true"], b"")
    assert descriptors() == before


@pytest.mark.parametrize(("then", "waits"), [(1, True), (2, False), (None, False)])
def test_what_has_loaded_files_that_have_changed_meanwhile_is_no_spare_and_ends(
    monkeypatch: pytest.MonkeyPatch, then: int | None, waits: bool
) -> None:
    codes = iter([1, then])
    monkeypatch.setattr(rehearsal, "installed", lambda: next(codes))
    made = Rehearsal([sys.executable, "-c", LOADED], b"")
    ended = made._process.poll() is not None
    made.end()
    assert (made.spare, ended) == ((made._process.pid, 1) if waits else None, not waits)


def test_the_worker_goes_on_while_a_rehearsal_that_it_refuses_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    went_on, seen = threading.Event(), []

    class Ending:
        def __init__(self, *_: object) -> None:
            self.spare = 4711, 1

        def end(self) -> None:
            seen.append(went_on.wait(PATIENCE))

    async def main() -> None:
        with pytest.raises(NeedsForce, match="the leases leave"):
            await renewing.begin(force=False)
        went_on.set()

    term = SimpleNamespace(epoch=1, fence_at=lambda _stop_timeout: boottime())
    spawner = SimpleNamespace(config=SimpleNamespace(stop_timeout=1.0))
    member = SimpleNamespace(program=SimpleNamespace(state="leading", term=term), spawner=spawner)
    fleet: Any = SimpleNamespace(ending=False, members={"beat": member})
    persistence: Any = SimpleNamespace(encoded=lambda: b"", restart_due=None)
    guardian: Any = None
    monkeypatch.setattr(replacement, "Rehearsal", Ending)
    renewing = WorkerReplacement("a", [], fleet, persistence, guardian, on_connection_loss="fence", end=lambda: None)
    asyncio.run(main())
    wait_for(lambda: len(seen) == TRIES, PATIENCE, "both have ended")
    assert all(seen)


def _at(moment: float, _stop_timeout: float) -> float:
    return moment


def test_children_that_are_fenced_already_do_not_hinder_a_renewal() -> None:
    """PostgreSQL may be away for hours: their terms are not released yet, and only a lease under way can end."""

    def left(*fenced_in: float) -> float:
        now = boottime()
        terms = [SimpleNamespace(fence_at=partial(_at, now + seconds)) for seconds in fenced_in]
        spawner = SimpleNamespace(config=SimpleNamespace(stop_timeout=1.0))
        members = [SimpleNamespace(program=SimpleNamespace(term=term), spawner=spawner) for term in terms]
        fleet: Any = SimpleNamespace(members=dict(enumerate(members)))
        unused: Any = None
        return WorkerReplacement("a", [], fleet, unused, unused, on_connection_loss="fence", end=unused)._left()

    assert left(-9.0) == inf
    assert 90.0 < left(-9.0, 100.0) < 100.0
