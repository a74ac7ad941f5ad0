"""``--at-most-every``: a session that does not take over when the last successful run began too short a time ago."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from highlanderd.core.events import Refused
from highlanderd.core.verdict import Claim
from highlanderd.postgres.replies import Reply
from highlanderd.postgres.sql.leading import LAST_SUCCESS
from highlanderd.run.waiting import WaitingSession


class SpacedSession(WaitingSession):
    """A session that looks for the last success between its look and the takeover.

    Nothing can come between: the takeover changes the row only as it was when it was judged, and each run changes it.
    """

    def __init__(self, *words: Any, every: float, on_recent: Callable[[float], None], **keys: Any) -> None:
        """``on_recent`` is called, with the seconds since, when the last success began less than ``every`` s ago."""
        super().__init__(*words, **keys)
        self._every, self._on_recent = every, on_recent

    def begin(self, claim: Claim) -> bool:
        """Take over unless the last success is too recent. Posts Granted or Refused."""
        query = ("last_success", LAST_SUCCESS, (self.lock.lock_id,))
        self.ask(lambda replies, _sent: self._judge(claim, replies[0]), query)
        return True

    def _judge(self, claim: Claim, reply: Reply) -> None:
        pause = claim.lengths.pace.renew_every
        if reply.error is not None or not reply.rows:
            why = "nothing" if reply.error is None else reply.error.text
            self.post(Refused(pause, f"cannot see when it last succeeded: {why}"))
            return
        [(ago,)] = reply.rows
        if ago is None or float(ago) >= self._every:
            super().begin(claim)
            return
        self._on_recent(float(ago))
        self.post(Refused(pause, "it has succeeded too recently"))
