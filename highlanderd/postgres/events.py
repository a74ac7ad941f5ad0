"""What the ledger remembers of what has happened in the whole cluster."""

from __future__ import annotations

from highlanderd.core.occurrences import Occurrence
from highlanderd.errors import HighlanderError
from highlanderd.postgres.replies import Reply


def occurrences(reply: Reply) -> list[Occurrence]:
    """Return what a reply to ``EVENTS`` holds, the newest last. Raises HighlanderError for an error."""
    if reply.error is not None:
        raise HighlanderError(f"the events cannot be read: {reply.error.text}")
    return [_occurrence(row) for row in reply.rows]


def _occurrence(row: tuple[str | None, ...]) -> Occurrence:
    time, event, node, program, epoch, cause, exit_status, exit_signal, author, reason = row
    return Occurrence(
        time or "",
        event or "",
        node,
        program,
        None if epoch is None else int(epoch),
        cause,
        None if exit_status is None else int(exit_status),
        exit_signal,
        author,
        reason or None,
    )
