"""The oracle: what the children themselves have written, all nodes in one file, and whether any two lives overlap.

It is not our log. It follows the file as it grows and keeps a summary of each life: every process writes many lines a
second, and tests ask often. Times are CLOCK_BOOTTIME in seconds, as every child read them before its line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
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


@dataclass(slots=True)
class Life:
    """What the processes of one term's tree have written so far."""

    program: str
    lock_id: int
    epoch: int
    node: str
    began: float
    """When the first process wrote its first line."""
    last: float
    """When the last one was last heard of."""
    main: int
    """The process that wrote the first line."""
    pids: frozenset[int] = frozenset()
    starts: int = 0
    """How many processes have started."""
    obeyed: bool = False
    """Whether it was told to end, and did."""
    asked: int = 0
    """Transactions that a counting child wanted to commit."""
    committed: int = 0
    """Those whose commit was acknowledged."""
    committed_at: float = 0.0

    def add(self, line: Line) -> None:
        """Take in one line. Two processes may write theirs in another order than they have read the clock."""
        if line.at < self.began:
            self.began, self.main = line.at, line.pid
        self.last = max(self.last, line.at)
        if line.pid not in self.pids:
            self.pids |= {line.pid}
        self.starts += line.kind == "start"
        self.obeyed |= line.kind == "end"
        self.asked += line.kind == "asked"
        if line.kind == "committed":
            self.committed += 1
            self.committed_at = line.at

    def __str__(self) -> str:
        return f"epoch {self.epoch} of {self.program} on {self.node} from {self.began:.4f} to {self.last:.4f}"


class Tail:
    """A file that grows, read on from where the last reading stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def news(self) -> str:
        """Return the lines that were written since; one that is being written waits for the next time."""
        if not self._path.exists():
            return ""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode()


class Journal:
    """The file that the children of all nodes append to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tail = Tail(path)
        self._terms: dict[tuple[int, int], Life] = {}
        """By lock id and epoch."""
        self._kinds: set[str] = set()
        self._wrong: list[str] = []

    def lives(self, program: str | None = None) -> list[Life]:
        """Return the lives so far, of one program or of all, in the order of their beginnings; they do not change."""
        self._read()
        mine = [replace(life) for life in self._terms.values() if program in (None, life.program)]
        return sorted(mine, key=lambda life: life.began)

    def says(self, kind: str) -> bool:
        """Return whether any child has written a line of this kind."""
        self._read()
        return kind in self._kinds

    def gaps(self, program: str) -> list[float]:
        """Return the seconds without a child between each two lives of a program."""
        return [after.began - before.last for before, after in pairwise(self.lives(program))]

    def doubles(self) -> list[str]:
        """Say what ought never to be: two at once, by program or by lock, by their lines or by their own word."""
        lives = self.lives()
        said = [*self._wrong]
        for one in ("program", "lock_id"):
            for name in {getattr(life, one) for life in lives}:
                mine = [life for life in lives if getattr(life, one) == name]
                said += [f"{one} {name}: {a} and {b}" for a, b in pairwise(mine) if not _in_turn(a, b)]
        return said

    def _read(self) -> None:
        for line in _parsed(self._tail.news()):
            self._hear(line)

    def _hear(self, line: Line) -> None:
        term = line.lock_id, line.epoch
        if term not in self._terms:
            self._terms[term] = Life(line.program, *term, line.node, line.at, line.at, line.pid)
        life = self._terms[term]
        life.add(line)
        self._kinds.add(line.kind)
        if line.kind == "doubled":
            self._wrong.append(f"pid {line.pid} of {line.node} found another one alive at {line.at:.3f}: {life}")
        if line.node != life.node:
            self._wrong.append(f"a term on two nodes, {line.node} too: {life}")


def _parsed(text: str) -> Iterator[Line]:
    """Return the lines of a journal's text, all of them whole."""
    for line in text.splitlines():
        kind, at, program, lock_id, epoch, node, pid = line.split()
        yield Line(kind, float(at), program, int(lock_id), int(epoch), node, int(pid))


def _in_turn(before: Life, after: Life) -> bool:
    """Whether one life ended before the other began, under an epoch that had grown."""
    return before.last < after.began and (before.lock_id != after.lock_id or before.epoch < after.epoch)
