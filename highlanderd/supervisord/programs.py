"""Translate ``[program:x]``: one table for each process that supervisord would run of it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from highlanderd.config.reading import objection
from highlanderd.config.supervisord import CLOSED, OPENED, PROGRAM, integer
from highlanderd.core.key import LABEL
from highlanderd.supervisord.keys import join, own_files, redirect, rotate, translate
from highlanderd.supervisord.reading import SupervisorSection, expand, settled, written
from highlanderd.supervisord.table import Table, refusal, shown

_UNSAID = {"autorestart": "unexpected", "stopasgroup": "false"}
"""Options whose default there is another one: they are written even where the file is silent."""

_ROTATION = frozenset(f"{stream}_logfile_{what}" for stream in ("stdout", "stderr") for what in ("maxbytes", "backups"))

_APART = _ROTATION | {"command", "environment", "process_name", "numprocs", "numprocs_start", "redirect_stderr"}
"""Options that are translated by a function of their own."""

_SETTLED = frozenset(
    {"autorestart", "autostart", "exitcodes", "numprocs", "numprocs_start", "redirect_stderr", "stopasgroup"}
    | {"stdout_logfile_backups", "stderr_logfile_backups"}
)
"""Options whose value is no text here, so that no ``${X}`` can stand for it: the import settles it."""

_MAY_BE_EMPTY = frozenset({"command", "environment", "exitcodes", "stdout_logfile", "stderr_logfile"})
"""Options with a key here that supervisord takes without a value; it starts nothing with another one that is empty."""


def programs(
    section: SupervisorSection, group: str | None, variables: Mapping[str, str], taken: set[str]
) -> Iterator[Table]:
    """Return the tables of one ``[program:x]``; ``taken`` are the names in use, and gets theirs.

    ``variables`` are those that ``[supervisord]`` sets, which ``%(ENV_X)s`` sees as well.

    Raises ConfigurationError with file, section, option and cure for what supervisord would refuse as well.
    """
    _refuse_empty(section)
    names = _names(section, group, variables)
    count = _number(section, "numprocs", 1, names)
    first = _number(section, "numprocs_start", 0, names)
    for number in range(first, first + count):
        options = _options(section, {**names, "numprocs": count, "process_num": number})
        given = options.get("process_name", section.name)
        called = given if count > 1 else section.name
        name = usable(called, taken)
        table = Table(f"program.{name}" if re.fullmatch(r"[\w-]+", name) else f'program."{name}"')
        if name != called:
            table.remarks.append(f'"{called}" is no name for a program here, or is taken: it is "{name}"')
        if given != called:
            table.remarks.append(f"process_name = {shown(given)}: left out, for {PROGRAM['process_name'].remark}")
        if group is not None:
            table.remarks.append(f"group {group}: there are no groups; highlanderctl takes many names and patterns")
        table.remarks += _settlements(section)
        _fill(table, section, options)
        if number > first:
            table.remarks.clear()  # the first one has said it
        yield table


def _options(section: SupervisorSection, known: Mapping[str, object]) -> dict[str, str]:
    """Return the options of one process, expanded: all but ``environment`` see as ``%(ENV_X)s`` what that sets."""
    given = dict(section.options)
    text = expanded(section, "environment", given.pop("environment", ""), known)
    own = {f"ENV_{name}": value for name, value in environment(section, text).items()}
    options = {name: expanded(section, name, value, {**known, **own}) for name, value in given.items()}
    return {**options, "environment": text} if "environment" in section.options else options


def _refuse_empty(section: SupervisorSection) -> None:
    """Raise ConfigurationError for an option whose missing value supervisord does not run the program with either."""
    for option, value in section.options.items():
        known = PROGRAM.get(option)
        serves = known is not None and (known.key or option in _APART)
        if serves and not value.strip() and option not in _MAY_BE_EMPTY:
            raise refusal(section, option, "is empty; write a value, or leave the option out")


def _settlements(section: SupervisorSection) -> list[str]:
    """Return a remark for each option whose variable the import has replaced by its present value."""
    return [
        f"{option} = {value}: as the variable was when this was imported, for no variable can stand here"
        for option, value in section.options.items()
        if option in _SETTLED and "%(ENV_" in value
    ]


def _names(section: SupervisorSection, group: str | None, variables: Mapping[str, str]) -> dict[str, object]:
    """Return what ``%(name)s`` stands for in all processes of a program."""
    return {
        **{f"ENV_{name}": value for name, value in variables.items()},
        "host_node_name": os.uname().nodename,
        "program_name": section.name,
        "group_name": group or section.name,
    }


def usable(name: str, taken: set[str]) -> str:
    """Return a name that a program may have here and that is not taken; add it to ``taken``.

    >>> usable("mail out", {"mail_out"}), usable("all", set()), usable("...", set())
    ('mail_out-2', 'all-1', 'program')
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:60].lstrip(".-") or "program"
    candidates = [plain] if re.fullmatch(LABEL, plain) and plain != "all" else [f"{plain}-1"]
    number = 2
    while candidates[-1] in taken:
        candidates.append(f"{plain}-{number}")
        number += 1
    taken.add(candidates[-1])
    return candidates[-1]


