"""The oracle: what the children wrote, in the journal and in PostgreSQL, and what must never be found there.

It asks no daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from tests.support.journal import Journal, Life

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


class Oracle(Journal):
    """A journal whose programs count in tables, too."""

    def present(self) -> dict[str, Life]:
        """Return the life of each program that was heard of last. The one that began last may have ended beside it.

        That takes one of the stated exceptions: a term that goes on when the server of the other one is gone.
        """
        latest: dict[str, Life] = {}
        for life in self.lives():
            if life.program not in latest or life.last > latest[life.program].last:
                latest[life.program] = life
        return latest

    def epochs(self) -> dict[str, int]:
        """Return the epoch of each program's latest life: a child that is replaced has another one."""
        return {name: life.epoch for name, life in self.present().items()}

    def successions(self, since: float) -> list[Gap]:
        """Return the successions whose later life began after that moment."""
        programs = {life.program for life in self.lives()}
        pairs = [Gap(program, a, b) for program in sorted(programs) for a, b in pairwise(self.lives(program))]
        return [gap for gap in pairs if gap.after.began > since]

    def together(self, since: float) -> float:
        """Return for how long, at most, two children of a program lived at once after that moment."""
        lives = [life for life in self.lives() if life.last > since]
        pairs = [(a, b) for a, b in combinations(lives, 2) if a.program == b.program]
        return max((min(a.last, b.last) - max(a.began, b.began) for a, b in pairs), default=0.0)

    def lost_updates(self, sql: Sql, *, complete: bool = True) -> list[str]:
        """Compare the journal with the tables: what was counted twice, not at all, or under an epoch that went down.

        ``complete`` is false where the stated exception holds: a failover that lost committed transactions.
        """
        committed = {(life.program, life.epoch): life.committed for life in self.lives()}
        counted = {(str(program), int(str(epoch))): int(str(rows)) for program, epoch, rows in sql(COMMITS)}
        said = [f"{program} counted {value} {times} times" for program, value, times in sql(TWICE)]
        said += [f"{program} stands at {value} after {rows} commits" for program, value, rows in sql(UNEQUAL)]
        said += [f"{program} counted under epoch {now} after {before}" for program, now, before in sql(BACKWARDS)]
        asked = {(life.program, life.epoch): life.asked for life in self.lives()}
        return said + list(_miscounted(committed if complete else {}, counted, asked))


def _miscounted(committed: dict[Term, int], counted: dict[Term, int], asked: dict[Term, int]) -> Iterator[str]:
    """Say where the rows are fewer than the acknowledged commits, or more than were asked for."""
    for program, epoch in sorted(committed.keys() | counted.keys()):
        term = (program, epoch)
        least, rows, most = committed.get(term, 0), counted.get(term, 0), asked.get(term, 0)
        if not least <= rows <= most:
            yield f"{program}, epoch {epoch}: {least} commits acknowledged, {most} asked for, {rows} found"
