"""Signals that the worker has ordered for a child, until each process has got them."""

from __future__ import annotations

import os

from highlanderd.guardian.killing import send_below
from highlanderd.system import linux, proctree

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message


class PendingSignals:
    """Orders to signal, first come, first served. Without descriptors an order waits, and keeps the later ones waiting.

    ``main`` is the main process, None if it was never forked; ``reaped`` says whether it has been reaped.
    """

    __slots__ = ("_orders", "_sending", "_sent_to_main")

    def __init__(self) -> None:
        self._orders: list[Message] = []
        self._sending: list[tuple[int, int]] = []
        """What is left of the order that is being carried out: pids, each with its signal."""
        self._sent_to_main = False
        """The first order is for a tree that cannot be listed now; its main process has got the signal."""

    def add(self, order: Message) -> None:
        """Take in a ``signal`` message."""
        self._orders.append(order)

    def send(self, main: int | None, reaped: bool) -> None:
        """Send what was ordered. Raises OSError if there is no descriptor for that; the rest is kept for later."""
        while self._orders or self._sending:
            while self._sending:
                pid, signum = self._sending[0]
                if pid != main:
                    send_below(pid, signum, os.getpid())
                elif not reaped:
                    linux.send(pid, signum)  # not reaped yet, so the pid is its own
                del self._sending[0]
            if self._orders:
                order = self._orders[0]
                self._sending = [(pid, order["signum"]) for pid in self._targets(order, main, reaped)]
                self._sent_to_main = False
                del self._orders[0]

    def _targets(self, order: Message, main: int | None, reaped: bool) -> list[int]:
        """List the processes that an order is for, each once."""
        if order["to"] == "main":
            return [] if main is None else [main]
        try:
            # Listed before any of them is signalled: one that dies of it would take its children out of the list.
            pids = list(proctree.descendants(os.getpid()))
        except OSError:
            if main is not None and not reaped and not self._sent_to_main:
                self._sent_to_main = True
                linux.send(main, order["signum"])  # the main process needs no descriptor, and need not wait for one
            raise
        return [pid for pid in pids if not (self._sent_to_main and pid == main)]
