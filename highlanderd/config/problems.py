"""Collect what is wrong with a configuration, and where, so that all of it is reported at once."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Final

from msgspec import Struct, field

from highlanderd.config.lines import Path, locate, nearest

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


class Document:
    """One file of the configuration: its name as people know it, and its text."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def holds(self, path: Path) -> bool:
        """Return whether this very key is written in the file."""
        return path in self._lines

    def line(self, path: Path) -> int:
        """Return the line of a key, counted from 1, or of the innermost table around it that is written down."""
        return nearest(self._lines, path)

    @cached_property
    def _lines(self) -> dict[Path, int]:
        # Only a problem asks for a line, so a good configuration is never scanned.
        return dict(locate(self.text))


class Location(Struct, frozen=True):
    """Where a key is written, or a table that lacks one."""

    document: Document
    path: Path

    def __truediv__(self, key: str | int) -> Location:
        """Return the location of a key inside this table or array."""
        return Location(self.document, (*self.path, key))

    def __str__(self) -> str:
        return f"{self.document.name}:{self.document.line(self.path)}"


def spelled(path: Path) -> str:
    """Return a key as TOML writes it.

    >>> spelled(("program", "a.b", "command", 0))
    'program."a.b".command[0]'
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False))
    return text


class Problems(Struct):
    """Sentences about locations. The same sentence about the same location is kept once."""

    _sentences: dict[str, tuple[str, int]] = field(default_factory=dict)
    _keys: set[tuple[str, Path]] = field(default_factory=set)

    def add(self, location: Location, sentence: str) -> None:
        """Add a sentence about a key: what is wrong, and after a semicolon what to write instead."""
        line = location.document.line(location.path)
        key = f" {spelled(location.path)}:" if location.path else ""
        self._keys.add((location.document.name, location.path))
        self._say(location.document.name, line, f"{location.document.name}:{line}:{key} {sentence}")

    def add_file(self, name: str, sentence: str, line: int | None = None) -> None:
        """Add a sentence about a file as a whole, or about a line that belongs to no key."""
        where = name if line is None else f"{name}:{line}"
        self._say(name, line or 0, f"{where}: {sentence}")

    def include(self, others: Problems) -> None:
        """Add all of another collection."""
        self._sentences = {**others._sentences, **self._sentences}
        self._keys |= others._keys

    def knows(self, location: Location) -> bool:
        """Return whether this very key has been found wrong already."""
        return (location.document.name, location.path) in self._keys

    def _say(self, name: str, line: int, text: str) -> None:
        self._sentences.setdefault(text, (name, line))

    def sorted(self) -> tuple[str, ...]:
        """Return all sentences by file and line."""
        return tuple(sorted(self._sentences, key=lambda text: (*self._sentences[text], text)))
