"""From what was handed over to the server that all connections go to."""

from __future__ import annotations

from collections.abc import Callable

from highlanderd.embedded.server import dsn_of
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.memory import NodeMemory
from highlanderd.postgres.server import Server
from highlanderd.worker.handover import WorkerHandover


def ledger_of(handover: WorkerHandover) -> Ledger:
    """Return the ledger that the configuration names."""
    configuration = handover.configuration
    return Ledger(configuration.postgres.schema_, configuration.daemon.namespace, configuration.postgres.lease)


def server(
    handover: WorkerHandover,
    ledger: Ledger,
    *,
    reread: Callable[[], str],
    on_alarm: Callable[[str], None],
    on_lease: Callable[[], None],
) -> Server:
    """Return the server, with what an earlier worker saw of it. ``reread`` returns the DSN as its file says now."""
    configuration = handover.connecting.configuration
    daemon = handover.configuration.daemon
    dsn = configuration.postgres.dsn.get_secret_value()
    directory = handover.configuration.embedded_directory
    fresh = None if directory is None else directory / "fresh"
    dsn = dsn if directory is None else dsn_of(directory)
    memory = NodeMemory(daemon.state_dir / "timelines")
    memory.inherit(handover.memory)
    return Server(
        dsn,
        ledger,
        node=daemon.node,
        fresh=fresh,
        seen_ledger=handover.seen_ledger,
        memory=memory,
        reread=reread if directory is None else None,
        on_alarm=on_alarm,
        on_lease=on_lease,
    )
