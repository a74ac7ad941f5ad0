"""supervisord's options of a program: which key does the same here, or why there is none.

One table for three readers: the refusal of an unknown key, ``highlanderd import``, and the reference manual. The names
are those of supervisord 4.2's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from highlanderd.config.values import LONGEST, MOST_BACKUPS

OPENED, CLOSED = "\ue000", "\ue001"
"""Private code points around the name of a variable in an expanded value: what is split into words keeps it whole, and
nobody can judge the value before the daemon expands it."""


class Option(Struct, frozen=True):
    """One option: ``key`` is highlanderd's, or empty; ``note`` is for a reader; ``value`` converts a value."""

    key: str = ""
    note: str = ""
    value: Callable[[object], object] = lambda given: given

    @property
    def remark(self) -> str:
        """The note for a comment in a file, where no word is marked as code."""
        return self.note.replace("`", "")


def seconds(given: object) -> object:
    """Return the nearest duration of a number of seconds; anything else as it is.

    >>> seconds("10"), seconds(3600), seconds("-1"), seconds("+99999999")
    ('10s', '3600s', '0s', '31622400s')
    """
    number = integer(given)
    return f"{min(max(number, 0), int(LONGEST))}s" if isinstance(number, int) else given


def size(given: object) -> object:
    """Return a size in our words: supervisord's ``MB`` is 2**20 bytes, and what is below 0 is 0.

    >>> size("10MB"), size("0"), size(4096), size("-1")
    ('10MiB', 0, 4096, 0)
    """
    found = re.fullmatch(r"(-?\d+)\s*([kmg]?)b?", given.strip().lower()) if isinstance(given, str) else None
    if found is None:
        return given
    if found[1].startswith("-"):
        return 0
    return f"{found[1]}{found[2].upper()}iB" if found[2] else int(found[1])


def truth(given: object) -> object:
    """Return true or false for the words that supervisord takes for them.

    >>> truth("yes"), truth("0"), truth(True)
    (True, False, True)
    """
    word = given.strip().lower() if isinstance(given, str) else given
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    return known.get(word, given) if isinstance(word, str) else given


def integer(given: object) -> object:
    """Return the number that a text holds; anything else as it is.

    >>> integer("4"), integer(" -1 "), integer("four")
    (4, -1, 'four')
    """
    try:
        return int(given) if isinstance(given, str) else given
    except ValueError:
        return given


def mask(given: object) -> object:
    """Return the permission bits of an octal text; anything else as it is.

    >>> mask("22"), mask("7777"), mask("9")
    ('022', '777', '9')
    """
    try:
        return f"{int(given, 8) & 0o777:03o}" if isinstance(given, str) else given
    except ValueError:
        return given


def signal(given: object) -> object:
    """Return the signal's name in capitals, or its number."""
    return integer(given.strip().upper().removeprefix("SIG")) if isinstance(given, str) else given


def restart(given: object) -> object:
    """Return the value of ``restart``.

    >>> restart("Unexpected"), restart("true"), restart(False)
    ('on-failure', 'always', 'never')
    """
    known = {True: "always", False: "never", "unexpected": "on-failure"}
    meant = truth(given.lower() if isinstance(given, str) else given)
    return known.get(meant, given) if isinstance(meant, bool | str) else given


def backups(given: object) -> object:
    """Return how many rotated files are kept: the nearest number that may be.

    >>> backups("7"), backups("2000"), backups("-1")
    (7, 1000, 0)
    """
    number = integer(given)
    return min(max(number, 0), MOST_BACKUPS) if isinstance(number, int) else given


def exit_codes(given: object) -> object:
    """Return the list of a text like ``0,2``."""
    if isinstance(given, int) and not isinstance(given, bool):
        return [given]
    if not isinstance(given, str):
        return given
    return [integer(code) for code in given.split(",") if code.strip()]


def stop_to(given: object) -> object:
    """Return the value of ``stop_to``; anything else as it is.

    >>> stop_to("yes"), stop_to("0"), stop_to("maybe")
    ('tree', 'main', 'maybe')
    """
    meant = truth(given)
    return given if not isinstance(meant, bool) else "tree" if meant else "main"


