"""Configurations that live in memory: texts by path, read as files are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from highlanderd.config import Loaded, load
from highlanderd.errors import ConfigurationError

MAIN = Path("/etc/highlander.toml")
POSTGRES = '[postgres]\ndsn = "embedded"\n'


def reading(files: Mapping[str, str | bytes | OSError]) -> Callable[[Path], bytes]:
    """Answer as a disk with just these files would."""

    def read(path: Path) -> bytes:
        found = files.get(str(path), FileNotFoundError(2, "No such file or directory"))
        if isinstance(found, OSError):
            raise found
        return found.encode() if isinstance(found, str) else found

    return read


def loaded(text: str, environ: Mapping[str, str] | None = None, **files: str | bytes | OSError) -> Loaded:
    """Load ``text`` as the main file. ``files`` are more, by the names of paths in /etc without their suffix."""
    named = {f"/etc/{name}.toml": content for name, content in files.items()}
    return load(MAIN, environ or {}, reading({str(MAIN): text, **named}))


def problems(text: str, environ: Mapping[str, str] | None = None, **files: str | bytes | OSError) -> list[str]:
    """Return what is wrong with ``text``, without the name of the main file."""
    try:
        loaded(text, environ, **files)
    except ConfigurationError as error:
        return [problem.removeprefix(f"{MAIN}:") for problem in error.problems]
    return []
