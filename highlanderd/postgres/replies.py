"""What is asked on a connection, and what comes back: statements, replies, and the two ways to fail."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct, field

from highlanderd.errors import Unanswered

Value = str | int | float | bool | None | Sequence[int] | Sequence[int | None] | Sequence[str]

WRAPAROUND_SOURCES: Final = frozenset({"GetNewTransactionId", "GetNewMultiXactId"})
"""Server functions whose warnings announce a transaction id wraparound: an alarm, and no doubt about the commit."""
_OF_COMMITS: Final = re.compile(r"sync|commit|repl|xlog|quorum", re.IGNORECASE)
"""What the names of server functions contain that warn of a commit: PostgreSQL's own is SyncRepWaitForLSN."""


LONGEST: Final = 1e9
"""Seconds, some thirty years: what is longer or infinite is shown as that."""


def duration(value: str | None) -> float:
    """Return the seconds of a reply; 0 for none, and for what is no number.

    >>> duration("2.5"), duration(None), duration("NaN"), duration("-Infinity")
    (2.5, 0.0, 0.0, -1000000000.0)
    """
    found = float(value or 0)
    return 0.0 if found != found else min(max(found, -LONGEST), LONGEST)


def document(value: str | None) -> object:
    """Return what a reply has in JSON; None for none, and for what is nested deeper than this process can follow."""
    try:
        return json.loads(value or "null")
    except (ValueError, RecursionError):
        return None


class WireLost(Exception):
    """The connection is gone. What was asked may have happened or not."""


class RefusedServer(WireLost):
    """There is no connection, because the server must not be used. ``str()`` names the cure."""


def unanswered(lost: WireLost | ConnectFailed) -> Unanswered:
    """Return the error for a person whose question this has left without an answer."""
    if isinstance(lost, RefusedConnection):
        return Unanswered(f"PostgreSQL refuses the connection: {lost}")
    if isinstance(lost, RefusedServer):
        return Unanswered(f"PostgreSQL cannot be used: {lost}")
    return Unanswered(f"PostgreSQL does not answer: {lost}")


class ConnectFailed(Exception):
    """No connection was made. ``timed_out`` says that there was no answer at all, not even a refusal."""

    def __init__(self, why: str, *, timed_out: bool = False) -> None:
        super().__init__(why)
        self.timed_out = timed_out


class RefusedConnection(ConnectFailed):
    """No connection was made, because the server said so itself: there is no such role or database, say."""


class Statement(Struct, frozen=True):
    """A statement, which each connection prepares under ``name`` when it is first asked."""

    name: str
    sql: str


class ServerMessage(Struct, frozen=True):
    """An error or a warning. Only ``sqlstate`` and ``source`` are for decisions; ``text`` is for people."""

    sqlstate: str
    text: str
    source: str
    """The server's function; unlike ``text`` it is never translated."""

    @property
    def doubtful(self) -> bool:
        """Whether a warning leaves it open whether the commit is safe. Extensions and triggers warn of other things."""
        return not self.source or _OF_COMMITS.search(self.source) is not None


class Reply(Struct):
    """All that came back for one statement, up to the ReadyForQuery that follows its Sync."""

    rows: list[tuple[str | None, ...]] = field(default_factory=list)
    affected: int = 0
    error: ServerMessage | None = None
    warnings: list[ServerMessage] = field(default_factory=list)
    """The warnings that leave it open whether the commit is safe."""

    @property
    def sqlstate(self) -> str | None:
        """The error's SQLSTATE, or None."""
        return self.error.sqlstate if self.error else None

    @property
    def acknowledged(self) -> bool:
        """Whether the commit is beyond doubt: no error, and no warning such as of a cancelled wait for a standby."""
        return self.error is None and not self.warnings

    @property
    def doubt(self) -> str:
        """Why a reply is no success, if one row should have been changed."""
        if self.error is not None:
            return self.error.text
        return self.warnings[0].text if self.warnings else "it did not say that one row was changed"


Ask = tuple[Statement, Sequence[Value]]
"""A statement and the values of its parameters."""

Query = tuple[str, str, Sequence[Value]]
"""A name, one of the texts in ``sql/``, and the values of its parameters: an Ask, before the schema is known."""
