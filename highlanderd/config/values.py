"""The kinds of values that a configuration holds: durations, sizes, modes, signals, names.

Each kind is a function from what TOML gave to what the daemon uses. It raises ValueError with the rest of a sentence
that begins with the key: what is wrong, and after a semicolon what to write instead.
"""

from __future__ import annotations

import json
import math
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo

from highlanderd import durations
from highlanderd.config.expansion import absolute, beside, reveal
from highlanderd.config.toml import whole
from highlanderd.core.key import LABEL, LABEL_WORDS

_KINDS: Final = (
    (bool, "a truth value"),
    (str, "a string"),
    (int, "an integer"),
    (float, "a float"),
    (list, "an array"),
    (dict, "a table"),
)
LONGEST: Final = 366 * 86400.0  # far above any use, and far below what timers overflow at
MOST_BACKUPS: Final = 1000
_SIZE: Final = re.compile(r"(\d+)\s*([kmgt]?i?b)", re.IGNORECASE)
_FACTORS: Final = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SLIPS: Final = frozenset({22, 27, 77, 117, 137, 177})
"""Integers that were certainly meant as octal digits: TOML's ``22`` would silently become mode 026."""


def toml(value: object) -> str:
    """Return a value as TOML writes it, on one line.

    >>> toml("a"), toml(["b", True]), toml({"nofile": 4096})
    ('"a"', '["b", true]', '{ nofile = 4096 }')
    """
    if isinstance(value, dict) and value:
        return f"{{ {', '.join(f'{name} = {toml(inner)}' for name, inner in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False, default=str)


def quoted(value: object) -> str:
    """Return a value of the file as TOML writes it, shortened."""
    text = toml(value)
    return text if len(text) <= 60 else text[:56] + ' ..."'


def kind(value: object) -> str:
    """Return the TOML kind of a value, for sentences."""
    return next((called for known, called in _KINDS if isinstance(value, known)), "a date or time")


def text(value: object) -> str:
    """Accept a string without NUL characters."""
    if not isinstance(value, str):
        raise ValueError(f"is {kind(value)}; write a string in quotes")
    if "\0" in value:
        raise ValueError("holds a NUL character; remove it")
    return value


def flag(value: object) -> bool:
    """Accept true and false only."""
    if not isinstance(value, bool):
        raise ValueError(f"{quoted(value)} is {kind(value)}; write true or false, without quotes")
    return value


def duration(value: object) -> float:
    """Return seconds.

    >>> duration("1m30s"), duration("500ms"), duration(2)
    (90.0, 0.5, 2.0)
    """
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds < math.inf:
        raise ValueError(
            f'{quoted(value)} is not a duration; write for example "10s", "1m30s", "500ms", or a number of seconds'
        )
    if seconds > LONGEST:
        raise ValueError(f"{quoted(value)} is longer than 366 days; write a shorter duration")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    return durations.seconds(value)


def size(value: object) -> int:
    """Return bytes.

    >>> size("50MB"), size("1GiB"), size(4096)
    (50000000, 1073741824, 4096)
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(
            f'{quoted(value)} is not a size; write for example "50MB" (millions), "64MiB", or a number of bytes'
        )
    return int(found[1]) * _FACTORS[found[2].lower()]


def octal(value: object) -> int:
    """Return permission bits of an octal string, or of an integer as it is.

    >>> octal("022"), octal("0o022"), octal(0o022)
    (18, 18, 18)
    """
    bits: int | None = None
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{1,4}", value):
        bits = int(value.removeprefix("0o"), 8)
    elif isinstance(value, int) and not isinstance(value, bool):
        bits = value if value not in _SLIPS else None
    if bits is None or not 0 <= bits <= 0o777:
        raise ValueError(f'{quoted(value)} is not an octal mode; write octal digits in quotes, such as "0640"')
    return bits


def any_signal(value: object) -> int:
    """Return the number of a signal that is named with or without SIG; real-time signals count from RTMIN or RTMAX.

    >>> any_signal("TERM"), any_signal("sighup"), any_signal(10), any_signal("RTMIN+2") - any_signal("RTMIN")
    (15, 1, 10, 2)
    """
    number = _signal_of(value.upper().removeprefix("SIG")) if isinstance(value, str) else value
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= signal.SIGRTMAX:
        raise ValueError(f'{quoted(value)} is not a signal; write for example "TERM", "SIGHUP", "RTMIN+1" or 10')
    return number


def _signal_of(name: str) -> int | None:
    found = re.fullmatch(r"(RTMIN\+|RTMAX-|)([0-9]{1,2})", name)
    if found is None:
        return {known.removeprefix("SIG"): int(item) for known, item in signal.Signals.__members__.items()}.get(name)
    offset = int(found[2])
    number = {"": offset, "RTMIN+": signal.SIGRTMIN + offset, "RTMAX-": signal.SIGRTMAX - offset}[found[1]]
    return number if not found[1] or number >= signal.SIGRTMIN else None


def signal_number(value: object) -> int:
    """Return the number of a signal that makes a program end.

    >>> signal_number("TERM"), signal_number("SIGINT"), signal_number(10)
    (15, 2, 10)
    """
    number = any_signal(value)
    if number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT):
        raise ValueError(f'{quoted(value)} does not make a program end; write for example "TERM", "INT" or "QUIT"')
    return number


LONGEST_ADDRESS: Final = 300
LAST_PORT: Final = 65535
"""Characters: a host's name has 253 at most."""
WEB_ADDRESS: Final = r"https?://[^\s/?#]+/?"


