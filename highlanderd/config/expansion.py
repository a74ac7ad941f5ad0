"""Expand what the file says: ``${NAME}``, ``${NAME:-default}``, ``$$``, and secrets as ``file:PATH``.

A dollar before anything else stays a dollar. What was expanded is not expanded again, and cannot name a secret's file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

_REFERENCE: Final = re.compile(r"\$\$|\$\{(?P<inside>[^{}]*)\}|\$\{")
_INSIDE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
_FILE: Final = "file:"


class WrittenText(str):
    """A string of the file, expanded, that remembers how and where it was written.

    ``raw`` is the text before expansion, ``beside`` the absolute directory of its file: relative paths start there.
    """

    __slots__ = ("beside", "raw")

    raw: str
    beside: Path

    def __new__(cls, raw: str, beside: Path, environ: Mapping[str, str]) -> WrittenText:
        """Expand ``raw``. Raises ValueError with a sentence, which quotes nothing but names of variables."""
        made = super().__new__(cls, expand(raw, environ))
        made.raw = raw
        made.beside = beside
        return made


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Return ``text`` with the values of variables put in. A default also replaces an empty value, as in a shell.

    Raises ValueError with a sentence, which quotes nothing but names of variables.

    >>> expand("${HOME} costs $$5, ${LEVEL:-info}", {"HOME": "/root", "LEVEL": ""})
    '/root costs $5, info'
    """

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return _value(found["inside"], environ)

    return _REFERENCE.sub(value, text)


def _value(inside: str | None, environ: Mapping[str, str]) -> str:
    known = None if inside is None else _INSIDE.fullmatch(inside)
    if known is None:
        raise ValueError(
            "a ${ starts something that is neither ${NAME} nor ${NAME:-default}; write one of these, "
            "or $${ where the program itself shall see ${"
        )
    name, default = known["name"], known["default"]
    if default is not None:
        return environ.get(name) or default
    if name not in environ:
        raise ValueError(
            f"{name} is not set in the daemon's environment; set it, write ${{{name}:-default}}, "
            f"or $${{{name}}} where the program itself shall see ${{{name}}}"
        )
    return environ[name]


def beside(text: str) -> Path | None:
    """Return the directory that relative paths in ``text`` start at; ``None`` when it came from no file."""
    return text.beside if isinstance(text, WrittenText) else None


def absolute(path: str, start: Path | None) -> Path:
    """Return the path; a relative one starts at ``start``, where there is one.

    Raises ValueError with a sentence for a path that cannot be meant.
    """
    if not path:
        raise ValueError("is empty; write a path, or leave the key out")
    if "\0" in path:
        raise ValueError("holds a NUL character, which no path can; remove it")
    if path.startswith("~"):
        raise ValueError('a "~" is not expanded; write the whole path, or begin it with ${HOME}')
    return Path(path) if start is None else Path(os.path.normpath(start / path))


def reveal(text: str, read: Callable[[Path], bytes]) -> str:
    """Return the secret that ``text`` names with ``file:PATH``, without the line end it ends with; else ``text``.

    Raises ValueError with a sentence, which never quotes the secret.
    """
    if not isinstance(text, WrittenText) or not text.raw.startswith(_FILE):
        return text
    name = text.removeprefix(_FILE)
    if "$" in name:
        raise ValueError(
            f'the path "{name}" holds a "$" that nothing expands; write ${{NAME}}, for example '
            "file:${CREDENTIALS_DIRECTORY}/dsn"
        )
    path = absolute(name, text.beside)
    try:
        secret = read(path).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"the secret in {path} is not UTF-8; {_MEANT}") from None
    except OSError as error:
        raise ValueError(f"the secret in {path} cannot be read: {_reason(error)}; {_MEANT}") from None
    if not secret:
        raise ValueError(f"the secret in {path} is empty; write it there")
    return secret


_MEANT: Final = (
    'name a readable text file; a variable whose own text begins with "file:" belongs in the environment_file'
)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
