"""The environment that a child is started with, except the ``HIGHLANDER_...`` variables of its term.

A child inherits none of the variables that concern the daemon alone, unless the configuration names them one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from highlanderd.config.identity import find_user
from highlanderd.config.program import RESERVED, ProgramConfig
from highlanderd.errors import HighlanderError

ALWAYS: Final = ("PATH", "LANG", "TZ")
"""Always inherited, because hardly any program runs as meant without them."""

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The child's PATH if the daemon has none itself: systemd's own default."""

_OURS: Final = re.compile(
    "PG.*"  # they could point the child, or what it starts, to the coordinator with the daemon's rights
    "|NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*|FDSTORE|JOURNAL_STREAM|CREDENTIALS_DIRECTORY|SYSTEMD_EXEC_PID|MAINPID"
    "|MEMORY_PRESSURE_.*|HIGHLANDER_(?:" + "|".join(sorted(RESERVED)) + ")"
)
"""Variables that systemd, libpq or another highlanderd above this one set for this process alone."""

_LINE: Final = re.compile(r"\s*(?:export\s+)?(?P<name>[^=\s#]+)=(?P<value>.*?)\s*")
_QUOTED: Final = re.compile(r"'(?P<plain>[^']*)'|\"(?P<escaped>(?:[^\"\\]|\\.)*)\"")


def child_environment(program: ProgramConfig, daemon_environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child that is started now; later sources win.

    Inherited variables, then HOME, USER, LOGNAME and SHELL of its user, its environment files, its ``environment``.
    Reads files and may ask the user database. Raises HighlanderError with a sentence.
    """
    environment = _inherited(program, daemon_environ)
    environment |= _of_user(program)
    for path in program.environment_file:
        environment |= read_environment(path)
    return environment | {name: value.get_secret_value() for name, value in program.environment.items()}


def _inherited(program: ProgramConfig, environ: Mapping[str, str]) -> dict[str, str]:
    wanted = program.inherit_environment
    if wanted is True:
        found = {name: value for name, value in environ.items() if not _OURS.fullmatch(name)}
    else:
        named = (*ALWAYS, *wanted) if wanted else ALWAYS
        found = {name: environ[name] for name in named if name in environ}
    return {"PATH": PATH, **found}


def _of_user(program: ProgramConfig) -> dict[str, str]:
    if program.user is None:
        return {}
    try:
        account = find_user(program.user)
    except LookupError as error:
        raise HighlanderError(f"program {program.name} cannot be started: {error.args[0]}") from None
    if account is None:
        return {}
    return {
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
    }


def read_environment(path: Path) -> dict[str, str]:
    """Read ``NAME=value`` lines. Raises HighlanderError with a sentence, which quotes no value."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise HighlanderError(f"{path}: the environment file is not UTF-8; save it in that encoding") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise HighlanderError(f"{path}: the environment file cannot be read ({why}); create it or mend it") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            name, value = _pair(line)
        except ValueError as error:
            raise HighlanderError(f"{path}:{number}: {error}") from None
        found[name] = value
    return found


def _pair(line: str) -> tuple[str, str]:
    found = _LINE.fullmatch(line)
    if found is None or "\0" in line:
        raise ValueError("this line sets no variable; write NAME=value, or begin a comment with #")
    value = found["value"].lstrip()
    if value[:1] not in ("'", '"'):
        return found["name"], value
    quoted = _QUOTED.fullmatch(value)
    if quoted is None:
        raise ValueError(f"the quotes of {found['name']} do not close at the line's end; close them, or escape them")
    if quoted["plain"] is not None:
        return found["name"], quoted["plain"]
    return found["name"], re.sub(r'\\(["\\$`])', r"\1", quoted["escaped"])
