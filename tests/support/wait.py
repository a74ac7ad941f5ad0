"""Waiting for facts: a test never sleeps for luck, and never waits without an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Fact = TypeVar("Fact")

LOOK_EVERY = 0.02
"""Seconds at first."""
LOOK_AT_LEAST_EVERY = 0.25
"""Seconds when the wait is long, as looking costs the daemon that is asked, too."""


def _seen(fact: Callable[[], Fact]) -> Fact | FileNotFoundError:
    """Return the fact, or that the file which shows it is not there yet."""
    try:
        return fact()
    except FileNotFoundError as missing:
        return missing


def wait_for(fact: Callable[[], Fact], within: float = 60.0, what: str = "") -> Fact:
    """Return what ``fact`` returns as soon as it is true; fail when it is not within so many seconds.

    The bound is for what never comes: on a busy machine what takes a moment may take very long. A file that is not
    there yet is no failure of the fact.
    """
    began = time.monotonic()
    while isinstance(seen := _seen(fact), FileNotFoundError) or not seen:
        waited = time.monotonic() - began
        if waited > within:
            raise AssertionError(f"not within {within:g} s: {what or fact}; last seen: {seen!r}")
        time.sleep(min(max(LOOK_EVERY, waited / 20), LOOK_AT_LEAST_EVERY))
    return seen


async def until(fact: Callable[[], object], within: float = 60.0) -> None:
    """Wait, on the event loop, for a fact that the loop itself or another process brings about."""
    end = time.monotonic() + within
    while not fact():
        assert time.monotonic() < end, f"not within {within:g} s"
        await asyncio.sleep(0.005)
