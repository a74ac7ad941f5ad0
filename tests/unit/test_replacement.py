"""A renewal that is refused costs the worker nothing: no descriptor, and no moment in which it renews no lease."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from highlanderd.errors import NeedsForce
from highlanderd.system.linux import boottime
from highlanderd.worker import replacement
from highlanderd.worker.rehearsal import Rehearsal
from highlanderd.worker.replacement import TRIES, WorkerReplacement
from tests.support.wait import wait_for

PATIENCE = 10.0


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
