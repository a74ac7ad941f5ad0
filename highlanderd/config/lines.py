"""Find the line of each key of a TOML text: tomli says lines only of what it cannot read.

``locate`` scans a text that tomli has accepted already. In any other text it finds what it can and stops there. It
decodes only keys, and it never raises.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

import tomli

Path = tuple[str | int, ...]
"""A key's way from the top of the document: names of tables and keys, indices of arrays."""

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_KEY: Final = re.compile(r"[A-Za-z0-9_-]+|'[^'\n]*'|\"(?:[^\"\\\n]|\\.)*\"")
_STRING: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}'  # up to two quotes of the content may stand before the closing three
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_BARE: Final = re.compile(r"[^,\]}#\n]*")


def locate(text: str) -> Mapping[Path, int]:
    """Return the line, counted from 1, of every table, key and array element in ``text``.

    >>> locate('[program.beat]\\ncommand = [\\n  "celery",\\n  "beat",\\n]')[("program", "beat", "command", 1)]
    4
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def nearest(lines: Mapping[Path, int], path: Path) -> int:
    """Return the line of ``path``, or of the innermost table or array around it that is written down; else 1."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._ends = [end.start() for end in re.finditer("\n", text)]
        self._elements: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self._take(_BLANK) is not None and self.at < len(self.text):
            before = self.at
            if self._skip("["):
                table = self._header()
            else:
                self._pair(table)
            if self.at == before:
                return  # not TOML: tomli has already said so

    def _header(self) -> Path:
        line, repeated = self._line(), self._skip("[")
        *outer, last = self._names() or ("",)
        path: Path = ()
        for name in outer:
            path = self._innermost((*path, name))
        path = (*path, last)
        if repeated:
            self._note(path, line)
            self._elements[path] = self._elements.get(path, -1) + 1
            path = self._innermost(path)
        self._note(path, line)
        self.lines[path] = line  # the table's own header wins over one of a table inside it
        while self._skip("]"):
            pass
        return path

    def _innermost(self, path: Path) -> Path:
        """Return the path of the last element if ``path`` is an array of tables, else ``path``."""
        return (*path, self._elements[path]) if path in self._elements else path

    def _pair(self, table: Path) -> None:
        line, names = self._line(), self._names()
        if not names:
            return
        path = (*table, *names)
        self._note(path, line)
        self._take(_SPACE)
        if self._skip("="):
            self._take(_SPACE)
            self._value(path)

    def _names(self) -> Path:
        names: list[str] = []
        while True:
            self._take(_SPACE)
            token = self._take(_KEY)
            if not token:
                return tuple(names)
            names.append(_name(token))
            self._take(_SPACE)
            if not self._skip("."):
                return tuple(names)

    def _value(self, path: Path) -> None:
        if self._skip("["):
            self._elements_of(path)
        elif self._skip("{"):
            self._inline_table(path)
        elif self._take(_STRING) is None:
            self._take(_BARE)

    def _elements_of(self, path: Path) -> None:
        index = 0
        while self._take(_BLANK) is not None and self.at < len(self.text) and not self._skip("]"):
            before = self.at
            self.lines[(*path, index)] = self._line()
            self._value((*path, index))
            self._take(_BLANK)
            if self._skip(","):
                index += 1
            elif self.at == before:
                return

    def _inline_table(self, path: Path) -> None:
        while self._take(_BLANK) is not None and self.at < len(self.text) and not self._skip("}"):
            before = self.at
            self._pair(path)
            self._take(_BLANK)
            self._skip(",")
            if self.at == before:
                return

    def _note(self, path: Path, line: int) -> None:
        """Remember where ``path``, and each table around it that has no line yet, is written."""
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _line(self) -> int:
        return bisect_left(self._ends, self.at) + 1

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[0]

    def _skip(self, token: str) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True


def _name(token: str) -> str:
    if token[0] not in "\"'":
        return token
    try:
        return str(tomli.loads(f"key = {token}")["key"])
    except tomli.TOMLDecodeError:
        return token