def _fill(table: Table, section: SupervisorSection, options: Mapping[str, str]) -> None:
    table.keys["command"] = [written(word) for word in _split(section, options.get("command", ""))]
    redirected = redirect(section, options)
    apart = _APART | {"stderr_logfile"} if redirected else _APART
    for option, value in {**_UNSAID, **options}.items():
        if option not in apart:
            translate(table, section, option, value)
    rotate(table, section, options, own_files(table))
    if redirected:
        join(table, options)
    if "environment" in options:
        table.keys["environment"] = variables_written(table, environment(section, options["environment"]))


def environment(section: SupervisorSection, text: str) -> dict[str, str]:
    """Return the variables of an expanded ``NAME=value,NAME="value"``, as supervisord splits them.

    Raises ConfigurationError for a text that is not of that form.
    """
    lexer = shlex.shlex(text)
    lexer.wordchars += f"/.+-():{OPENED}{CLOSED}"
    try:
        tokens = list(lexer)
    except ValueError as error:
        raise refusal(section, "environment", f"cannot be split ({error}); close the quotes") from None
    found = {}
    for start in range(0, len(tokens), 4):
        name, equals, value = [*tokens[start : start + 3], "", "", ""][:3]
        if equals != "=" or tokens[start + 3 : start + 4] not in ([], [","]):
            raise refusal(section, "environment", 'is not NAME="value",NAME="value"; put values in double quotes')
        found[name] = value.strip("'\"")
    return found


def variables_written(table: Table, variables: Mapping[str, str]) -> dict[str, str]:
    """Return variables as this daemon's file has them; say in ``table`` which may not be set here."""
    kept = {}
    for name, value in variables.items():
        problem = objection("environment", {name: ""})
        if problem is None:
            kept[name] = _plain(written(value))
        else:
            table.remarks.append(f"environment: {name} is left out, for it {problem}")
    return kept


def _plain(value: str) -> str:
    """Return a value that begins with ``file:`` so that it names no secret's file here: as a variable's default."""
    return f"${{HIGHLANDER_UNSET:-{value}}}" if value.startswith("file:") and not set("{}") & set(value) else value


def _split(section: SupervisorSection, command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise refusal(section, "command", f"cannot be split into words ({error}); close the quotes") from None
    if not words or not words[0]:
        raise refusal(section, "command", "is missing; write what to run")
    return words


def expanded(section: SupervisorSection, option: str, value: str, known: Mapping[str, object]) -> str:
    """Return an option's value with its ``%(name)s`` expanded. Raises ConfigurationError as supervisord would."""
    try:
        text = expand(value, known)
        return settled(text, os.environ) if option in _SETTLED else text
    except (ValueError, TypeError) as error:
        raise refusal(section, option, str(error)) from None


def _number(section: SupervisorSection, option: str, default: int, known: Mapping[str, object]) -> int:
    given = integer(expanded(section, option, section.options.get(option, str(default)), known))
    if not isinstance(given, int):
        raise refusal(section, option, f"{shown(str(given))} is no number; write digits")
    return given


def groups(found: Iterable[SupervisorSection]) -> dict[str, str]:
    """Return the group of each program that is in one."""
    members = {}
    for section in found:
        if section.kind == "group":
            for name in section.options.get("programs", "").split(","):
                members[name.strip()] = section.name
    return members
