"""Lines of programs as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from highlanderd.core.status import OutputLine
from highlanderd.durations import rfc_3339

PORTABLE: Final = 64 * 1024
"""Bytes of lines that pass through PostgreSQL at once."""


def line_facts(program: str, line: OutputLine) -> dict[str, object]:
    """Return the JSON of one line."""
    return {"time": rfc_3339(line.time), "program": program, "stream": line.stream, "line": line.text}


def portable(lines: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return as many of the last lines as may pass through PostgreSQL, with nothing that it cannot store."""
    kept: list[dict[str, object]] = []
    size = 0
    for line in reversed(lines):
        line = {**line, "line": str(line["line"]).replace("\0", "\ufffd")}
        size += len(json.dumps(line).encode())
        if size > PORTABLE:
            break
        kept.append(line)
    return kept[::-1]