def log_file(given: object) -> object:
    """Return the value of ``stdout`` or ``stderr``: a path, ``null`` or ``inherit``.

    >>> log_file("AUTO"), log_file("/dev/fd/1"), log_file("/proc/1/fd/1"), log_file("beat.log")
    ('inherit', 'inherit', 'inherit', './beat.log')
    """
    if not isinstance(given, str):
        return given
    if given.upper() in ("AUTO", "SYSLOG") or re.fullmatch(
        r"/dev/(stdout|stderr|fd/[12])|/proc/(self|1)/fd/[12]", given
    ):
        return "inherit"
    if not given or given.upper() in ("NONE", "OFF") or given == "/dev/null":
        return "null"
    return given if "/" in given or given.startswith(OPENED) else f"./{given}"


_NO_EVENTS: Final = Option(note="there are no event listeners")
_NO_SYSLOG: Final = Option(note='the daemon writes to standard error, which journald reads; "inherit" sends it there')
_BYTES: Final = Option("log_max_bytes", "for stdout and stderr together; their MB is 2**20 bytes, a MiB here", size)
_BACKUPS: Final = Option("log_backups", f"for stdout and stderr together; {MOST_BACKUPS} at most", backups)

PROGRAM: Final[Mapping[str, Option]] = {
    "command": Option("command", "split like a shell does, and never run by one, as there"),
    "process_name": Option(note="a program is called as its table: [program.NAME]"),
    "numprocs": Option(note="a program runs once in the whole cluster; each of several needs a table of its own"),
    "numprocs_start": Option(note="a program runs once in the whole cluster"),
    "priority": Option(note="the key `after` names the programs that one starts after; there is no other order"),
    "autostart": Option("autostart", value=truth),
    "startsecs": Option(
        "ready", "for how long it has run, up to 366 days; `backoff_reset` ends a row of failures", seconds
    ),
    "startretries": Option(note="a program is never given up, and `backoff_max` says how seldom it is tried"),
    "autorestart": Option("restart", "`unexpected`, the default there, is `on-failure`", restart),
    "exitcodes": Option("success_exit_codes", value=exit_codes),
    "stopsignal": Option("stop_signal", "`STOP`, `TSTP` and `CONT` end no program and are refused", signal),
    "stopwaitsecs": Option("stop_timeout", "up to 366 days", seconds),
    "stopasgroup": Option("stop_to", "`false`, the default there, is `main`", stop_to),
    "killasgroup": Option(note="SIGKILL always goes to the whole tree"),
    "user": Option("user"),
    "redirect_stderr": Option(note='both streams may name one file: write stderr as stdout; "inherit" shows both'),
    "stdout_logfile": Option(
        "stdout",
        "`AUTO`, `syslog`, and the output of a container (`/proc/1/fd/1`) are `inherit`, `NONE` is `null`; a relative "
        "path starts at the file that says so, and not where the daemon runs",
        log_file,
    ),
    "stdout_logfile_maxbytes": _BYTES,
    "stdout_logfile_backups": _BACKUPS,
    "stdout_capture_maxbytes": _NO_EVENTS,
    "stdout_events_enabled": _NO_EVENTS,
    "stdout_syslog": _NO_SYSLOG,
    "stderr_logfile": Option("stderr", "in the same words as `stdout_logfile`", log_file),
    "stderr_logfile_maxbytes": _BYTES,
    "stderr_logfile_backups": _BACKUPS,
    "stderr_capture_maxbytes": _NO_EVENTS,
    "stderr_events_enabled": _NO_EVENTS,
    "stderr_syslog": _NO_SYSLOG,
    "environment": Option("environment", 'a table: `{ NAME = "value" }`; `%(ENV_X)s` is `${X}`'),
    "directory": Option("directory", "a relative path starts at the file that says so, and not where the daemon runs"),
    "umask": Option("umask", "`000` to `777`", mask),
    "serverurl": Option(note="children see HIGHLANDER_CONTROL_SOCKET"),
}
"""Every option of ``[program:x]``."""
