"""Calls that may hang, in daemon threads: name servers, user databases, network file systems.

The loop's own executor has few threads, and its end waits for them: one hung lookup would hold up all others, and the
daemon's exit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def in_thread(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run ``call`` in a daemon thread called ``name``; return a future of what it returns or raises.

    It is no error when nothing awaits the future any more, or when the loop has ended meanwhile. The future fails with
    OSError when the machine has no room for a thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def run() -> None:
        try:
            settle = partial(_return, future, call())
        except Exception as raised:  # noqa: BLE001 - it is raised again where the future is awaited
            settle = partial(_raise, future, raised)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # no room for another thread
        future.set_exception(OSError(f"no thread could be started for: {name} ({error})"))
    return future


def _return(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _raise(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
