"""The last lines of one child, each with its number, time and stream. They are cut when they are reported."""

from __future__ import annotations

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    Line = tuple[int, float, str, bytes]

KEPT_LINES = 200
KEPT_BYTES = 1000  # of each line
LOOKED_AT = 1 << 16  # bytes at the end of a block; a flood's block has more lines than are kept


class LastLines:
    """The last lines, those of an earlier logger included. A line's number is how many the child had written by it."""

    def __init__(self, lines: list[Line], number: int) -> None:
        self.number = number
        self._lines = lines
        self._blocks: list[tuple[int, float, str, bytes, bool]] = []
        """What came since the last report: the last line's number, time, stream, text, and whether it was cut."""
        self._size = 0

    def keep(self, block: memoryview, count: int, stream: str, now: float) -> None:
        """Keep the end of a block of ``count`` lines."""
        self.number += count
        end = len(block) - (block[-1] == 0x0A)
        text = bytes(block[max(end - LOOKED_AT, 0) : end])
        self._blocks.append((self.number, now, stream, text, end > LOOKED_AT))
        self._size += len(text) + 1
        while self._size > 2 * LOOKED_AT:
            self._size -= len(self._blocks.pop(0)[3]) + 1

    def cut(self) -> list[Line]:
        """Return the last lines, those that came since the last report included."""
        found: list[Line] = []
        while self._blocks and len(found) < KEPT_LINES:
            number, now, stream, text, beheaded = self._blocks.pop()
            lines = text.rsplit(b"\n", KEPT_LINES)
            if len(lines) > KEPT_LINES or (beheaded and len(lines) > 1):
                del lines[0]
            first = number - len(lines) + 1
            found = [(first + at, now, stream, line[:KEPT_BYTES]) for at, line in enumerate(lines)] + found
        self._blocks.clear()
        self._size = 0
        self._lines = [*self._lines, *found][-KEPT_LINES:]
        return self._lines
