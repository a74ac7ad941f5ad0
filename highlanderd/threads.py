"""Calls that may hang, in daemon threads: name servers, user databases, network file systems.

The loop's own executor has few threads, and its end waits for them: one hung lookup would hold up all others, and the
daemon's exit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def in_thread(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run ``call`` in a daemon thread called ``name``; the future gives what it returned or raised.

    A future that nobody waits for any more is no error, and neither is a loop that has ended meanwhile. It fails with
    OSError when the machine has no room for a thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def settle(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # without an error there is a result

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as raised:  # noqa: BLE001 - it travels on to whoever waits
            error = raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # no room for another thread
        future.set_exception(OSError(f"no thread could be started for: {name} ({error})"))
    return future
