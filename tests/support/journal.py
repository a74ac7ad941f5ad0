"""The oracle: what the children themselves have written, all nodes in one file, and whether any two lives overlap.

It is not our log. Times are CLOCK_BOOTTIME in seconds, as every child read them before its line.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

CHILD = [sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "children" / "journal_child.py")]
"""The command of a child that keeps the journal, named by JOURNAL in its environment."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of one process."""

    kind: str
    at: float
    program: str
    lock_id: int
    epoch: int
    node: str
    pid: int


@dataclass(frozen=True, slots=True)
class Life:
    """All that the processes of one term's tree have written."""

    lines: tuple[Line, ...]

    @property
    def program(self) -> str:
        """Whose it was."""
        return self.lines[0].program

    @property
    def lock_id(self) -> int:
        """Under which lock."""
        return self.lines[0].lock_id

    @property
    def epoch(self) -> int:
        """In which term."""
        return self.lines[0].epoch

    @property
    def node(self) -> str:
        """Where."""
        return self.lines[0].node

    @property
    def began(self) -> float:
        """When the first process wrote its first line."""
        return self.lines[0].at

    @property
    def last(self) -> float:
        """When the last one was last heard of."""
        return self.lines[-1].at

    @property
    def pids(self) -> set[int]:
        """Its processes."""
        return {line.pid for line in self.lines}

    def __str__(self) -> str:
        return f"epoch {self.epoch} of {self.program} on {self.node} from {self.began} to {self.last}"

    @property
    def starts(self) -> int:
        """How many processes have started."""
        return sum(line.kind == "start" for line in self.lines)

    @property
    def obeyed(self) -> bool:
        """Whether it was told to end, and did."""
        return any(line.kind == "end" for line in self.lines)


class Journal:
    """The file that the children of all nodes append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> Iterator[Line]:
        """Return every line, in the order of writing; one that is being written is not there yet."""
        text = self.path.read_text() if self.path.exists() else ""
        return parse(text[: text.rfind("\n") + 1])

    def lives(self, program: str | None = None) -> list[Life]:
        """Return the lives, of one program or of all, in the order of their beginnings."""
        terms: dict[tuple[int, int], list[Line]] = defaultdict(list)
        for line in self.lines():
            if program in (None, line.program):
                terms[line.lock_id, line.epoch].append(line)
        lives = [Life(tuple(sorted(lines, key=lambda line: line.at))) for lines in terms.values()]
        return sorted(lives, key=lambda life: life.began)

    def gaps(self, program: str) -> list[float]:
        """Return the seconds without a child between each two lives of a program."""
        return [after.began - before.last for before, after in pairwise(self.lives(program))]

    def doubles(self) -> list[str]:
        """Say what ought never to be: lives that overlap, by program or by lock, and epochs that did not grow."""
        lives = self.lives()
        said = [f"doubled: {line}" for line in self.lines() if line.kind == "doubled"]
        said += [f"a term on two nodes: {life}" for life in lives if len({line.node for line in life.lines}) > 1]
        for one in ("program", "lock_id"):
            for name in {getattr(life, one) for life in lives}:
                mine = [life for life in lives if getattr(life, one) == name]
                said += [f"{one} {name}: {a} and {b}" for a, b in pairwise(mine) if not _in_turn(a, b)]
        return said


def parse(text: str) -> Iterator[Line]:
    """Return the lines of a journal's text, all of them whole."""
    for line in text.splitlines():
        kind, at, program, lock_id, epoch, node, pid = line.split()
        yield Line(kind, float(at), program, int(lock_id), int(epoch), node, int(pid))


def _in_turn(before: Life, after: Life) -> bool:
    """Whether one life ended before the other began, under an epoch that had grown."""
    return before.last < after.began and (before.lock_id != after.lock_id or before.epoch < after.epoch)
