"""From host names to addresses, without ever blocking the event loop.

libpq and asyncio's own resolver cannot be bounded: a hung name server would hold their few threads for half a minute.
"""

from __future__ import annotations

import asyncio
import socket

from highlanderd.threads import in_thread


class Resolver:
    """Looks names up, one lookup per host at a time, and remembers the last good answer."""

    def __init__(self) -> None:
        self._lookups: dict[str, asyncio.Future[tuple[str, ...]]] = {}
        self._known: dict[str, tuple[str, ...]] = {}

    async def addresses(self, host: str, within: float) -> tuple[str, ...]:
        """Return the addresses of ``host``: those known at once, while they are looked up again.

        Raises OSError when it was never resolved and is not resolved ``within`` seconds.
        """
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = in_thread(lambda: _look_up(host), f"resolve {host}")
            lookup.add_done_callback(lambda done: self._learn(host, done))
        if host not in self._known:
            await asyncio.wait([lookup], timeout=within)
            if not lookup.done():
                raise TimeoutError(f"the name {host} was not resolved within {within:.3g} s")
            self._known.setdefault(host, lookup.result())
        return self._known[host]

    def _learn(self, host: str, lookup: asyncio.Future[tuple[str, ...]]) -> None:
        del self._lookups[host]
        if not lookup.cancelled() and lookup.exception() is None:
            self._known[host] = lookup.result()


def _look_up(host: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # the name is none: IDNA cannot encode it
        raise socket.gaierror(socket.EAI_NONAME, f"no host name: {error}") from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
