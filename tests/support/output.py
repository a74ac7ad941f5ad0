"""The thread through which the daemon's own log goes, for the length of a test's block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from highlanderd.output.writer import Writer


@contextmanager
def writing_to(path: Path) -> Iterator[Writer]:
    """Return a writer into a file, which has a minute in the end: what a test has sent is to be there."""
    with path.open("ab") as file:
        writer = Writer(file.fileno())
        try:
            yield writer
        finally:
            writer.close(60.0)
