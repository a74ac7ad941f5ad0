"""From host names to addresses without ever blocking the event loop or leaving it more than one thread per host.

libpq and asyncio's own resolver cannot be bounded: a hung name server would hold their few threads for half a minute.
"""

from __future__ import annotations

import asyncio
import socket
import threading


class Resolver:
    """Looks names up in daemon threads, one lookup under way per host, and remembers the last good answer."""

    def __init__(self) -> None:
        self._lookups: dict[str, asyncio.Future[tuple[str, ...]]] = {}
        self._known: dict[str, tuple[str, ...]] = {}

    async def addresses(self, host: str, within: float) -> tuple[str, ...]:
        """Give the addresses of ``host``; the last good ones when the name server does not answer ``within`` seconds.

        Raises OSError when there is neither an answer nor a former one.
        """
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = self._start(host)
        await asyncio.wait([lookup], timeout=within)
        if lookup.done():
            self._lookups.pop(host, None)
            if lookup.exception() is None:
                self._known[host] = lookup.result()
        if host in self._known:
            return self._known[host]
        if lookup.done():
            lookup.result()
        raise TimeoutError(f"the name {host} was not resolved within {within:.3g} s")

    def _start(self, host: str) -> asyncio.Future[tuple[str, ...]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[str, ...]] = loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        threading.Thread(target=_look_up, args=(host, loop, future), name=f"resolve {host}", daemon=True).start()
        return future


def _look_up(host: str, loop: asyncio.AbstractEventLoop, future: asyncio.Future[tuple[str, ...]]) -> None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        _hand_over(loop, future, addresses, None)
    except OSError as error:
        _hand_over(loop, future, (), error)


def _hand_over(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[tuple[str, ...]],
    addresses: tuple[str, ...],
    error: OSError | None,
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(addresses)
        else:
            future.set_exception(error)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
