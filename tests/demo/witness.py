"""What the children themselves say: who lives where, how long nobody did, and whether two ever lived at once.

It follows the file that the children of all nodes append to (``tests/journal_child.py``), and asks no daemon anything.
Times are CLOCK_BOOTTIME in seconds, as a child read them before each of its lines.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path

from tests.support.journal import Tail

CELL = 0.25
"""Seconds of one cell of the strip that shows who lived when."""
CELLS = 400
"""Cells that are kept: more than any terminal is wide."""


@dataclass(slots=True)
class Life:
    """One child, as far as it has written."""

    program: str
    epoch: int
    node: str
    pid: str
    began: float
    last: float


@dataclass(frozen=True, slots=True)
class Handover:
    """Two lives of a program, one after the other."""

    before: Life
    after: Life

    @property
    def gap(self) -> float:
        """Seconds from the last line of the one to the first line of the other: negative would be an overlap."""
        return self.after.began - self.before.last


class Witness:
    """Reads on from where it stopped; call ``read`` often."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self.lives: dict[str, Life] = {}
        """The latest life of each program."""
        self.handovers: list[Handover] = []
        self.strips: dict[str, deque[tuple[int, str]]] = defaultdict(lambda: deque(maxlen=CELLS))
        """For each program the cells, numbered by time, in which a child of some node wrote."""
        self._doubled: list[str] = []

    def read(self) -> None:
        """Take in what was written since."""
        for line in self._tail.news().splitlines():
            kind, at, program, _, epoch, node, pid = line.split()
            if kind == "doubled":
                self._doubled.append(f"{program}: the child of {node} found another one alive")
            self._heard(Life(program, int(epoch), node, pid, float(at), float(at)))

    def _heard(self, line: Life) -> None:
        present = self.lives.get(line.program)
        if present is None or line.epoch > present.epoch:
            self.lives[line.program] = line
            if present is not None:
                self.handovers.append(Handover(present, line))
        else:
            self._extend(present, line)
        strip = self.strips[line.program]
        cell = (int(line.last / CELL), line.node)
        if not strip or strip[-1] != cell:
            strip.append(cell)

    def _extend(self, present: Life, line: Life) -> None:
        """A line of the present life, or a late one of the life before it."""
        if (line.epoch, line.pid) != (present.epoch, present.pid):
            former = next((one.before for one in reversed(self.handovers) if one.after is present), present)
            if (line.epoch, line.pid) != (former.epoch, former.pid):
                self._doubled.append(
                    f"{line.program}: pid {line.pid} of {line.node} wrote in epoch {line.epoch}, out of turn"
                )
                return
            present = former
        present.last = max(present.last, line.last)

    @property
    def overlaps(self) -> list[str]:
        """Say each time that two children of one program lived at once. It must be empty."""
        return self._doubled + [
            f"{one.before.program}: {one.before.node} (epoch {one.before.epoch}) and {one.after.node} "
            f"(epoch {one.after.epoch}) at once, for {-one.gap * 1000:.0f} ms"
            for one in self.handovers
            if one.gap <= 0
        ]
