"""Ask a program once whether it does its work: by HTTP, by TCP, or with a command in its tree.

Each question returns when the answer was good, and raises otherwise. It reads little, ends when it is cancelled, and
leaves no connection behind: a program that answers without end costs no more than one that does not answer.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from highlanderd import __version__
from highlanderd.children.messages import KeeperReport
from highlanderd.config.probes import ExecCheck, HttpCheck, TcpCheck
from highlanderd.core.terms import exit_of

LONGEST_LINE: Final = 1024
"""Bytes that are read of an answer, at most twice as many: its first line is enough."""


class Unwell(Exception):
    """The answer was not good; the text is the rest of a sentence that begins with what was asked."""


class HostNames(Protocol):
    """Looks host names up."""

    async def addresses(self, host: str, within: float) -> tuple[str, ...]:
        """Return the addresses of a host. Raises OSError."""


class ProbedChild(Protocol):
    """What is needed of a child in order to ask it."""

    @property
    def report(self) -> KeeperReport | None:
        """The latest report of its keeper."""

    async def news(self) -> None:
        """Wait for the next one."""

    def probe(self, argv: tuple[str, ...], timeout: float) -> int:
        """Run a command in its tree; return the number that reports give it."""

    def watch(self, within: float) -> None:
        """Have its keeper expect WATCHDOG=1 every ``within`` seconds."""


def described(check: HttpCheck | TcpCheck | ExecCheck) -> str:
    """Return what is asked, for a sentence.

    >>> described(TcpCheck("::1", 80)), described(ExecCheck(("pg_isready", "-q")))
    ('tcp ::1 port 80', 'pg_isready')
    """
    match check:
        case HttpCheck(authority=authority, target=target, encrypted=encrypted):
            return f"http{'s' * encrypted}://{authority}{target.partition('?')[0]}"
        case TcpCheck(host, port):
            return f"tcp {host} port {port}"
        case ExecCheck(argv):
            return argv[0]


def reason(error: OSError) -> str:
    """Return why no answer could be had.

    >>> reason(ConnectionRefusedError(111, "Connect call failed ('::1', 80)"))
    'Connection refused'
    """
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error.strerror or error)


async def ask(check: HttpCheck | TcpCheck | ExecCheck, names: HostNames, child: ProbedChild, within: float) -> None:
    """Ask once; a name server, or a command, gets so many seconds. Raises Unwell or OSError for a bad answer."""
    match check:
        case HttpCheck():
            await _ask_http(check, names, within)
        case TcpCheck(host, port):
            async with _connected(host, port, names, within, encrypted=False):
                return
        case ExecCheck(argv):
            await _run(argv, child, within)


async def _ask_http(check: HttpCheck, names: HostNames, within: float) -> None:
    request = (
        f"GET {check.target} HTTP/1.1\r\nHost: {check.authority}\r\nUser-Agent: highlanderd/{__version__}\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    async with _connected(check.host, check.port, names, within, encrypted=check.encrypted) as (reader, writer):
        writer.write(request.encode("ascii"))
        try:
            line = await reader.readline()
        except ValueError:
            raise Unwell("did not answer as HTTP does: its first line has no end") from None
    found = re.match(rb"HTTP/\d\.\d (\d{3})\b", line)
    if found is None:
        raise Unwell("did not answer as HTTP does" if line else "closed the connection without an answer")
    if not 200 <= int(found[1]) < 400:
        raise Unwell(f"answered with status {int(found[1])}")


@asynccontextmanager
async def _connected(
    host: str, port: int, names: HostNames, within: float, *, encrypted: bool
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect with the first address that accepts, and cut the connection afterwards."""
    refusal = OSError(f"{host} has no address")
    for address in await names.addresses(host, within):
        try:
            reader, writer = await asyncio.open_connection(
                address, port, limit=LONGEST_LINE, ssl=unverified() if encrypted else None
            )
        except OSError as error:
            refusal = error
            continue
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
        return
    raise refusal


def unverified() -> ssl.SSLContext:
    """Take any certificate: nothing secret is sent, and a program that answers under an old one does its work.

    No finite-field Diffie-Hellman: the server chooses its size, and 10,000 bits keep the worker busy for a second.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ECDHE")
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def _run(argv: tuple[str, ...], child: ProbedChild, within: float) -> None:
    number = child.probe(argv, within)
    while (report := child.report) is None or report.probe != number or report.probing:
        await child.news()
    if report.probe_failed is not None:
        raise Unwell(f"has no result: {report.probe_failed}")
    code, name = exit_of(report.probe_status or 0)
    if name is not None or code:
        raise Unwell(f"was killed by {name}" if name is not None else f"exited with status {code}")
