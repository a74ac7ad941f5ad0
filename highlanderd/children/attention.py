"""What the worker is at: written into memory that the guardian reads when the worker has died."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from highlanderd.guardian.suspects import NOTHING, SLOT, written
from highlanderd.system import linux


class Attention:
    """The program that the worker handles at this moment. Raises OSError when there is no memory for it."""

    def __init__(self) -> None:
        self.fd = linux.memfd("attention", NOTHING)
        """The memory, which ``attend`` sends to the guardian."""
        self._memory = mmap.mmap(self.fd, SLOT.size)

    @contextmanager
    def on(self, program: str) -> Iterator[None]:
        """Handle a program for the block, which must not wait."""
        before = self._memory[:]
        self._memory[:] = written(program, linux.boottime())
        try:
            yield
        finally:
            self._memory[:] = before
