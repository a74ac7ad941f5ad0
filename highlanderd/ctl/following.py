"""Streams that go on beyond a daemon's worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.errors import DaemonUnreachable

PAUSE: Final = 0.2
"""Seconds before a stream that has ended is asked for again."""


def followed(daemon: ControlClient, first: str, again: str) -> Iterator[Answer | None]:
    """Return the objects of one stream, and whenever a worker was replaced, None and those of another one.

    Raises DaemonUnreachable once the daemon has ended, and what a stream is refused with.
    """
    resource = first
    while True:
        try:
            yield from daemon.stream(resource)
        except DaemonUnreachable:
            if not daemon.lives:
                raise
        if not daemon.lives:
            raise DaemonUnreachable("the daemon has ended")
        time.sleep(PAUSE)
        yield None
        resource = again
