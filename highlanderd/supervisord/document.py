"""Write the whole file: the daemon's own tables, those of the programs, and a comment for what has no equal."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Final

from highlanderd.config.supervisord import PROGRAM, mask
from highlanderd.supervisord.keys import translate
from highlanderd.supervisord.programs import environment, expanded, groups, programs, variables_written
from highlanderd.supervisord.reading import SupervisorSection, sections
from highlanderd.supervisord.table import Table

_LEVELS: Final = {
    "critical": "error", "error": "error", "warn": "warning", "warning": "warning", "info": "info",
    "debug": "debug", "trace": "debug", "blather": "debug",
}  # fmt: skip

_STANDARD_ERROR: Final = "the daemon logs to standard error; systemd's journal keeps it"
_UNIT: Final = "the unit of the service says that"
_SUPERVISORD: Final[Mapping[str, str]] = {
    "logfile": _STANDARD_ERROR,
    "logfile_maxbytes": _STANDARD_ERROR,
    "logfile_backups": _STANDARD_ERROR,
    "pidfile": "systemd knows the daemon's processes, and a lock in state_dir keeps a second one out",
    "nodaemon": "the daemon always runs in the foreground",
    "minfds": f"{_UNIT}: LimitNOFILE=",
    "minprocs": f"{_UNIT}: LimitNPROC=",
    "nocleanup": "no file of an earlier run is removed",
    "childlogdir": "output that names no file goes to the daemon's own",
    "user": f"{_UNIT}: User=; with a user of its own the daemon cannot start programs as others",
    "identifier": "a node has a name: [daemon] node, the host name by default",
    "strip_ansi": "lines are written as they come",
    "silent": "the level of [log] says what is written",
}
"""Options of ``[supervisord]`` without an equal, and why."""

_ELSEWHERE: Final[Mapping[str, str]] = {
    "inet_http_server": "commands go through the Unix socket and its permissions alone; [metrics] answers readers",
    "supervisorctl": "highlanderctl takes --socket or HIGHLANDER_SOCKET",
    "rpcinterface": "the control socket speaks HTTP and JSON: docs/reference/control-api.md",
    "ctlplugin": "highlanderctl has no plugins",
    "eventlistener": "there are no event listeners; [metrics], the log and the control socket say what happens, and "
    "memory_max in limits takes memmon's place",
    "fcgi-program": "the daemon opens no sockets for a program; run it with a server that opens its own",
}
"""Kinds of sections without an equal, and why."""


def imported(path: Path) -> str:
    """Return the configuration that does what the supervisord.conf at ``path`` says, ready for ``--check``.

    Raises ConfigurationError with every problem's file, section, option and cure.
    """
    found = sections(path)
    variables = _variables(found)
    document = [_head(path), *map(_text, _own_tables(found, variables))]
    members, taken = groups(found), set[str]()
    for section in found:
        if section.kind == "program":
            tables = [_text(table) for table in programs(section, members.get(section.name), variables, taken)]
            document += tables or ["\n".join(_comment(f"{section.title}: left out, for its numprocs is below 1"))]
    document += _left_out(found)
    return "\n\n".join(document) + "\n"


def _head(path: Path) -> str:
    said = (
        f"Made of {path.name} by `highlanderd import`. What has no equal here stands in comments. Each program runs on "
        "one node of the cluster at a time: give every node this file, and one dsn."
    )
    return "\n".join(f"# {line}" for line in textwrap.wrap(said, 110))


def _variables(found: list[SupervisorSection]) -> dict[str, str]:
    """Return the variables that ``[supervisord]`` sets for every program."""
    variables: dict[str, str] = {}
    for section in found:
        if section.kind == "supervisord" and "environment" in section.options:
            text = expanded(section, "environment", section.options["environment"], {})
            variables.update(environment(section, text))
    return variables


def _own_tables(found: list[SupervisorSection], variables: Mapping[str, str]) -> Iterator[Table]:
    postgres = Table("postgres", {"dsn": "embedded"})
    postgres.remarks = [
        'put the PostgreSQL that all nodes share here: "postgresql://highlander@db1/ops"; "embedded" is for trying out'
    ]
    yield postgres
    log, defaults, control = Table("log"), Table("defaults", {"inherit_environment": True}), Table("control")
    for section in found:
        if section.kind == "supervisord":
            _daemon(section, log, defaults)
        elif section.kind == "unix_http_server":
            _socket(section, control)
    if variables:
        defaults.keys["environment"] = variables_written(defaults, variables)
    yield from (table for table in (control, log, defaults) if table.keys or table.remarks)


def _daemon(section: SupervisorSection, log: Table, defaults: Table) -> None:
    for option, value in section.options.items():
        if option == "loglevel":
            log.keys["level"] = _LEVELS.get(value.strip().lower(), "info")
        elif option in ("umask", "directory"):
            translate(defaults, section, option, expanded(section, option, value, {}))
        elif option != "environment":
            why = _SUPERVISORD.get(option)
            said = f"left out, for {why}" if why else "no option of supervisord's; left out"
            log.remarks.append(f"[supervisord] {option} = {value}: {said}")


def _socket(section: SupervisorSection, control: Table) -> None:
    for option, value in section.options.items():
        if option == "chmod":
            control.keys["mode"] = mask(value)
        elif option == "chown":
            control.remarks.append(f'chown = {value}: write group = "..." for who may command')
        elif option == "file":
            control.remarks.append(f"file = {value}: the socket is control.sock in run_dir, where highlanderctl looks")
        else:  # username and password
            control.remarks.append(f"{option}: the socket's permissions decide, and no password is asked")


def _left_out(found: list[SupervisorSection]) -> Iterator[str]:
    named = {section.name for section in found if section.kind in ("program", "fcgi-program")}
    for section in found:
        if section.kind == "group":
            yield from map("\n".join, map(_comment, _of_group(section, named)))
        why = _ELSEWHERE.get(section.kind)
        known = ("program", "supervisord", "unix_http_server", "include", "group")
        if why is not None or section.kind not in known:
            yield "\n".join(_comment(f"{section.title}: {f'left out, for {why}' if why else 'unknown; left out'}"))


def _of_group(section: SupervisorSection, named: Set[str]) -> Iterator[str]:
    """Say what of a group's own has no equal; each of its programs says itself that it is in one."""
    for option, value in section.options.items():
        if option != "programs":
            known = PROGRAM.get(option)
            why = f", for {known.remark}" if known else ""
            yield f"{section.title} {option} = {value}: left out{why}"
    for name in section.options.get("programs", "").split(","):
        if name.strip() and name.strip() not in named:
            yield f"{section.title} programs: {name.strip()} is no program of these files; left out"


def _text(table: Table) -> str:
    remarks = [line for remark in table.remarks for line in _comment(remark)]
    keys = [f"{key} = {_toml(value)}" for key, value in table.keys.items()]
    return "\n".join([f"[{table.title}]", *remarks, *keys])


def _comment(remark: str) -> list[str]:
    plain = " ".join(remark.split())
    return [f"# {line}" for line in textwrap.wrap(plain, 114, break_long_words=False, break_on_hyphens=False)]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(name)} = {_toml(inner)}" for name, inner in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return _string(value) if isinstance(value, str) else str(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
