"""Which address of a DSN the next attempt goes to: the one that served last, until it fails or falls silent."""

from __future__ import annotations

from math import inf


class Turns:
    """Counts on from address to address. A turn is an index into the addresses, modulo how many there are."""

    def __init__(self) -> None:
        self._turn = 0
        self._latest = 0
        """The turn of the latest attempt."""
        self._moved = -inf
        """When a silent session made the next attempts go elsewhere, on the loop's clock."""

    def begin(self) -> int:
        """Return the turn of an attempt that begins."""
        self._latest = self._turn
        return self._turn

    def succeeded(self, turn: int) -> None:
        """Let the next attempt go where this one has succeeded."""
        self._turn = turn

    def move_on(self, turn: int | None = None) -> None:
        """Let the next attempt go to another address than ``turn``, by default the turn of the latest attempt.

        Many attempts that failed at one address move on by one: the address behind it is not to be passed over.
        """
        if (self._latest if turn is None else turn) == self._turn:
            self._turn += 1

    def note_silence(self, opened: float, now: float) -> None:
        """Let the next attempt go elsewhere: the lease is half over, and the silent address would swallow it as well.

        ``opened`` is when the silent session was opened: all sessions on one address move on once.
        """
        if opened > self._moved:
            self._moved = now
            self._turn += 1
