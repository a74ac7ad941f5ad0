"""The journal's own socket: a record with its facts as fields, so that ``journalctl HIGHLANDER_PROGRAM=beat`` finds it.

It is used where standard error is the journal. What the socket refuses goes there, as a line with its priority.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterable
from typing import Final

SOCKET: Final = "/run/systemd/journal/socket"
FIELDS: Final = ("program", "state", "epoch", "event")
"""What a record may carry as ``extra``, by its name in the field: ``HIGHLANDER_PROGRAM``."""

PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
DEBUG: Final = 7


def priority(level: int) -> int:
    """Return syslog's priority for a level of ``logging``.

    >>> priority(logging.ERROR), priority(logging.DEBUG)
    (3, 7)
    """
    return next((number for least, number in PRIORITIES if level >= least), DEBUG)


class JournalHandler(logging.Handler):
    """Sends each record to the journal's socket. It never blocks; ``otherwise`` gets what cannot be sent."""

    def __init__(self, address: str, otherwise: logging.Handler) -> None:
        super().__init__()
        self._address, self._otherwise = address, otherwise
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, or hand it on."""
        try:
            self._socket.sendto(self._datagram(record), self._address)
        except OSError:  # the journal restarts, is full, or takes no message that long
            self._otherwise.handle(record)
        except Exception:  # noqa: BLE001 - a wrong format string must not end a program; logging reports it
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _datagram(self, record: logging.LogRecord) -> bytes:
        fields = [("MESSAGE", self.format(record)), ("PRIORITY", priority(record.levelno))]
        fields += [("SYSLOG_IDENTIFIER", "highlanderd"), ("HIGHLANDER_LOGGER", record.name)]
        facts = [(f"HIGHLANDER_{name.upper()}", getattr(record, name, None)) for name in FIELDS]
        return b"".join(_fields([*fields, *((name, fact) for name, fact in facts if fact is not None)]))


def _fields(fields: Iterable[tuple[str, object]]) -> Iterable[bytes]:
    """Return fields as systemd's native protocol has them: with a length, which allows line breaks."""
    for name, value in fields:
        data = str(value).encode("utf-8", "replace")
        yield name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
