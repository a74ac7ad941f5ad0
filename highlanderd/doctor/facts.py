"""What an examination finds out, before it is judged. Values only; times in seconds."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from highlanderd.core.key import AdvisoryLock
from highlanderd.core.lease import Lease
from highlanderd.postgres.fitness import ServerFacts
from highlanderd.postgres.ledger import Ledger


class Plan(Struct, frozen=True):
    """What the configuration asks of PostgreSQL."""

    ledger: Ledger
    node: str
    programs: int
    embedded: bool = False
    hosts: int = 1
    """How many addresses the DSN leads to."""
    locks: Mapping[AdvisoryLock, str] = field(default_factory=dict)
    """The lock ids of programs and of their names, and the program of each."""
    state_dir: str = ""
    sharing: bool = False
    """Whether programs that wait share connections."""
    instance: str | None = None
    """Of the daemon that uses it; empty when none ever has, None when that is not known."""

    @property
    def lease(self) -> Lease:
        """As it is configured."""
        return Lease(self.ledger.lease)


class AskedHost(Struct, frozen=True):
    """One host of the DSN, and the server that answered there."""

    place: str
    refusal: str = ""
    """Why nothing can be asked there."""
    server_facts: ServerFacts | None = None
    seconds: float = 0.0
    """From the beginning of the connection to the first answer."""


class Setting(Struct, frozen=True):
    """A setting of a session that brings none of its own."""

    value: str
    source: str
    """As pg_settings words it: ``default``, ``configuration file``, ``role``, ``database`` ..."""


class ConnectionEnds(Struct, frozen=True):
    """The connection as both ends see it."""

    ours: str
    """Our end's address and port as we see it; empty for a Unix socket."""
    theirs: str
    """Our end's address and port as the server sees it; empty for a Unix socket."""
    user_timeout: int
    """TCP_USER_TIMEOUT on our end, in milliseconds."""


class Limit(Struct, frozen=True):
    """One of the limits on the number of connections."""

    name: str
    total: int
    """For roles like this one."""
    others: int
    """Connections of others than daemons that count against it at the moment."""
    cure: str
    """What raises it; ``{}`` stands for the new number."""
    reserved: int = 0
    """Connections that it keeps for other roles."""

    def raised(self, wanted: int) -> str:
        """Return what gives roles like this one so many connections."""
        whole = self.cure.format(wanted + self.reserved)
        return f"{whole} ({wanted}, and {self.reserved} reserved for other roles)" if self.reserved else whole


class Replication(Struct, frozen=True):
    """The standbys, as far as this role may see them."""

    names: str
    """``synchronous_standby_names``."""
    attached: int
    """Clients that receive WAL, backups among them."""
    standbys: int
    """How many of them may be standbys; for a role that may not see more, all of them."""
    synchronous: int | None
    """How many of them commits wait for; ``None`` when this role may not see that."""

    @property
    def hangs(self) -> bool:
        """Whether commits are known to wait for a standby that is not there."""
        return bool(self.names) and (self.attached == 0 or self.synchronous == 0)


class SchemaAccess(Struct, frozen=True):
    """The schema of the ledger and what the role may do there."""

    tables: int
    """How many of the ledger's three tables exist."""
    creatable: bool
    """The role may create what is missing."""
    missing: tuple[str, ...]
    """Privileges that the role lacks on what exists."""


class Facts(Struct, frozen=True):
    """Everything about the one server that programs would use."""

    plan: Plan
    host: AskedHost
    server_facts: ServerFacts
    settings: Mapping[str, str]
    """As a program's session has them."""
    plain: Mapping[str, Setting]
    """Without what that session brings along; empty when no such session could be had."""
    ends: ConnectionEnds
    limits: tuple[Limit, ...]
    nodes: int
    """Nodes that are connected to this database at the moment."""
    replication: Replication
    full_page_writes: bool
    access: SchemaAccess
    ledger_lease: Lease | None
    """The ledger's own lease; ``None`` without a ledger that may be used."""
    refusal: str
    """Why the ledger may not be used."""
    notes: tuple[str, ...]
    """What other sessions do to its tables, each a sentence with its cure."""
    answers: tuple[float, ...]
    """Round trips."""
    writes: tuple[float, ...]
    """Round trips of a durable commit; empty when none could be tried."""
    ahead: float
    """By how many seconds the server's clock is ahead of this host's."""
