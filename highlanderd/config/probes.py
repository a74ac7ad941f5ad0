"""What says that a program does its work: the kinds of ``ready`` and ``alive``.

Each function returns the kind that was written. It raises ValueError with the rest of a sentence that begins with the
key.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from highlanderd.config.values import LAST_PORT, duration, quoted
from highlanderd.config.words import words
from highlanderd.durations import shown

PERIOD: Final = 10.0
TIMEOUT: Final = 3.0
THRESHOLD: Final = 3
"""The defaults of a probe: a program that hangs is noticed within half a minute, and one slow answer costs nothing."""
SHORTEST_PERIOD: Final = 0.1
"""Seconds: more often, and probing would be most of what an idle node does."""
LONGEST_TIMEOUT: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Delay:
    """The child has run for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Notify:
    """The child says it itself, as sd_notify(3) does."""


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """A request is answered with a status from 200 to 399."""

    host: str
    port: int
    authority: str
    """Host and port as the URL has them, for the request."""
    target: str
    """Path and query."""
    encrypted: bool


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """A connection is accepted."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ExecCheck:
    """A command ends with status 0."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """A question that is asked again and again."""

    check: HttpCheck | TcpCheck | ExecCheck
    period: float = PERIOD
    timeout: float = TIMEOUT
    threshold: int = THRESHOLD


Readiness = Delay | Notify | Probe
Liveness = Notify | Probe

_FORMS: Final = '{ http = "http://127.0.0.1:8000/health" }, { tcp = "127.0.0.1:8000" } or { exec = ["check"] }'


def readiness(value: object) -> Readiness:
    """Return what says that the program is ready.

    >>> readiness("1s"), readiness("notify"), readiness({"tcp": "[::1]:80"})
    (Delay(seconds=1.0), Notify(), Probe(check=TcpCheck(host='::1', port=80), period=10.0, timeout=3.0, threshold=3))
    """
    if isinstance(value, Delay | Notify | Probe):
        return value
    if isinstance(value, Mapping):
        return _probe(value)
    if value == "notify":
        return Notify()
    try:
        return Delay(duration(value))
    except ValueError:
        said = f'write how long it has run by then, such as "1s", or "notify", or a table: {_FORMS}'
        raise ValueError(f"{quoted(value)} does not say when the program is ready; {said}") from None


def liveness(value: object) -> Liveness:
    """Return what says that the program is still well.

    >>> liveness({"exec": ["pg_isready"], "period": "5s"}).period
    5.0
    """
    if isinstance(value, Notify | Probe):
        return value
    if isinstance(value, Mapping):
        return _probe(value)
    if value == "notify":
        return Notify()
    raise ValueError(f'{quoted(value)} does not say that the program is well; write "notify", or a table: {_FORMS}')


def _probe(table: Mapping[Any, object]) -> Probe:
    kinds = [name for name in table if name in _CHECKS]
    unknown = [name for name in table if name not in _CHECKS and name not in _SETTINGS]
    if unknown:
        raise ValueError(f"has no {quoted(unknown[0])}; it takes {', '.join((*_CHECKS, *_SETTINGS))}")
    if len(kinds) != 1:
        what = f"{' and '.join(kinds)} at once" if kinds else "neither http, tcp nor exec"
        raise ValueError(f"names {what}; write one of them: {_FORMS}")
    settings = {name: _SETTINGS[name](name, given) for name, given in table.items() if name in _SETTINGS}
    return Probe(_CHECKS[kinds[0]](table[kinds[0]]), **settings)


def _http(value: object) -> HttpCheck:
    found = re.fullmatch(r"https?://[^/?#]*:(\d+)([/?#].*)?", str(value))
    if found is not None and not 1 <= int(found[1]) <= LAST_PORT:
        raise ValueError(_of_no_port("http", value, found[1]))
    url = _url(value)
    if url is None or url.scheme not in ("http", "https") or not url.hostname or "#" in str(value):
        raise ValueError(
            f'asks for http = {quoted(value)}, which is no URL to ask for; write "http://127.0.0.1:8000/health"'
        )
    if url.username is not None or url.password is not None:
        raise ValueError("has a user in its URL, which is not sent; let that path answer without a password")
    _check_host(url.hostname, "http")
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    port = url.port if url.port is not None else 443 if url.scheme == "https" else 80
    return HttpCheck(url.hostname, port, url.netloc, target, url.scheme == "https")


def _url(value: object) -> SplitResult | None:
    """Return the parts of a URL; None for what is none: it is sent as it is, so nothing in it may end a line."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        return None
    try:
        url = urlsplit(value)
        return url if url.port != 0 else None
    except ValueError:  # a port that is none, brackets that do not fit
        return None


def _tcp(value: object) -> TcpCheck:
    found = re.fullmatch(r"(?:\[([^\s\[\]]+)\]|([^\s:\[\]]+)):(\d{1,5})", value) if isinstance(value, str) else None
    if found is not None and not 1 <= int(found[3]) <= LAST_PORT:
        raise ValueError(_of_no_port("tcp", value, found[3]))
    if found is None:
        raise ValueError(
            f'asks for tcp = {quoted(value)}, which is not HOST:PORT; write "127.0.0.1:8000" or "[::1]:80"'
        )
    host = found[1] or found[2]
    _check_host(host, "tcp")
    return TcpCheck(host, int(found[3]))


def _of_no_port(check: str, value: object, port: str) -> str:
    return f"asks for {check} = {quoted(value)}, whose port is {port}; write one from 1 to {LAST_PORT}"


def _check_host(host: str, check: str) -> None:
    """Refuse what no name server could be asked for."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", host) or len(host) > 253:
            raise ValueError(
                f'names the host {quoted(host)} in {check}, which is no name; write an address such as "127.0.0.1"'
            ) from None


def _exec(value: object) -> ExecCheck:
    try:
        return ExecCheck(words(value))
    except ValueError as refusal:
        raise ValueError(f"has an exec that {refusal}") from None


def _period(name: str, value: object) -> float:
    return _seconds(name, value, SHORTEST_PERIOD)


def _seconds(name: str, value: object, shortest: float = 0.01) -> float:
    try:
        seconds = duration(value)
    except ValueError as refusal:
        raise ValueError(f"gives {name} a value: {refusal}") from None
    if not shortest <= seconds <= LONGEST_TIMEOUT:
        longest = shown(LONGEST_TIMEOUT)
        raise ValueError(f'gives {name} "{shown(seconds)}"; write a duration from "{shown(shortest)}" to "{longest}"')
    return seconds


def _threshold(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
        raise ValueError(
            f"gives {name} {quoted(value)}; write how many failures in a row end the term, a number from 1 to 1000"
        )
    return value


_CHECKS: Final[Mapping[str, Callable[[object], HttpCheck | TcpCheck | ExecCheck]]] = {
    "http": _http,
    "tcp": _tcp,
    "exec": _exec,
}
_SETTINGS: Final[Mapping[str, Callable[[str, object], Any]]] = {
    "period": _period,
    "timeout": _seconds,
    "threshold": _threshold,
}
