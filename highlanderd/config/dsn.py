"""Check where PostgreSQL is: libpq parses the connection string, and no refusal quotes a secret of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pydantic import SecretStr, ValidationInfo

from highlanderd.config.expansion import absolute, beside
from highlanderd.config.values import secret, text

_EMBEDDED: Final = "embedded"
_CONNECTION: Final = re.compile(r"postgres(ql)?://|[a-z_]+\s*=")


def connection(value: object, info: ValidationInfo) -> SecretStr:
    """Return a connection string that libpq understands, or ``embedded``, or ``embedded:DIR`` with an absolute DIR.

    Raises ValueError with a sentence that quotes only names of options.
    """
    if not isinstance(value, SecretStr) and text(value).startswith(f"{_EMBEDDED}:"):
        directory = text(value).removeprefix(f"{_EMBEDDED}:")
        return SecretStr(f"{_EMBEDDED}:{absolute(directory, beside(text(value)))}")
    found = secret(value, info)
    words = found.get_secret_value()
    if words == _EMBEDDED:
        return found
    if not _CONNECTION.match(words):
        raise ValueError(
            "is no connection string; write for example "
            '"postgresql://highlander@db1,db2/ops?target_session_attrs=read-write", '
            '"host=db1 dbname=ops user=highlander", "embedded", or "file:PATH" of a file that holds one'
        )
    options(words)
    return found


def options(words: str) -> dict[str, str]:
    """Return what a connection string says, by libpq's names of options.

    Raises ValueError with libpq's sentence, without what could be a secret.
    """
    from psycopg import OperationalError, pq  # a fifth of a second that only those pay who have a connection string

    try:
        found = pq.Conninfo.parse(words.encode())
    except OperationalError as error:
        raise ValueError(
            f"libpq cannot read it: {redacted(str(error), words)}; correct the connection string"
        ) from None
    said = {option.keyword.decode(): option.val.decode() for option in found if option.val is not None}
    _check_place(said.get("host", ""), said.get("port", ""))
    if hosts := said.get("hostaddr") or said.get("host", ""):  # without any, those of PGHOST or a service are meant
        check_ports(len(hosts.split(",")), len(said.get("port", "").split(",")))
    return said


def _check_place(hosts: str, ports: str) -> None:
    """Refuse what libpq would refuse only when it connects. Most of the time it is a piece of a password.

    Raises ValueError with a sentence.
    """
    cure = "correct it; in a URI, write the characters @ / and % of a user or password as %40 %2F %25"
    if any("@" in host.removeprefix("@") for host in hosts.split(",")):
        raise ValueError(f"holds a host with an @ in it; {cure}")
    if not all(_resolvable(host) for host in hosts.split(",")):
        raise ValueError(f"holds a host with a part that is empty or has more than 63 letters; {cure}")
    if not all(re.fullmatch(r"|0*[1-9]\d{0,4}", port) and int(port or 1) <= 65535 for port in ports.split(",")):
        raise ValueError(f"holds a port that is no number from 1 to 65535; {cure}")


def _resolvable(host: str) -> bool:
    """Return whether a name server can be asked for the host, or the host is the path of a socket."""
    try:
        return host.startswith(("/", "@")) or host.encode("idna") is not None
    except UnicodeError:
        return False


def check_ports(hosts: int, ports: int) -> None:
    """Refuse numbers of hosts and ports that libpq would refuse only when it connects. Raises ValueError."""
    if ports not in (1, hosts):
        raise ValueError(
            f"names {hosts} {'host' if hosts == 1 else 'hosts'} but {ports} ports; write one port for all of them, or "
            "as many as there are hosts"
        )


def redacted(complaint: str, words: str) -> str:
    """Return libpq's complaint, cut before the first quotation that is not the name of an option: it may be a secret.

    >>> redacted('invalid connection option "hots"', "hots=db1 password=x")
    'invalid connection option "hots"'
    >>> redacted('missing "=" after "rose" in connection info string', "host=db1 password=tudor rose")
    'missing "=" after ...'
    """
    complaint = " ".join(complaint.split())
    names = {"=", *re.findall(r"[a-z_]+(?=\s*=)", words)}
    for found in re.finditer(r'"([^"]*)"?', complaint):
        if found[1] not in names:
            return complaint[: found.start()] + "..."
    return complaint


def embedded_directory(words: str, state_dir: Path) -> Path | None:
    """Return the directory of an embedded server, STATE_DIR/embedded by default; None for any other server.

    >>> embedded_directory("embedded", Path("/var/lib/highlander")), embedded_directory("embedded:/srv/pg", Path("/x"))
    (PosixPath('/var/lib/highlander/embedded'), PosixPath('/srv/pg'))
    >>> embedded_directory("postgresql://db1/ops", Path("/x"))
    """
    scheme, _, place = words.partition(":")
    return Path(place or state_dir / "embedded") if scheme == _EMBEDDED else None
