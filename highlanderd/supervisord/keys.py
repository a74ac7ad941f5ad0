"""Translate one option of a program into the key that does the same, or into a remark why there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from highlanderd.config.reading import objection
from highlanderd.config.supervisord import CLOSED, OPENED, PROGRAM, truth
from highlanderd.config.values import LONGEST, MOST_BACKUPS, any_signal
from highlanderd.supervisord.reading import SupervisorSection, written
from highlanderd.supervisord.table import Table, refusal, shown

_STREAMS: Final = ("stdout", "stderr")
_RANGES: Final[Mapping[str, str]] = {
    "ready": f"0 to {LONGEST // 86400:.0f} days",
    "stop_timeout": f"0 to {LONGEST // 86400:.0f} days",
    "log_backups": f"0 to {MOST_BACKUPS}",
    "umask": "000 to 777",
}
"""What a key may be, where supervisord takes more: the nearest value is written."""


def translate(table: Table, section: SupervisorSection, option: str, value: str) -> None:
    """Add the key that does the same as ``option``, or a remark why there is none.

    Raises ConfigurationError for a value that the key would be refused with.
    """
    known = PROGRAM.get(option)
    if known is None:
        table.remarks.append(f"{option} = {shown(value)}: no option of supervisord's; left out")
    elif not known.key:
        table.remarks.append(f"{option} = {shown(value)}: left out, for {known.remark}")
    elif known.key == "stop_signal" and not _ends(value):
        table.remarks.append(f"{option} = {shown(value)}: left out, for it ends no program; TERM is sent instead")
    else:
        given = known.value(re.sub(r"^~(?=/|$)", f"{OPENED}HOME{CLOSED}", value.strip()))
        problem = None if OPENED in value or OPENED in str(given) else objection(known.key, given)
        if problem is not None:
            raise refusal(section, option, f"cannot become {known.key} here: {problem}")
        table.keys[known.key] = written(given) if isinstance(given, str) else given
        table.remarks += _differences(option, value, known.key, given)


def _ends(value: str) -> bool:
    """Return whether a signal is one that may stop a program here, or none at all."""
    try:
        any_signal(PROGRAM["stopsignal"].value(value))
    except ValueError:
        return True
    return objection("stop_signal", PROGRAM["stopsignal"].value(value)) is None


def _differences(option: str, value: str, key: str, given: object) -> Iterator[str]:
    """Yield what a reader has to know of a key that cannot do quite the same as the option."""
    if key in _RANGES and OPENED not in value and _number(key, given) != _number(key, value):
        yield f"{option} = {shown(value)}: {key} is {_RANGES[key]}"
    if key in (*_STREAMS, "directory") and isinstance(given, str) and _relative(given):
        yield (
            f"{option} = {shown(value)}: supervisord takes it from the directory that it runs in itself, and here it "
            "starts at the directory of this file; write the whole path"
        )


def _number(key: str, value: object) -> int | float:
    """Return the number that a value of a key with a range stands for, written here or there."""
    return int(str(value), 8) if key == "umask" else float(str(value).removesuffix("s"))


def _relative(path: str) -> bool:
    return path not in ("inherit", "null") and not path.startswith(("/", OPENED))


def redirect(section: SupervisorSection, options: Mapping[str, str]) -> bool:
    """Return whether standard error goes where standard output does.

    Raises ConfigurationError where ``redirect_stderr`` says neither yes nor no.
    """
    said = truth(options.get("redirect_stderr", "false"))
    if not isinstance(said, bool):
        raise refusal(section, "redirect_stderr", f'"{shown(str(said))}" is neither yes nor no; write true or false')
    return said


def join(table: Table, options: Mapping[str, str]) -> None:
    """Let standard error go where standard output does, and say what it does not use any more."""
    if "stderr_logfile" in options:
        why = "left out, for redirect_stderr sends it where stdout goes"
        table.remarks.append(f"stderr_logfile = {shown(options['stderr_logfile'])}: {why}")
    if "stdout" in table.keys:
        table.keys["stderr"] = table.keys["stdout"]


def rotate(table: Table, section: SupervisorSection, options: Mapping[str, str], files: tuple[str, ...]) -> None:
    """Add the keys of rotation. ``files`` are the streams with a file of their own: the first that says it rules.

    Raises ConfigurationError for a value that the key would be refused with.
    """
    for what in ("maxbytes", "backups"):
        ruling: str | None = None
        for stream in _STREAMS:
            option = f"{stream}_logfile_{what}"
            if option not in options:
                continue
            if stream not in files:
                why = f"left out, for {stream} goes to no file of its own here"
                table.remarks.append(f"{option} = {shown(options[option])}: {why}")
            elif ruling is None:
                ruling = option
                translate(table, section, option, options[option])
            elif options[option] != options[ruling]:
                known = PROGRAM[option]
                why = f"{known.key} is {known.note}; stdout's is written"
                table.remarks.append(f"{option} = {shown(options[option])}: {why}")


def own_files(table: Table) -> tuple[str, ...]:
    """Return the streams that go to a file."""
    return tuple(stream for stream in _STREAMS if table.keys.get(stream, "inherit") not in ("inherit", "null"))
