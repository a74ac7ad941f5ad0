"""Decode and parse one TOML file, or say in a sentence why it cannot be read."""

from __future__ import annotations

import errno
import os
import re
import select
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Final

import tomli

from highlanderd.config.problems import Document, Problems

Reader = Callable[[Path], bytes]

LARGEST: Final = 16 << 20
"""Bytes of a file: a device has no end, and would fill the memory."""
WITHIN: Final = 5.0
"""Seconds for a process that writes the next piece into a pipe."""
_PIECE: Final = 1 << 16
"""Bytes that are read at once: /proc refuses a request for many."""

_HINTS: Final = (
    (r"\s*\[program:", "write a program's table as [program.NAME]"),
    (r"\s*\[\w+:", "no table's name holds a colon"),
    (r"\s*;", "a comment begins with #"),
    (r"[^=]*=\s*0\d+\s*(#.*)?$", 'write an octal number in quotes, such as "022"'),
    (r"[^=]*=\s*(yes|no|on|off|True|False)\s*(#.*)?$", "write true or false"),
    (r"[^=]*=\s*[A-Za-z/$~.%]", "write a string in quotes"),
    (r"[^=]*=\s*\d+\s*[A-Za-z]+", 'write a duration or size in quotes, such as "10s"'),
)
"""What was probably meant by a line that is not TOML."""


def whole(path: Path) -> bytes:
    """Return what a file holds. Raises OSError: EFBIG above ``LARGEST``.

    A pipe may be a shell's, with a command at its other end. It holds nothing up for longer than ``WITHIN``.
    """
    content = b""
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        while piece := _piece(file):
            content += piece
            if len(content) > LARGEST:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if not content and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EPIPE, "it is a pipe that no process writes to")
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _piece(file: FileIO) -> bytes:
    """Return the next bytes; none at the end."""
    while (piece := file.read(_PIECE)) is None:  # a pipe whose writer has not written yet
        if not select.select([file], [], [], WITHIN)[0]:
            raise OSError(errno.ETIMEDOUT, f"it is a pipe to which no process has written for {WITHIN:g} s")
    return piece


def unreadable(error: OSError) -> str:
    """Return why a file of the configuration could not be read, and what to do."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "there is no such file; create it, or name another one"
    if isinstance(error, IsADirectoryError):
        return 'this is a directory; name a file, or include what is in it with include = ["DIRECTORY/*.toml"]'
    if isinstance(error, PermissionError):
        return "this user may not read it; run as another user, or change the file's group and mode"
    return f"it cannot be read ({(error.strerror or str(error)).lower()}); name another file, or mend the file system"


def parsed(name: str, content: bytes, report: Problems) -> tuple[Document, dict[str, object]] | None:
    """Return a file's text and its tables, or ``None`` after reporting why it is no TOML."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        report.add_file(name, "this line is not UTF-8; save the file in that encoding", line)
        return None
    if text.startswith("\ufeff"):
        report.add_file(name, "the file begins with a byte order mark; save it as UTF-8 without one", 1)
        return None
    try:
        return Document(name, text), tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        report.add_file(name, f"this is not TOML: {_complaint(error)}; {_hint(text, error.lineno)}", error.lineno)
    except RecursionError:
        report.add_file(name, "its brackets are nested too deep; close each one that the file opens")
    return None


def _complaint(error: tomli.TOMLDecodeError) -> str:
    # tomli names a table as Python's tuple of its parts
    said = re.sub(r"\('(.+?)',?\)", lambda parts: "[" + parts[1].replace("', '", ".") + "]", error.msg)
    return f"{said[:1].lower()}{said[1:]} (column {error.colno})"


def _hint(text: str, line: int) -> str:
    """Return what to do about the line that tomli could not read."""
    lines = text.split("\n")
    faulty = lines[line - 1] if line <= len(lines) else ""
    return next((hint for pattern, hint in _HINTS if re.match(pattern, faulty)), "correct this line or the one before")
