"""The oracle: what the children themselves wrote, and what must never be found there.

It follows the journal (``journal.py``) as it grows and keeps a summary of each life, because an hour of lines does not
fit into memory. Times are CLOCK_BOOTTIME in seconds, as each child read them before its line. It asks no daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path

from tests.support.journal import Line, parse

TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.counter (program text PRIMARY KEY, value bigint NOT NULL);
CREATE TABLE shop.counted (
    id bigserial PRIMARY KEY, program text NOT NULL, epoch bigint NOT NULL, value bigint NOT NULL
);
"""
"""What the children count in. Nothing there refuses a lost update: it must be seen, not prevented."""

TWICE = "SELECT program, value, count(*) FROM shop.counted GROUP BY program, value HAVING count(*) > 1"
UNEQUAL = """
SELECT r.program, r.value, count(c.id)
  FROM shop.counter AS r LEFT JOIN shop.counted AS c USING (program) GROUP BY r.program HAVING r.value <> count(c.id)
"""
BACKWARDS = """
SELECT program, epoch, before FROM (
    SELECT program, epoch, lag(epoch) OVER (PARTITION BY program ORDER BY value, id) AS before FROM shop.counted
) AS rows WHERE epoch < before
"""
COMMITS = "SELECT program, epoch, count(*) FROM shop.counted GROUP BY program, epoch"

Sql = Callable[[str], Sequence[tuple[object, ...]]]
Term = tuple[str, int]
"""Program and epoch."""


@dataclass(slots=True)
class Life:
    """The processes of one term's tree, as far as they have written."""

    program: str
    lock_id: int
    epoch: int
    node: str
    began: float
    last: float
    pids: set[int] = field(default_factory=set)
    asked: int = 0
    committed: int = 0
    committed_at: float = 0.0

    def add(self, line: Line) -> None:
        """Take in one line of it."""
        self.began, self.last = min(self.began, line.at), max(self.last, line.at)
        self.pids.add(line.pid)
        if line.kind == "asked":
            self.asked += 1
        elif line.kind == "committed":
            self.committed += 1
            self.committed_at = line.at

    def __str__(self) -> str:
        return f"epoch {self.epoch} of {self.program} on {self.node} from {self.began:.3f} to {self.last:.3f}"


@dataclass(frozen=True, slots=True)
class Gap:
    """From the last line of one life of a program to the first of the next, in seconds."""

    program: str
    before: Life
    after: Life

    @property
    def seconds(self) -> float:
        """How long nobody lived; negative would be an overlap."""
        return self.after.began - self.before.last


class Oracle:
    """Follows one journal. Call ``read`` before asking."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lives: dict[tuple[int, int], Life] = {}
        """By lock id and epoch."""
        self._offset = 0
        self._said: list[str] = []

    def read(self) -> None:
        """Take in what was written since; a line that is being written waits for the next time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in parse(whole.decode()):
            self._hear(line)

    def of(self, program: str) -> list[Life]:
        """Return the lives of a program in the order of their beginnings."""
        mine = [life for life in self.lives.values() if life.program == program]
        return sorted(mine, key=lambda life: life.began)

    def present(self) -> dict[str, Life]:
        """Return the life of each program that was heard of last. The one that began last may have ended beside it.

        That takes one of the stated exceptions: a term that goes on when the server of the other one is gone.
        """
        latest: dict[str, Life] = {}
        for life in self.lives.values():
            if life.program not in latest or life.last > latest[life.program].last:
                latest[life.program] = life
        return latest

    def epochs(self) -> dict[str, int]:
        """Return the epoch of each program's latest life: a child that is replaced has another one."""
        self.read()
        return {name: life.epoch for name, life in self.present().items()}

    def gaps(self, since: float) -> list[Gap]:
        """Return the successions whose later life began after that moment."""
        programs = {life.program for life in self.lives.values()}
        pairs = [Gap(program, a, b) for program in sorted(programs) for a, b in pairwise(self.of(program))]
        return [gap for gap in pairs if gap.after.began > since]

    def overlaps(self) -> list[str]:
        """Say what ought never to be: two at once, by program or lock, by their lines or by their own word."""
        said = [*self._said]
        for kind in ("program", "lock_id"):
            for name in {getattr(life, kind) for life in self.lives.values()}:
                mine = sorted(
                    (life for life in self.lives.values() if getattr(life, kind) == name), key=lambda life: life.began
                )
                said += [f"{kind} {name}: {a} and {b}" for a, b in pairwise(mine) if not _in_turn(a, b)]
        return said

    def together(self, since: float) -> float:
        """Return for how long, at most, two children of a program lived at once after that moment."""
        lives = [life for life in self.lives.values() if life.last > since]
        pairs = [(a, b) for a, b in combinations(lives, 2) if a.program == b.program]
        return max((min(a.last, b.last) - max(a.began, b.began) for a, b in pairs), default=0.0)

    def lost_updates(self, sql: Sql, *, complete: bool = True) -> list[str]:
        """Compare the journal with the tables: what was counted twice, not at all, or under an epoch that went down.

        ``complete`` is false where the stated exception holds: a failover that lost committed transactions.
        """
        self.read()
        committed = {(life.program, life.epoch): life.committed for life in self.lives.values()}
        counted = {(str(program), int(str(epoch))): int(str(rows)) for program, epoch, rows in sql(COMMITS)}
        said = [f"{program} counted {value} {times} times" for program, value, times in sql(TWICE)]
        said += [f"{program} stands at {value} after {rows} commits" for program, value, rows in sql(UNEQUAL)]
        said += [f"{program} counted under epoch {now} after {before}" for program, now, before in sql(BACKWARDS)]
        self.read()
        asked = {(life.program, life.epoch): life.asked for life in self.lives.values()}
        return said + list(_miscounted(committed if complete else {}, counted, asked))

    def _hear(self, line: Line) -> None:
        life = self.lives.setdefault(
            (line.lock_id, line.epoch), Life(line.program, line.lock_id, line.epoch, line.node, line.at, line.at)
        )
        life.add(line)
        if line.kind == "doubled":
            self._said.append(f"pid {line.pid} of {line.node} found another one alive at {line.at:.3f}: {life}")
        if line.node != life.node:
            self._said.append(f"a term on two nodes, {line.node} too: {life}")


def _in_turn(before: Life, after: Life) -> bool:
    """Whether one life ended before the other began, under an epoch that had grown."""
    return before.last < after.began and (before.lock_id != after.lock_id or before.epoch < after.epoch)


def _miscounted(committed: dict[Term, int], counted: dict[Term, int], asked: dict[Term, int]) -> Iterator[str]:
    """Say where the rows are fewer than the acknowledged commits, or more than were asked for."""
    for program, epoch in sorted(committed.keys() | counted.keys()):
        term = (program, epoch)
        least, rows, most = committed.get(term, 0), counted.get(term, 0), asked.get(term, 0)
        if not least <= rows <= most:
            yield f"{program}, epoch {epoch}: {least} commits acknowledged, {most} asked for, {rows} found"