def web_address(value: object) -> str:
    """Return where a listener of HTTP is reached, without a path.

    >>> web_address("http://web-1:9841/")
    'http://web-1:9841'
    """
    address = text(value)
    if len(address) > LONGEST_ADDRESS or not re.fullmatch(WEB_ADDRESS, address) or not address.isprintable():
        raise ValueError(f'{quoted(address)} is not the address of a listener; write for example "http://web-1:9841"')
    if (port := re.search(r":(\d+)/?$", address)) and not 1 <= int(port[1]) <= LAST_PORT:
        raise ValueError(f"{quoted(address)} ends with port {port[1]}; write one from 1 to {LAST_PORT}")
    return address.rstrip("/")


def listed(value: object) -> tuple[object, ...]:
    """Return a tuple; one string counts as a list of one."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise ValueError(f'is {kind(value)}; write an array of strings, such as ["one", "two"]')
    return tuple(value)


def distinct(value: object) -> tuple[object, ...]:
    """Return a tuple as ``listed`` does; nothing may be in it twice.

    >>> distinct(["a", "b"])
    ('a', 'b')
    """
    names = listed(value)
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"names {quoted(name)} twice; remove one of them")
    return names


def numbers(value: object) -> tuple[object, ...]:
    """Return a tuple of what the array holds."""
    if not isinstance(value, list | tuple | frozenset):
        raise ValueError(f"{quoted(value)} is {kind(value)}; write an array of numbers, such as [0, 2]")
    return tuple(value)


def table(value: object) -> dict[str, object]:
    """Accept a table."""
    if not isinstance(value, dict):
        raise ValueError(f'is {kind(value)}; write a table, such as {{ NAME = "value" }}')
    return value


def exit_code(value: object) -> int:
    """Accept what a process can exit with."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 255:
        raise ValueError(f"{quoted(value)} is not an exit code; write a number from 0 to 255")
    return value


def count(value: object) -> int:
    """Accept a number of files to keep, 0 to 1000."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_BACKUPS:
        raise ValueError(f"{quoted(value)} is not a number of files; write 0 to {MOST_BACKUPS}")
    return value


LAST_ACCOUNT: Final = 2**32 - 2
"""The highest number of a user or group: the kernel takes the one after it for "as before", which may be root."""


def account(value: object) -> str:
    """Accept the name or number of a user or group.

    >>> account("nobody"), account(65534)
    ('nobody', '65534')
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return account(str(value))
    if isinstance(value, str) and value.isdecimal() and (len(value) > 10 or int(value) > LAST_ACCOUNT):
        raise ValueError(f"{quoted(value)} is not a number of a user or group; write 0 to {LAST_ACCOUNT}, or a name")
    if not isinstance(value, str) or not re.fullmatch(r"[^\s:,/\0]+", value):
        raise ValueError(f"{quoted(value)} is not a name; write the name or the number of one that exists")
    return value


def located(value: object) -> Path:
    """Return a path; a relative one starts at the directory of the file that says so."""
    if isinstance(value, Path):
        return value
    return absolute(text(value), beside(text(value)))


