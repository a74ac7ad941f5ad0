"""The daemon's own log: to standard error through the writer, as text or as JSON, the same keys always.

A record's program, state and epoch come from ``extra={"program": ..., "state": ..., "epoch": ...}``. The journal gets
them as fields, too. Priorities are written only to the journal, which understands them.
"""

from __future__ import annotations

import json
import logging
from typing import Final, Literal

from highlanderd.durations import rfc_3339
from highlanderd.errors import one_line, printable
from highlanderd.output.journal import JournalHandler, priority
from highlanderd.output.writer import Writer

FACTS: Final = ("program", "state", "epoch")
"""What a record may say in addition to its message; None where it does not."""


def log_through(writer: Writer, level: str, form: Literal["text", "json"], *, journal: str | None = None) -> None:
    """Send everything that is logged in this process through ``writer``, from ``level`` (``debug`` to ``error``) up.

    ``journal`` is the journal's socket, where ``writer`` writes into the journal; it comes first.
    """
    root = logging.getLogger()
    for before in root.handlers[:]:
        root.removeHandler(before)
    root.addHandler(_handler(WriterHandler(writer), form, journal))
    root.setLevel(level.upper())
    for chatty in ("asyncio", "aiohttp"):  # their debug and info lines are for their developers
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _handler(door: WriterHandler, form: Literal["text", "json"], journal: str | None) -> logging.Handler:
    if journal is None:
        door.setFormatter(JsonLines() if form == "json" else TextLines())
        return door
    lines = JsonLines() if form == "json" else PlainLines()
    door.setFormatter(JournalLines(lines))
    handler = JournalHandler(journal, door)
    handler.setFormatter(lines)
    return handler


class WriterHandler(logging.Handler):
    """Hands each record to the writer; it never blocks, and never drops a line for a child's noise."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - a wrong format string must not end a program; logging reports it
            self.handleError(record)
        else:
            self._writer.offer((text + "\n").encode("utf-8", "replace"), text.count("\n") + 1, important=True)


def _message(record: logging.LogRecord) -> str:
    """Return the message. A line ends only where this program means it: in its own words, and in its own errors'."""
    if isinstance(record.args, tuple) and record.args:
        words = tuple(one_line(word) if isinstance(word, str) else word for word in record.args)
        return printable(str(record.msg) % words)
    return printable(record.getMessage())


def _said(record: logging.LogRecord) -> str:
    facts = " ".join(f"{name}={value}" for name in FACTS if (value := getattr(record, name, None)) is not None)
    return f"{_message(record)} [{one_line(facts)}]" if facts else _message(record)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    return printable(formatter.formatException(record.exc_info)) if record.exc_info else None


class TextLines(logging.Formatter):
    """For people: time, level, message and facts; further lines are indented."""

    def format(self, record: logging.LogRecord) -> str:
        trace = _trace(self, record)
        text = f"{rfc_3339(record.created)} {record.levelname:<7} {_said(record)}"
        return (text if trace is None else f"{text}\n{trace}").replace("\n", "\n    ")


class PlainLines(logging.Formatter):
    """For the journal, which knows time and priority; further lines are indented."""

    def format(self, record: logging.LogRecord) -> str:
        trace = _trace(self, record)
        return (_said(record) if trace is None else f"{_said(record)}\n{trace}").replace("\n", "\n    ")


class JournalLines(logging.Formatter):
    """For the journal's stream: each line with its priority, as sd-daemon(3) has it."""

    def __init__(self, lines: logging.Formatter) -> None:
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        mark = f"<{priority(record.levelno)}>"
        return mark + self._lines.format(record).replace("\n", f"\n{mark}")


class JsonLines(logging.Formatter):
    """For machines: one object per line, the same keys always."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": rfc_3339(record.created),
                "level": record.levelname.lower(),
                "logger": record.name,
                **{name: getattr(record, name, None) for name in FACTS},
                "message": _message(record),
                "error": _trace(self, record),
            },
            default=str,
        )
