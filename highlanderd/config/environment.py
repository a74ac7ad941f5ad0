"""The environment that a child is started with, except the ``HIGHLANDER_...`` variables of its term.

A child inherits none of the variables that concern the daemon alone, unless the configuration names them one by one.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from highlanderd.config.identity import Identity, find_user, identity
from highlanderd.config.paths import WITHIN, PathReader
from highlanderd.config.program import RESERVED, ProgramConfig
from highlanderd.config.values import EnvironmentFile, quoted
from highlanderd.errors import HighlanderError, enumerated
from highlanderd.system.path_reader import LARGEST

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

_LINE: Final = re.compile(rb"[ \t]*(?:export[ \t]+)?(?P<name>[^=\s#]+)=(?P<value>.*?)[ \t]*", re.DOTALL)
_QUOTED: Final = re.compile(rb"'(?P<plain>[^']*)'|\"(?P<escaped>(?:[^\"\\]|\\.)*)\"", re.DOTALL)
_LINE_END: Final = re.compile(rb"\r?\n")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_IN_SHELLS: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def unknown_to_shells(names: Iterable[str]) -> str:
    """Return which variables a shell does not pass on to what it starts, as a sentence; empty if none."""
    found = sorted(name for name in names if not _IN_SHELLS.fullmatch(name))
    if not found:
        return ""
    return (
        f"{enumerated([quoted(name) for name in found])}: a shell drops a variable with such a name, and so does each "
        "program that a shell starts; write letters, digits and _ only, and no digit first"
    )


def looks_elsewhere(program: ProgramConfig) -> bool:
    """Return whether starting a child reads files, or asks the user database: either may take long."""
    return bool(program.environment_file or program.user or program.group or program.supplementary_groups)


def child_environment(program: ProgramConfig, daemon_environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child that is started now; later sources win.

    Inherited variables, then HOME, USER, LOGNAME and SHELL of its user, its environment files, its ``environment``.
    Reads files as that user, and may ask the user database. Raises HighlanderError with a sentence.
    """
    environment = _inherited(program, daemon_environ)
    environment |= _of_user(program)
    if program.environment_file:
        who = identity(program)
        with PathReader() as paths:
            for file in program.environment_file:
                environment |= read_environment(file, who, paths)
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


def read_environment(file: EnvironmentFile, who: Identity, paths: PathReader) -> dict[str, str]:
    """Read ``NAME=value`` lines, as the user of the program. Raises HighlanderError with a sentence."""
    try:
        content = paths.read(file.path, who)
    except (FileNotFoundError, NotADirectoryError):
        if file.optional:
            return {}
        raise HighlanderError(f"{file.path}: there is no such environment file; {_OPTIONAL}") from None
    except OSError as error:
        raise HighlanderError(f"{file.path}: {_unreadable(error)}") from None
    return parsed_environment(file.path, content)


_OPTIONAL: Final = 'create it, or write "-" before its path where it may be missing'


def _unreadable(error: OSError) -> str:
    match error.errno:
        case errno.EINVAL:
            return "this is no regular file, and an environment file must be one"
        case errno.EFBIG:
            return f"the environment file is larger than {LARGEST >> 20} MiB; Linux takes no environment of that size"
        case errno.ETIMEDOUT:
            return f"the environment file could not be read within {WITHIN:g} s; its file system hangs: mend that first"
        case errno.EACCES | errno.EPERM if os.geteuid() != 0:
            return "the daemon's user may not read the environment file; let it, or run the daemon as another user"
        case errno.EACCES | errno.EPERM:
            return (
                f"the program's user may not read the environment file, and {error.filename or 'its way'} is not "
                "root's alone, so that others could replace the file; let that user read it, or let root own "
                "everything on the way to it and no other user write there"
            )
    why = (error.strerror or str(error)).lower()
    return f"the environment file cannot be read ({why}); create it or mend it"


def parsed_environment(path: Path, content: bytes) -> dict[str, str]:
    """Return the variables that a file sets. Raises HighlanderError with a sentence, which quotes no value.

    A line ends at LF or CR LF, and at no other character. Bytes that are no UTF-8 are kept as they are.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_LINE_END.split(content.removeprefix(_BYTE_ORDER_MARK)), 1):
        if not line.strip(b" \t") or line.lstrip(b" \t").startswith(b"#"):
            continue
        try:
            name, value = _pair(line)
        except ValueError as error:
            raise HighlanderError(f"{path}:{number}: {error}") from None
        found[os.fsdecode(name)] = os.fsdecode(value)
    return found


def _pair(line: bytes) -> tuple[bytes, bytes]:
    found = _LINE.fullmatch(line)
    if found is None or b"\0" in line:
        raise ValueError("this line sets no variable; write NAME=value, or begin a comment with #")
    value = found["value"].lstrip(b" \t")
    if value[:1] not in (b"'", b'"'):
        return found["name"], value
    quotation = _QUOTED.fullmatch(value)
    if quotation is None:
        name = quoted(os.fsdecode(found["name"]))
        raise ValueError(f"the quotes of {name} do not close at the line's end; close them, or escape them")
    if quotation["plain"] is not None:
        return found["name"], quotation["plain"]
    return found["name"], re.sub(rb'\\(["\\$`])', rb"\1", quotation["escaped"])