@dataclass(frozen=True, slots=True)
class EnvironmentFile:
    """A file of variables; one that is optional may be missing."""

    path: Path
    optional: bool = False

    def __str__(self) -> str:
        """Return it as the configuration says it."""
        return f"{'-' * self.optional}{self.path}"


def environment_file(value: object) -> EnvironmentFile:
    """Return a file of variables. A ``-`` before the path makes it optional."""
    if isinstance(value, EnvironmentFile):
        return value
    written = text(value)
    return EnvironmentFile(absolute(written.removeprefix("-"), beside(written)), optional=written.startswith("-"))


STREAMS: Final = frozenset(
    {"/dev/stdout", "/dev/stderr", "/dev/fd/1", "/dev/fd/2", "/proc/self/fd/1", "/proc/self/fd/2"}
)
"""Paths that stand for the daemon's own streams, which a child inherits; no file is made or rotated there."""


def output(value: object) -> str:
    """Accept ``inherit``, ``null``, or a path. It must hold a slash, so that a misspelt word does not become a file."""
    if not isinstance(value, str):
        raise ValueError(f'is {kind(value)}; write "inherit", "null" or a path')
    if value in ("inherit", "null"):
        return value
    if value in STREAMS:
        return "inherit"
    if value == "/dev/null":
        return "null"
    if "/" not in value:
        raise ValueError(f'{quoted(value)} is none of "inherit", "null" and a path; a path holds a slash: "./{value}"')
    return str(absolute(value, beside(value)))


def secret(value: object, info: ValidationInfo) -> SecretStr:
    """Return a secret, read from its file if the value is ``file:PATH``. Refusals never quote it."""
    if isinstance(value, SecretStr):
        return value
    read = (info.context or {}).get("read", whole)
    revealed = reveal(text(value), read)
    if "\0" in revealed:
        raise ValueError("holds a NUL character; remove it")
    return SecretStr(str(revealed))


def variable(value: object) -> str:
    """Accept the name of an environment variable."""
    if not isinstance(value, str) or not re.fullmatch(r"[^=\s\0]+", value):
        raise ValueError(f"{quoted(value)} cannot be the name of an environment variable; leave out blanks and =")
    return value


def label(value: object) -> str:
    """Accept a name that can stand in a lock key, in a URL and in an application name."""
    if not isinstance(value, str) or not re.fullmatch(LABEL, value):
        raise ValueError(f"{quoted(value)} is not a usable name; write {LABEL_WORDS}")
    return value


def between(shortest: float, longest: float, why: str) -> AfterValidator:
    """Refuse durations outside these seconds."""

    def check(seconds: float) -> float:
        if not shortest <= seconds <= longest:
            raise ValueError(
                f'"{durations.shown(seconds)}" {why}; write a duration from "{durations.shown(shortest)}" to '
                f'"{durations.shown(longest)}"'
            )
        return seconds

    return AfterValidator(check)


Text = Annotated[str, BeforeValidator(text)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(listed)]
Flag = Annotated[bool, BeforeValidator(flag)]
Duration = Annotated[float, BeforeValidator(duration)]
Size = Annotated[int, BeforeValidator(size)]
Octal = Annotated[int, BeforeValidator(octal)]
Count = Annotated[int, BeforeValidator(count)]
WebAddress = Annotated[str, BeforeValidator(web_address)]
Signal = Annotated[int, BeforeValidator(signal_number)]
ExitCodes = Annotated[frozenset[Annotated[int, BeforeValidator(exit_code)]], BeforeValidator(numbers)]
Account = Annotated[str, BeforeValidator(account)]
Accounts = Annotated[tuple[Account, ...], BeforeValidator(listed)]
Located = Annotated[Path, BeforeValidator(located)]
EnvironmentFiles = Annotated[
    tuple[Annotated[EnvironmentFile, BeforeValidator(environment_file)], ...],
    BeforeValidator(listed),
]
Output = Annotated[str, BeforeValidator(output)]
Secret = Annotated[SecretStr, BeforeValidator(secret)]
Variable = Annotated[str, BeforeValidator(variable)]
Label = Annotated[str, BeforeValidator(label)]
Programs = Annotated[tuple[Label, ...], BeforeValidator(distinct)]
Nodes = Annotated[tuple[Label, ...], BeforeValidator(distinct)]
