"""Frozen snapshots of programs and node, as the control socket, ``highlanderctl`` and the metrics show them.

``worker/snapshot.py`` makes them. Times are RFC 3339 strings in UTC, durations are seconds. Fields are only ever added,
because people script against them.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from highlanderd.core.cluster import Held


class Process(Struct, frozen=True):
    """One process of a program's tree on this node."""

    pid: int
    parent: int
    name: str
    """The kernel's name of it (``comm``). Its arguments are never shown, because they may hold secrets."""
    state: str = ""
    """The kernel's letter for what it does: ``R`` runs, ``S`` sleeps, ``D`` waits for a device, ``Z`` has ended."""


class LastExit(Struct, frozen=True):
    """How a child of a program has ended on this node."""

    at: str
    epoch: int | None
    """Of its term."""
    status: int | None
    """Its exit status; ``None`` when a signal ended it."""
    signal: str | None
    """The signal's name."""
    success: bool | None = None
    """Whether ``success_exit_codes`` has the status; ``None`` from a daemon that does not say it."""


class Usage(Struct, frozen=True):
    """What the processes of a program use on this node, as they were looked at a moment ago."""

    cpu: float
    """Seconds of processor time since the child was started."""
    memory: int
    """Bytes: of its cgroup where the kernel counts them, else the resident memory of all of its processes together."""
    processes: int
    """Those that have not ended."""
    tasks: int
    """Threads of these processes."""
    open_files: int | None
    """Descriptors that they hold open; ``None`` where the daemon may not look."""
    oom_kills: int | None
    """Processes of this child that the kernel killed for want of memory; ``None`` where no cgroup counts them."""


class ProgramStatus(Struct, frozen=True):
    """One program as this node sees it."""

    name: str
    state: str
    """``waiting``, ``leading``, ``draining``, ``backoff`` or ``stopped``."""
    want: str
    """The operator's wish: ``run`` or ``stop``."""
    reason: str
    """Why it is in this state, in words; empty when there is nothing to say."""
    since: str
    """When the state was entered."""
    leader: str | None
    """The node that leads it as far as this node knows; ``None`` when nobody does."""
    epoch: int | None
    """Epoch of the present or, when nobody leads, of the last term; ``None`` before the first."""
    lock_id: int
    """The number that the advisory lock is taken on."""
    pid: int | None
    """The child's main process on this node, while it lives."""
    ready: bool
    """Whether the child does its work, as the key ``ready`` says it."""
    failures: int
    """Crashes and failed starts in a row on this node."""
    restarts: int
    """Children started on this node by the present worker, the first one excluded."""
    lease_remaining: float | None
    """Seconds for which this node may still trust its term; ``None`` when it does not lead."""
    started: str | None
    """When the child was started; ``None`` without one."""
    uptime: float | None
    """Seconds since then."""
    description: str
    connected: bool
    """Whether it has a connection to PostgreSQL: its own, or one that waiting programs share."""
    last_exit: LastExit | None = None
    """How its latest child on this node has ended, since the daemon was started."""
    finished: bool = False
    """Whether it has finished, so that no node starts it before an operator does."""
    next_run: str | None = None
    """When its schedule wants it to run next; ``None`` without a schedule, and until that is known."""
    idle: bool = False
    """Whether its schedule wants no run at present."""
    unkillable: tuple[Process, ...] = ()
    """Processes of it on this node that SIGKILL has not ended for two seconds, a hundred at most."""
    detached: bool = False
    """Whether it is led without its session: the session was lost, and no renewal has been acknowledged since."""
    stopped: Held | None = None
    """The order that keeps it stopped on every node; ``None`` while there is none."""
    candidates: int | None = None
    """How many nodes other than the leader could take it over now; ``None`` where PostgreSQL does not say."""
    drift: int | None = None
    """How many nodes have another configuration of it than its leader; ``None`` where PostgreSQL does not say."""
    suspended: bool = False
    """Whether an order in the ledger keeps it from running here: this node is drained, or it is stopped everywhere."""
    usage: Usage | None = None
    """What its processes use on this node; ``None`` without any, and where that is not known."""


def in_state(state: str, reason: str) -> str:
    """Return a state and why; a reason that begins with the state says both.

    >>> in_state("stopped", "stopped by ann"), in_state("backoff", "exited with status 1"), in_state("waiting", "")
    ('stopped by ann', 'backoff, exited with status 1', 'waiting')
    """
    if reason.startswith(f"{state} "):
        return reason
    return f"{state}, {reason}" if reason else state


