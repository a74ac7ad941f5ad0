"""Looks that are due at the same moment, in one statement.

A waiting program looks at the ledger several times a lease, and nearly each time sees that another node leads. The
moments of these looks lie on a grid, so that many are due together: one of their sessions asks for all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from highlanderd.postgres.lock_connection import Answered, ProgramLock
from highlanderd.postgres.replies import Query, Reply
from highlanderd.postgres.sql import dialect, leading
from highlanderd.postgres.turn_batch import TurnBatch
from highlanderd.system.linux import boottime

HISTORY_REFUSED: Final = dialect.BLOCKED | dialect.UNDEFINED | {dialect.INSUFFICIENT_PRIVILEGE}
"""SQLSTATEs after which a look is repeated without the history."""

Columns = tuple[str | None, ...]


class Looker(Protocol):
    """The session of a program that another node leads."""

    lock: ProgramLock
    number: int

    @property
    def schema(self) -> int:
        """The version of the ledger's schema as it has seen it; 0 without a connection."""

    def ask(self, answered: Answered, *queries: Query, unanswered: Callable[[], None]) -> None:
        """Send queries, and call one of both."""

    def look_alone(self) -> None:
        """Look for itself."""

    def note_glimpse(self) -> None:
        """Note what surveys have shown so far."""

    def take_look(self, number: int, rows: list[Columns] | None, arrived: float) -> None:
        """Take the rows of LOOK that another one has read for it, or look alone.

        There are none after an error, and None stands for no answer.
        ``number`` is the session's when it was to look, and ``arrived`` is CLOCK_BOOTTIME in seconds.
        """


Numbered = tuple[Looker, int]
"""A session, and the number that it had when it was to look."""


class LookBatch:
    """Collects looks until the loop's next turn."""

    def __init__(self) -> None:
        self._batch = TurnBatch[Numbered](lambda numbered: numbered[0].schema, _look_at)

    def join(self, looker: Looker) -> None:
        """Have a session look together with the others that are to look now."""
        self._batch.join((looker, looker.number))


def _look_at(lookers: Sequence[Numbered]) -> None:
    if len(lookers) == 1:
        lookers[0][0].look_alone()
    else:
        look_together(lookers)


def look_together(lookers: Sequence[Numbered], *, history: bool = True) -> None:
    """Ask for all of them on the session of the first."""
    asker, _ = lookers[0]
    for looker, _ in lookers:
        looker.note_glimpse()
    locks = [looker.lock for looker, _ in lookers]
    values = ([lock.lock_id for lock in locks], [lock.program for lock in locks], asker.lock.node)
    name, sql = ("look_at_many", leading.LOOK_AT_MANY) if history else ("look_at_many_bare", leading.LOOK_AT_MANY_BARE)
    answered, unanswered = partial(_answered, lookers, history), partial(_unanswered, lookers)
    asker.ask(answered, (name, sql, values), unanswered=unanswered)


def _unanswered(lookers: Sequence[Numbered]) -> None:
    for looker, number in lookers:
        looker.take_look(number, None, boottime())


def _answered(lookers: Sequence[Numbered], history: bool, replies: list[Reply], _sent: float) -> None:
    if history and replies[0].sqlstate in HISTORY_REFUSED:
        look_together(lookers, history=False)
        return
    arrived, found = boottime(), defaultdict[str | None, list[Columns]](list)
    for *row, lock_id in replies[0].rows:
        found[lock_id].append(tuple(row))
    for looker, number in lookers:
        looker.take_look(number, found[str(looker.lock.lock_id)], arrived)
