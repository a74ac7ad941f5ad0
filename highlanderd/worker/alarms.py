"""Alarms: what an operator must look at. Each is logged when it is new, and ``status`` shows it for an hour."""

from __future__ import annotations

import logging
from typing import Final

from highlanderd.system.linux import boottime

log = logging.getLogger(__name__)

SHOWN_FOR: Final = 3600.0
"""Seconds for which ``status`` shows an alarm after it was last raised."""


class Alarms:
    """The alarms of the last hour, each with the moment when it was last raised."""

    def __init__(self) -> None:
        self._raised: dict[str, float] = {}

    def sound(self, text: str) -> None:
        """Raise an alarm. One that ``status`` still shows is not logged again."""
        if text not in self.recent():
            log.error("%s", text)
        self._raised[text] = boottime()

    def recent(self) -> tuple[str, ...]:
        """Return the alarms that ``status`` shows, and forget those that are older."""
        now = boottime()
        self._raised = {text: at for text, at in self._raised.items() if now - at < SHOWN_FOR}
        return tuple(self._raised)
