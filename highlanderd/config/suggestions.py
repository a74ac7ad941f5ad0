"""Suggest what to write instead of an unknown key or table: its right table, the key of another name, the nearest one.

Many people know supervisord's keys by heart. Each of those is answered with the key that does the same here, or with
the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Final

from highlanderd.config.program import ProgramKeys
from highlanderd.config.sections import SECTIONS, Section
from highlanderd.config.values import quoted

TABLES: Final = (*SECTIONS, "defaults", "program")
"""Every table that the file can have."""

_RESTARTS: Final = {True: "always", False: "never", "true": "always", "false": "never", "unexpected": "on-failure"}


def _renamed(key: str) -> Callable[[object], str]:
    return lambda value: f"write {key} = {quoted(value)}"


def _seconds(key: str) -> Callable[[object], str]:
    return lambda value: f'write {key} = "{value}s"' if isinstance(value, int) else f"write {key}"


def _bytes(value: object) -> str:
    return f"write log_max_bytes = {quoted(value)}, for stdout and stderr together; a MB is a million, a MiB 2**20"


def _restart(value: object) -> str:
    found = _RESTARTS.get(value) if isinstance(value, bool | str) else None
    return f'write restart = "{found}"' if found else 'write restart = "always", "on-failure" or "never"'


def _codes(value: object) -> str:
    codes = [code.strip() for code in value.split(",")] if isinstance(value, str) else [value]
    listed = value if isinstance(value, list) else codes
    return f"write success_exit_codes = [{', '.join(str(code) for code in listed)}]"


def _stop_to(value: object) -> str:
    return f'write stop_to = "{"main" if value is False else "tree"}"'


def _log_file(stream: str) -> Callable[[object], str]:
    known = {"NONE": "null", "/dev/null": "null", "AUTO": "inherit", "syslog": "inherit"}

    def say(value: object) -> str:
        return f"write {stream} = {quoted(known.get(value, value) if isinstance(value, str) else value)}"

    return say


def _none(why: str) -> Callable[[object], str]:
    return lambda _: f"there is no such key here, {why}; remove it"


_NO_EVENTS: Final = _none("for there are no event listeners")
_NO_SYSLOG: Final = _none('for the daemon writes to standard error, which journald reads; use "inherit"')

SUPERVISORD: Final[Mapping[str, Callable[[object], str]]] = {
    "autorestart": _restart,
    "exitcodes": _codes,
    "stopsignal": _renamed("stop_signal"),
    "stopwaitsecs": _seconds("stop_timeout"),
    "stopasgroup": _stop_to,
    "stdout_logfile": _log_file("stdout"),
    "stderr_logfile": _log_file("stderr"),
    "stdout_logfile_maxbytes": _bytes,
    "stderr_logfile_maxbytes": _bytes,
    "stdout_logfile_backups": _renamed("log_backups"),
    "stderr_logfile_backups": _renamed("log_backups"),
    "killasgroup": _none("for SIGKILL always goes to the whole tree"),
    "redirect_stderr": _none('for "inherit" shows both streams, and both may name one file: write stderr as stdout'),
    "startsecs": _none("for a child counts as running once it is executed, and backoff_reset ends a row of failures"),
    "startretries": _none("for a program is never given up, and backoff_max says how seldom it is tried"),
    "process_name": _none("for a program is called as its table: [program.NAME]"),
    "numprocs": _none("for a program runs once in the whole cluster: give each of several a table of its own"),
    "numprocs_start": _none("for a program runs once in the whole cluster"),
    "priority": _none("for programs do not wait for each other"),
    "serverurl": _none("for children see HIGHLANDER_CONTROL_SOCKET"),
    "stdout_capture_maxbytes": _NO_EVENTS,
    "stderr_capture_maxbytes": _NO_EVENTS,
    "stdout_events_enabled": _NO_EVENTS,
    "stderr_events_enabled": _NO_EVENTS,
    "stdout_syslog": _NO_SYSLOG,
    "stderr_syslog": _NO_SYSLOG,
}
"""Answers to supervisord's keys of a program, given the value that stood there."""

_SUPERVISORD_TABLES: Final = {
    "supervisord": "write [daemon] and [log]",
    "unix_http_server": "write [control]",
    "inet_http_server": "write [metrics] for reading; commands go through [control] alone",
    "supervisorctl": "remove it: highlanderctl takes --socket or HIGHLANDER_SOCKET",
    "include": 'write include = ["..."] in [daemon]',
}


def unknown_key(table: str, model: type[Section], key: str, value: object) -> str:
    """Say what to write instead of ``key`` in the table called ``table``."""
    if issubclass(model, ProgramKeys) and key in SUPERVISORD:
        return f"this is supervisord's spelling; {SUPERVISORD[key](value)}"
    elsewhere = [name for name, other in _models().items() if key in keys_of(other) and other is not model]
    near = _near(key, keys_of(model))
    if near:
        return f"there is no such key in [{table}]; write {near}"
    if elsewhere:
        return f"there is no such key in [{table}]; it belongs in [{elsewhere[0]}]"
    known = "" if issubclass(model, ProgramKeys) else f": its keys are {', '.join(keys_of(model))}"
    return f"there is no such key in [{table}]; correct its spelling or remove it{known}"


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


def keys_of(model: type[Section]) -> tuple[str, ...]:
    """Name the keys of a table, in the order of the reference."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _models() -> dict[str, type[Section]]:
    return {**SECTIONS, "program.NAME": ProgramKeys}


def _near(word: str, known: tuple[str, ...]) -> str | None:
    found = get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.7)
    return found[0] if found else None
