"""Suggest what to write instead of an unknown key or table: its right table, the key of another name, the nearest one.

Many people know supervisord's or systemd's keys by heart. Each of those is answered with the key that does the same
here, or with the reason why there is none: ``supervisord.py`` and ``spellings.py`` have the tables.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import Final

from highlanderd.config.program import ProgramKeys
from highlanderd.config.sections import SECTIONS, Section
from highlanderd.config.spellings import spelling
from highlanderd.config.supervisord import Option
from highlanderd.config.values import quoted

TABLES: Final = (*SECTIONS, "defaults", "program")
"""Every table that the file can have."""

_SUPERVISORD_TABLES: Final = {
    "supervisord": "write [daemon] and [log]",
    "unix_http_server": "write [control]",
    "inet_http_server": "write [metrics] for reading; commands go through [control] alone",
    "supervisorctl": "remove it: highlanderctl takes --socket or HIGHLANDER_SOCKET",
    "include": 'write include = ["..."] in [daemon]',
}


def unknown_key(table: str, model: type[Section], key: str, value: object) -> str:
    """Say what to write instead of ``key`` in the table called ``table``."""
    if issubclass(model, ProgramKeys) and (found := spelling(key, keys_of(model))) is not None:
        whose, option = found
        return f"this is {whose}; {_instead(option, value)}"
    elsewhere = [name for name, other in _models().items() if key in keys_of(other) and other is not model]
    near = _near(key, keys_of(model))
    if near:
        return f"there is no such key in [{table}]; write {near}"
    if elsewhere:
        return f"there is no such key in [{table}]; it belongs in [{elsewhere[0]}]"
    known = "" if issubclass(model, ProgramKeys) else f": its keys are {', '.join(keys_of(model))}"
    return f"there is no such key in [{table}]; correct its spelling or remove it{known}"


def _instead(option: Option, value: object) -> str:
    if not option.key:
        return f"there is no such key here, for {option.note}; remove it"
    remark = f" ({option.note})" if option.note else ""
    return f"write {option.key} = {quoted(option.value(value))}{remark}"


def unknown_table(name: str, value: object) -> str:
    """Say what to write instead of the table or key ``name`` at the top of the file."""
    if name in _SUPERVISORD_TABLES:
        return f"this is supervisord's spelling; {_SUPERVISORD_TABLES[name]}"
    if not isinstance(value, dict):
        owners = [table for table, model in _models().items() if name in keys_of(model)]
        if owners:
            return f"a key cannot stand outside a table; it belongs in [{owners[0]}]"
    near = _near(name, TABLES)
    known = (near,) if near else TABLES
    written = ", ".join("[program.NAME]" if table == "program" else f"[{table}]" for table in known)
    return f"there is no such table; write {written}"


@cache
def keys_of(model: type[Section]) -> tuple[str, ...]:
    """Name the keys of a table, in the order of the reference."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _models() -> dict[str, type[Section]]:
    return {**SECTIONS, "program.NAME": ProgramKeys}


def _near(word: str, known: tuple[str, ...]) -> str | None:
    found = get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.7)
    return found[0] if found else None
