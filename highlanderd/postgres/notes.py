"""What an operator is shown of PostgreSQL: alarms, standing warnings, and log lines that appear once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from highlanderd.postgres.replies import ServerMessage

log = logging.getLogger(__name__)

REMEMBERED_LINES: Final = 32
"""Log lines of one kind that are remembered: a text with a number in it may come in any number."""


class Notes:
    """The warnings of one server, by subject, and what was already logged."""

    def __init__(self, on_alarm: Callable[[str], None]) -> None:
        self._on_alarm = on_alarm
        self._standing: dict[str, frozenset[str]] = {}
        self._unforeseen: set[str] = set()
        self._server_warnings: set[tuple[str, str]] = set()
        """The function and the first word of each warning that was logged: the rest may be different each time."""

    @property
    def warnings(self) -> frozenset[str]:
        """The sentences that are true at present."""
        return frozenset().union(*self._standing.values())

    def warn(self, subject: str, sentences: Iterable[str]) -> None:
        """Replace all warnings about ``subject``, and log each new one."""
        before, now = self._standing.get(subject, frozenset()), frozenset(sentences)
        for sentence in now - before:
            log.warning("%s", sentence)
        self._standing[subject] = now

    def alarm(self, text: str) -> None:
        """Raise an alarm: an operator must look at once."""
        self._on_alarm(text)

    def server_warned(self, message: ServerMessage) -> None:
        """Log what an extension or a trigger says about our statements, once of each kind."""
        kind = message.source, message.text.split(maxsplit=1)[0] if message.text else ""
        if kind not in self._server_warnings and len(self._server_warnings) < REMEMBERED_LINES:
            self._server_warnings.add(kind)
            log.warning(
                "PostgreSQL warned about a statement whose commit is not in doubt (%s): %s",
                message.source,
                message.text,
            )

    def unforeseen(self, what: str, error: Exception) -> None:
        """Log an exception that no code expects; with its traceback once, because what is wrong may stay wrong."""
        sentence = f"{what}: {error!r}"
        if sentence in self._unforeseen:
            log.debug("%s", sentence)
            return
        if len(self._unforeseen) >= REMEMBERED_LINES:
            self._unforeseen.clear()
        self._unforeseen.add(sentence)
        log.error("%s", sentence, exc_info=error)
