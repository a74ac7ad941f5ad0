"""Read a supervisord.conf and the files that it includes, by supervisord's own rules.

Its files are INI with comments after `` ;`` and `` #``. A section may come again, also in another of the files: it is
one section, and later options win. Only the main file's ``[include]`` counts; its patterns are relative to that file
and read in sorted order.
"""

from __future__ import annotations

import configparser
import glob
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from highlanderd.config.supervisord import CLOSED, OPENED
from highlanderd.config.toml import whole
from highlanderd.errors import ConfigurationError
from highlanderd.structs import replace

_REFERENCE: Final = re.compile(r"%(?:%|\((?P<name>[^()]*)\)(?P<how>[-#0 +]*\d*(?:\.\d+)?[sdi])|(?P<other>))")
_VARIABLE: Final = re.compile(f"{OPENED}(.*?){CLOSED}")


class SupervisorSection(Struct, frozen=True):
    """A section, its options not yet expanded but for ``%(here)s``, which is the directory of the file that says it."""

    file: Path
    """The first one that has it."""
    kind: str
    name: str
    options: Mapping[str, str]

    @property
    def title(self) -> str:
        """Return the section's title as it is written."""
        return f"[{self.kind}:{self.name}]" if self.name else f"[{self.kind}]"


def sections(path: Path) -> list[SupervisorSection]:
    """Return the sections of the file, then what only its includes have.

    Raises ConfigurationError for a file that cannot be read, is no INI, or has neither programs nor supervisord in it.
    """
    found = list(_sections(path))
    patterns = [section.options.get("files", "") for section in found if section.kind == "include"]
    for pattern in " ".join(patterns).split():
        for included in _included(path, pattern):
            found += _sections(included)
    if not any(section.kind in ("supervisord", "program", "group", "include") for section in found):
        raise ConfigurationError((f"{path}: this is no supervisord.conf: it has no [program:...] section",))
    return _merged(found)


def _merged(found: list[SupervisorSection]) -> list[SupervisorSection]:
    merged: dict[str, SupervisorSection] = {}
    for section in found:
        former = merged.setdefault(section.title, section)
        merged[section.title] = replace(former, options={**former.options, **section.options})
    return [*merged.values()]


def _included(path: Path, pattern: str) -> list[Path]:
    """Return the files that a pattern of ``[include]`` names, sorted."""
    try:
        relative = expand(pattern, {"host_node_name": os.uname().nodename})
    except ValueError as error:
        raise ConfigurationError((f"{path}: [include] files: {error}",)) from None
    where = path.parent / _VARIABLE.sub(lambda found: os.environ.get(found[1], ""), relative)
    return [Path(name) for name in sorted(glob.glob(os.fspath(where)))]  # noqa: PTH207 - a pattern may be absolute


def _sections(path: Path) -> Iterator[SupervisorSection]:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    try:
        parser.read_string(whole(path).decode("utf-8-sig"), str(path))
    except OSError as error:
        raise ConfigurationError((f"{path}: cannot be read: {(error.strerror or str(error)).lower()}",)) from None
    except UnicodeDecodeError:
        raise ConfigurationError((f"{path}: is not UTF-8; convert it, for example with iconv",)) from None
    except configparser.Error as error:
        said = " ".join(error.message.split())
        raise ConfigurationError((f"{path}: this is no supervisord.conf: {said}",)) from None
    here = os.fspath(path.absolute().parent).replace("%", "%%")
    for title in parser.sections():
        kind, _, name = title.partition(":")
        options = {option: text.replace("%(here)s", here) for option, text in parser.items(title)}
        yield SupervisorSection(path, kind.strip(), name.strip(), options)


def expand(text: str, known: Mapping[str, object]) -> str:
    """Return ``text`` with its ``%(name)s`` replaced; ``%(ENV_X)s`` becomes a mark of which ``written`` makes ``${X}``.

    Raises ValueError with a sentence for a name that supervisord would not know either.
    """

    def value(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        name = found["name"]
        if name is None:
            raise ValueError('holds a "%" that begins no %(name)s; write %% for a plain one')
        if name.startswith("ENV_") and name not in known:
            return f"{OPENED}{name.removeprefix('ENV_')}{CLOSED}"
        if name not in known:
            raise ValueError(f"names %({name})s, which supervisord does not know here")
        return f"%{found['how']}" % known[name]

    return _REFERENCE.sub(value, text)


def settled(text: str, environ: Mapping[str, str]) -> str:
    """Return expanded text with its variables replaced by their values.

    Raises ValueError with a sentence for a variable that is not set.

    >>> settled(expand("%(ENV_WORKERS)s", {}), {"WORKERS": "4"})
    '4'
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in environ:
            raise ValueError(f"names %(ENV_{found[1]})s, which is not set; set it for the import, or write the value")
        return environ[found[1]]

    return _VARIABLE.sub(value, text)


def written(text: str) -> str:
    """Return expanded text as this daemon's file has it: its dollars kept from expansion, variables as ``${X}``.

    >>> written("costs $$5, ${HOME}, " + expand("%(ENV_USER)s", {}))
    'costs $$$5, $${HOME}, ${USER}'
    """
    return _VARIABLE.sub(r"${\1}", re.sub(r"\$(?=[${])", "$$", text))