class OutputLine(Struct, frozen=True):
    """One line, the first thousand bytes of it."""

    number: int
    """It grows by one with each line that the program writes, as far as this worker knows: a gap was not kept."""
    time: float
    """When the logger has read it, in seconds since 1970."""
    stream: str
    """``stdout`` or ``stderr``."""
    text: str
    """What is not UTF-8 shows as replacement characters."""


class ProgramDetail(Struct, frozen=True):
    """Everything about one program: what ``highlanderctl show`` prints."""

    status: ProgramStatus
    lock_key: str
    command: tuple[str, ...]
    """The command as configured, before ``${NAME}`` is expanded, so that no secret shows."""
    directory: str | None
    user: str | None
    environment: tuple[str, ...]
    """Names only; values may be secrets."""
    processes: tuple[Process, ...]
    """The tree below its keeper on this node, parents first: a thousand at most."""
    output: tuple[str, ...]
    """The last lines of the child on this node, ``stdout`` and ``stderr`` as they came."""
    more_processes: int = 0
    """Processes that were seen and are not listed; there may be others below them."""
    stdout: str = "inherit"
    stderr: str = "inherit"
    unwritable: Mapping[str, str] = field(default_factory=dict)
    """Log files that cannot be written at present, and why."""


class MaintenanceStatus(Struct, frozen=True):
    """A maintenance of PostgreSQL that is under way."""

    outage: float
    """Seconds: the outage that costs nothing meanwhile."""
    lease: float
    """Seconds: the lease that leaders write into their rows for it."""
    since: str
    until: str
    author: str
    reason: str


class LeaseReport(Struct, frozen=True):
    """The lengths of leases, in seconds."""

    lease: float
    """The ledger's own: the pace of renewals and looks."""
    in_force: float
    """What leaders write into their rows at present."""
    ceiling: float
    """The longest lease that any leader may have been promised."""
    maintenance: MaintenanceStatus | None
    replaced_within: float
    """Seconds after the last renewal of a lost node within which another node leads."""
    pending: tuple[str, ...]
    """Leaders, such as ``beat on a``, whose rows do not carry the lease in force yet."""
    warnings: tuple[str, ...] = ()
    """What the node that answers has not on its disk."""


class MigrationReport(Struct, frozen=True):
    """Where a migration of the ledger's schema stands."""

    version: int
    """The schema's version now."""
    migrated: bool
    """Whether this order changed it."""
    waits_for: tuple[str, ...]
    """What is in the way: sessions of older daemons, or an administrator."""


class PostgresStatus(Struct, frozen=True):
    """The coordinator as this node sees it."""

    connected: bool
    server: str
    """``host:port/database`` or the socket, never a password."""
    version: str | None
    trouble: str
    """Why it cannot be used at the moment; empty when it can."""
    lease: float
    """The ledger's lease in seconds (the configured one until the ledger has been read)."""
    timeline: int | None
    connections: int
    lease_in_force: float = 0.0
    """What leaders write into their rows at present, in seconds: longer than ``lease`` during maintenance."""
    ceiling: float = 0.0
    """The longest lease that any leader may have been promised, in seconds."""
    replaced_within: float = 0.0
    """Seconds after the last renewal of a lost node within which another node leads."""
    schema: int = 0
    """Version of the ledger's schema; 0 until it was read."""


class DaemonProcess(Struct, frozen=True):
    """One of the daemon's own processes."""

    pid: int
    version: str | None
    """The version of highlanderd that it runs; ``None`` for a guardian that is too old to say it."""


class ReplacementReport(Struct, frozen=True):
    """What the daemon says when its worker gives way to the next one."""

    node: str
    worker: DaemonProcess
    """The worker that ends."""
    programs: dict[str, int]
    """The epochs of the programs that it leads."""
    warnings: tuple[str, ...]
    """What the installed code says about this machine's configuration."""


class NodeStatus(Struct, frozen=True):
    """One node: what ``highlanderctl status --json`` prints."""

    node: str
    instance: str
    version: str
    postgres: PostgresStatus
    programs: tuple[ProgramStatus, ...]
    warnings: tuple[str, ...] = ()
    """What an operator should look at: an overruled lease, a refused server, a tree that SIGKILL does not end."""
    maintenance: MaintenanceStatus | None = None
    """The maintenance of PostgreSQL, on whichever node it began; ``None`` while there is none."""
    worker: DaemonProcess | None = None
    guardian: DaemonProcess | None = None
    restart_due: str | None = None
    """Since when guardian and keepers are of another version than the worker; ``None`` while they are of the same."""
    drained: Held | None = None
    """The order that keeps this node from leading anything; ``None`` while there is none."""
