"""``highlanderctl top``: the whole screen, programs above and events below, until q or Ctrl-C."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import time
import tty
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from highlanderd.ctl import tables, terminal
from highlanderd.ctl.choice import chosen
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.events import line
from highlanderd.ctl.following import followed
from highlanderd.ctl.status import footer
from highlanderd.errors import DONE, HighlanderError

REFRESH: Final = 1.0
"""Seconds between two pictures when nothing changes: ages go on."""
LEAVE: Final = frozenset(b"qQ\x03")
"""The keys that leave: q, and Ctrl-C where the terminal passes it on."""
LOOK_AT_KEYS: Final = 0.1
"""Seconds until a key or a change shows."""
AGAIN: Final = 1.0
"""Seconds until a daemon is asked again that did not answer."""
EVENTS: Final = 200
"""That a tall screen may show."""
FOOTERS: Final = 4
"""Lines about what is out of the ordinary: the rest of the screen is for programs and events."""
MOST_OF_IT: Final = 6
"""Tenths of the screen that programs take at most."""
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


class Watched:
    """What the daemon has said last. Two threads wait for its next words, and the picture takes what is there."""

    def __init__(self, daemon: ControlClient) -> None:
        self._daemon = daemon
        self.status: Answer | None = None
        self.events: deque[Answer] = deque(maxlen=EVENTS)
        self.trouble = ""
        """Why the daemon does not answer at the moment."""
        self.changed = threading.Event()

    def begin(self) -> None:
        """Wait for news from now on."""
        for waiting in (self._watch_status, self._watch_events):
            threading.Thread(target=waiting, daemon=True).start()

    def _watch_status(self) -> None:
        wait = None
        while True:
            try:
                self.status, self.trouble = self._daemon.status(wait, REFRESH), ""
                wait = REFRESH
            except HighlanderError as error:
                self.trouble = str(error)
                time.sleep(AGAIN)
            self.changed.set()

    def _watch_events(self) -> None:
        stream = "/v1/events?follow=true&snapshot=false"
        while True:
            try:
                lately = list(self._daemon.stream("/v1/events"))
                self.events.clear()  # of a daemon that was restarted, some are there already
                self.events.extend(lately)
                for event in followed(self._daemon, stream, stream):
                    if event is not None:
                        self.events.append(event)
                    self.changed.set()
            except HighlanderError:  # the other thread says why
                time.sleep(AGAIN)


def top(daemon: ControlClient, arguments: Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HighlanderError("top needs a terminal; 'highlanderctl status' and 'highlanderctl events' do not")
    watched = Watched(daemon)
    watched.status = daemon.status()  # a daemon that is not there is refused in one line
    watched.begin()
    with _whole_screen():
        while True:
            watched.changed.clear()
            width, height = terminal.screen()
            colour = not os.environ.get("NO_COLOR")
            lines = picture(watched, arguments.names, (width, height), time.time(), colour=colour)
            terminal.draw(lines, height)
            sys.stdout.flush()
            if _left(watched):
                break
    return DONE


def picture(
    watched: Watched, names: Sequence[str], size: tuple[int, int], now: float, *, colour: bool = False
) -> list[str]:
    """Return the lines of one screen: what is out of the ordinary, programs from the sickest on, the newest events."""
    width, height = size
    status = watched.status or {"node": "-", "programs": [], "postgres": {"connected": True}, "warnings": []}
    programs = tables.sickest_first(chosen(names, status["programs"]))
    head = [f"{tables.plain(status['node'])}: {tables.counts(programs)}; q leaves"]
    head += [f"warning: {tables.plain(watched.trouble)}"] if watched.trouble else []
    head += list(footer(status, now))[:FOOTERS]
    rows = [tables.cells(program, tables.age(program, now)) for program in programs]
    below = tables.table(rows, width=width, colour=colour)
    room = max(MOST_OF_IT * (height - len(head)) // 10, 2)
    if len(below) > room:
        more = f"... {len(programs)} programs; name some to see them, as in 'top web-*'"
        below = [*below[: room - 1], tables.cut(more, width)]
    events = [line(event, now) for event in tuple(watched.events)]  # the other thread adds to them
    left = height - len(head) - len(below) - 2
    shown = ["", "EVENTS", *(events[-left:] if left > 0 else [])]
    cut = [tables.cut(one, width) for one in head]
    return [*cut, *below, *(tables.cut(one, width) for one in shown)][:height]


def _left(watched: Watched) -> bool:
    """Return whether somebody leaves; False once there is something else to show."""
    until = time.monotonic() + REFRESH
    while time.monotonic() < until and not watched.changed.is_set():
        if select.select([sys.stdin], [], [], LOOK_AT_KEYS)[0]:
            keys = os.read(sys.stdin.fileno(), 64)  # all that was typed: nothing may stay in a buffer of Python's
            if not keys or LEAVE & set(keys):
                return True
    return False


@contextmanager
def _whole_screen() -> Iterator[None]:
    """Take the terminal's other screen, and give back what was there."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(HIDE_CURSOR)
        yield
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write(SHOW_CURSOR)
        sys.stdout.flush()
