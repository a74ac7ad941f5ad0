"""The tables of the file that are not about one program. Their descriptions are the reference manual's text."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from highlanderd.config.dsn import connection
from highlanderd.config.values import (
    LAST_PORT,
    Account,
    Duration,
    Flag,
    Label,
    Located,
    Octal,
    Texts,
    WebAddress,
    between,
    quoted,
    text,
)
from highlanderd.core.lease import DEFAULT, LONGEST, SHORTEST

SOCKET_BYTES = 107
"""The longest path that Linux binds a Unix socket to, in bytes (``sun_path`` less its final NUL)."""


def _socket(path: Path) -> Path:
    length = len(os.fsencode(path))
    if length > SOCKET_BYTES:
        raise ValueError(
            f"{quoted(str(path))} has {length} bytes, and Linux takes {SOCKET_BYTES} for a socket; "
            "write a shorter socket (or run_dir, which it defaults to be in)"
        )
    return path


def _schema(value: object) -> str:
    name = text(value)
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
        raise ValueError(
            f"{quoted(name)} is not a plain identifier; write at most 63 small letters, digits and _, "
            "not beginning with a digit"
        )
    if name.startswith("pg_"):
        raise ValueError(f"{quoted(name)} begins with pg_, which PostgreSQL keeps for itself; write another name")
    return name


def _listen(value: object) -> str:
    address = text(value)
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%a-z]+\]|[^\s:\[\]]+):(\d{1,5})", address)
    if found is not None and not 1 <= int(found[2]) <= LAST_PORT:
        raise ValueError(f"{quoted(address)} ends with port {found[2]}; write one from 1 to {LAST_PORT}")
    if address and found is None:
        raise ValueError(
            f'{quoted(address)} is not ADDRESS:PORT; write for example "127.0.0.1:9841", "[::1]:9841", '
            '"0.0.0.0:9841" for every address, or "" for none'
        )
    return address


class Section(BaseModel):
    """A table of the file: a frozen value that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class DaemonSection(Section):
    """This node, its files, and where more programs are described."""

    node: Label = Field(
        default_factory=lambda: os.uname().nodename,
        description="Name of this node in status, logs and the ledger, and in `release --to`. At most 63 letters, "
        "digits and `_ . -`. Default: the host name.",
    )
    namespace: Label = Field(
        default="highlander",
        description="Part of the lock id of every program whose `lock_key` is a string. Nodes that share programs "
        "need the same namespace, database and schema; two namespaces never meet, even in one database.",
    )
    include: Texts = Field(
        default=(),
        description="More files with programs: a pattern or an array of patterns (`*`, `?`, `[...]`, `**`), relative "
        "to this file. Their files are read in sorted order and may hold `[program.NAME]` tables only. A file that is "
        "named without a wildcard must exist; a directory that is searched may be empty. A program defined twice is an "
        "error.",
    )
    run_dir: Located = Field(
        default=Path("/run/highlander"),
        description="Directory for what lives as long as the daemon: the control socket. Relative to this file.",
    )
    state_dir: Located = Field(
        default=Path("/var/lib/highlander"),
        description="Directory for what outlives the daemon: its lock, its instance, and the embedded server's data. "
        "Must be this daemon's alone: one that others own or may write is refused, as `run_dir` is. Relative to this "
        "file.",
    )


class PostgresSection(Section):
    """The only coordinator."""

    dsn: Annotated[SecretStr, BeforeValidator(connection)] = Field(
        description="Where PostgreSQL is. A libpq connection string or URI, which a service (`service=NAME`) and "
        "libpq's variables (`PGHOST` and so on) may complete; with several hosts add "
        "`target_session_attrs=read-write`. `embedded`: the daemon runs a server of its own in `state_dir`, for trying "
        "out. `embedded:DIR`: the same in a directory that several daemons of one host share; relative to this file. "
        "`file:PATH` reads the string from a file, relative to this file, and again after a refused login: "
        "a systemd credential is `file:${CREDENTIALS_DIRECTORY}/NAME`. Never shown.",
    )
    lease: Annotated[Duration, between(SHORTEST, LONGEST, "is not a lease this daemon can keep")] = Field(
        default=DEFAULT,
        description="How long a leader may trust its last renewal, and how long everybody else waits for it; 2s to "
        "60s. It is written into a new ledger, and an existing ledger's own lease rules: change that with "
        "`highlanderctl ledger set-lease`. An outage of up to 4/10 of a lease costs no child.",
    )
    schema_: Annotated[str, BeforeValidator(_schema)] = Field(
        default="highlander",
        alias="schema",
        description="Schema of the ledger: a plain identifier in small letters. All nodes of a namespace use the same.",
    )
    on_connection_loss: Literal["hold", "stop"] = Field(
        default="hold",
        description="What becomes of a running child when its connection to PostgreSQL breaks. `hold`: it keeps "
        "running while the daemon reconnects, and is fenced only when the lease runs out. `stop`: it is told to stop "
        "at once; that also happens when the daemon's worker had to be replaced, for its connections end with it.",
    )
    standby_connections: Literal["own", "shared"] = Field(
        default="own",
        description="What programs that wait are connected by. `own`: each has a connection of its own from the start, "
        "as each program has that is led here. `shared`: all that wait share a few, and a takeover makes one of them "
        "that program's own. Who may lead, and when, is the same; see [the connection "
        "budget](../how-to/go-live.md#the-connection-budget).",
    )


class ControlSection(Section):
    """The Unix socket that `highlanderctl` speaks to."""

    socket: Annotated[Located, AfterValidator(_socket)] = Field(
        default=Path("/run/highlander/control.sock"),
        description="Path of the socket, at most 107 bytes. Relative to this file. Default: `control.sock` in "
        "`run_dir`.",
    )
    remote: Flag = Field(
        default=True,
        description="Whether this node obeys `release`, `restart`, `signal`, `stop` and `start` that another node "
        "passes on through PostgreSQL, and gives it the last lines of programs. Who may write into the ledger's tables "
        "may order so. Programs that are stopped everywhere, drained nodes and maintenance are facts of the ledger, "
        "and hold all the same.",
    )
    mode: Octal = Field(
        default=0o660,
        description="Permissions of the socket, as octal digits in quotes. They are there from the start. Root and "
        "the daemon's own user may always command.",
    )
    group: Account | None = Field(
        default=None,
        description="Group of the socket, name or number; its members may command. Without it the socket lets no group "
        "in: only root and the daemon's own user may command.",
    )


class MetricsSection(Section):
    """The read-only TCP listener: metrics, health, who leads."""

    listen: Annotated[str, BeforeValidator(_listen)] = Field(
        default="127.0.0.1:9841",
        description='`ADDRESS:PORT`, with an IPv6 address in brackets, as in `"[::1]:9841"`. `""` switches the '
        "listener off.",
    )
    advertise: WebAddress | None = Field(
        default=None,
        description='Where other hosts reach the listener, such as `"http://web-1:9841"`. `highlanderctl cluster` '
        "shows it on every node, and status pages link to it; nothing else follows from it.",
    )


class LogSection(Section):
    """The daemon's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least urgent lines that are written."
    )
    format: Literal["text", "json"] = Field(
        default="text",
        description="`text`: one line each, with priorities where journald reads them. `json`: one object per line, "
        "always with the same keys.",
    )


SECTIONS: dict[str, type[Section]] = {
    "daemon": DaemonSection,
    "postgres": PostgresSection,
    "control": ControlSection,
    "metrics": MetricsSection,
    "log": LogSection,
}
"""The tables of the file by name, but for ``[defaults]`` and ``[program.NAME]``."""
