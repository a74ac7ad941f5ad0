"""Print the merged configuration: each key with its value, and where that was written. Secrets are hidden."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Final

from msgspec import Struct
from pydantic import SecretStr

from highlanderd.config.checks import WrittenProgram
from highlanderd.config.cron import CronTimes
from highlanderd.config.expansion import WrittenText
from highlanderd.config.json_schema import as_written, default, keys
from highlanderd.config.problems import Location, spelled
from highlanderd.config.program import HOOKS, ProgramKeys
from highlanderd.config.reading import Key, Table
from highlanderd.config.sections import SECTIONS, Section
from highlanderd.config.values import EnvironmentFile, toml

HIDDEN: Final = "***"
"""What stands for a secret."""
DEFAULT: Final = "default"
"""What stands for the place of a value that no file says."""
_COMMANDS: Final = frozenset({*HOOKS, "ready", "alive"})
"""Keys that hold commands, as ``command`` does."""
_WIDTH: Final = 56
"""The column at which comments begin, where the value leaves room for it."""


def printed(sections: Mapping[str, Section], tables: Mapping[str, Table], programs: Iterable[WrittenProgram]) -> str:
    """Return the configuration as TOML, ``[defaults]`` merged into each program; comments say where values are from."""
    parts = [_table(name, sections[name], tables[name]) for name in SECTIONS]
    now = time.time()
    parts += [
        _table(spelled(("program", each.program.name)), each.program, each.table) + next_runs(each.program.times, now)
        for each in programs
    ]
    return "\n\n".join(parts) + "\n"


def next_runs(times: CronTimes | None, now: float) -> str:
    """Return a comment with the next three times of a schedule, on a line of its own; empty without one."""
    if times is None:
        return ""
    found = [times.following(now)]
    while len(found) < 3:
        found.append(times.following(found[-1]))
    runs = ", ".join(times.shown(one) for one in found if one < inf)
    return f"\n# next runs: {runs}" if runs else "\n# no run from now on: the schedule names no later time"


class WrittenKey(Struct, frozen=True):
    """One key as it is in force, with where its value was written. A secret is hidden."""

    key: str
    value: object
    source: str
    """File and line, or ``default``."""


def _table(title: str, section: Section, table: Table) -> str:
    return "\n".join([f"[{title}]", *map(line, printed_keys(section, table))])


def printed_keys(section: Section, table: Table) -> Iterator[WrittenKey]:
    """Return every key of a table that has a value."""
    model = ProgramKeys if isinstance(section, ProgramKeys) else type(section)
    names = {info.alias or field: field for field, info in model.model_fields.items()}
    for key, info in keys(model):
        used = getattr(section, names[key])
        if key in table:
            yield from _written(key, used, table[key])
        elif default(key, info) is not None:
            yield WrittenKey(key, as_written(key, used), DEFAULT)


def _written(key: str, used: object, written: Key) -> Iterator[WrittenKey]:
    """Return a key, or each key of a table: those may come from different places."""
    if isinstance(used, dict) and written.names:
        for name, location in written.names.items():
            given = written.value[name] if isinstance(written.value, dict) else None
            yield WrittenKey(spelled((key, name)), _shown(used.get(name), given), _source(location))
    else:
        value = _configured(written.value) if key in _COMMANDS else _shown(used, written.value)
        yield WrittenKey(key, value, _source(written.location))


def _configured(value: object) -> object:
    """Return the words of a command as they are configured: what a variable holds may be a secret."""
    if isinstance(value, WrittenText):
        return value.raw
    if isinstance(value, dict):
        return {name: _configured(inner) for name, inner in value.items()}
    return [_configured(inner) for inner in value] if isinstance(value, list | tuple) else value


def _source(location: Location) -> str:
    return str(location) if location.document.holds(location.path) else DEFAULT


def _shown(used: object, written: object) -> object:
    """Return a value as people write it, but a path as it is used: resolved."""
    if isinstance(used, SecretStr):
        return HIDDEN
    if isinstance(used, tuple) and any(isinstance(each, EnvironmentFile) for each in used):
        return [str(each) for each in used]
    return str(used) if isinstance(used, Path | str) else written


def line(one: WrittenKey) -> str:
    """Return a key as TOML, with its place in a comment."""
    return f"{written(one):{_WIDTH}}  # {one.source}"


def written(one: WrittenKey) -> str:
    """Return a key and its value as TOML."""
    return f"{one.key} = {toml(one.value)}"
