"""The thread through which all output goes, for the length of a test's block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from highlanderd.output.writer import Writer


@contextmanager
def writing() -> Iterator[Writer]:
    """Return a writer that has a minute in the end: what a test has sent is to be there, however slow the machine."""
    writer = Writer()
    try:
        yield writer
    finally:
        writer.close(60.0)
