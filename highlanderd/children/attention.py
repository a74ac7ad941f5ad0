"""What the worker is at: written into memory that the guardian reads when the worker has died."""

from __future__ import annotations

import mmap
from collections.abc import Callable

from highlanderd.guardian.suspects import NOTHING, SLOT, written
from highlanderd.system import linux


class Attention:
    """The program that the worker handles at this moment. Raises OSError when there is no memory for it."""

    def __init__(self, after: Callable[[], None] = lambda: None) -> None:
        """``after`` is called when a program was handled without an exception."""
        self.fd = linux.memfd("attention", NOTHING)
        """The memory, which ``attend`` sends to the guardian."""
        self.memory, self.after = mmap.mmap(self.fd, SLOT.size), after
        self.shown = NOTHING
        """What the memory holds."""

    def on(self, program: str) -> Handling:
        """Handle a program for the block, which must not wait."""
        return Handling(self, program)


class Handling:
    """One block in which a program is handled. Blocks are many, and ``contextmanager`` would make each cost more."""

    __slots__ = ("_attention", "_before", "_program")

    def __init__(self, attention: Attention, program: str) -> None:
        self._attention, self._program, self._before = attention, program, NOTHING

    def __enter__(self) -> None:
        attention = self._attention
        self._before = attention.shown
        attention.memory[:] = attention.shown = written(self._program, linux.boottime())

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        attention = self._attention
        attention.memory[:] = attention.shown = self._before
        if raised is None:
            attention.after()
