"""Migrate the ledger's schema to the version of this daemon: once, and only while no older daemon is connected.

What is added never disturbs a daemon that knows the version before, but a daemon of schema 1 cannot know that a row
carries its own lease; so the step from 1 to 2 waits until those are gone. Until then this daemon works with schema 1.
Daemons of schema 2 and 3 go on together with those of schema 4.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from highlanderd.core.status import MigrationReport
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.replies import Ask, Reply
from highlanderd.postgres.sql import connecting, dialect, upkeep

MISSING: Final = {
    1: "highlanderctl maintenance, and ledger set-lease while programs run,",
    2: "highlanderctl cluster, drain, stop --everywhere, and orders to other nodes,",
    3: "programs with a schedule",
}
"""By version of the schema: what it does not offer, and the next one does."""


async def migrate(ask: Callable[[list[Ask]], Awaitable[list[Reply]]], ledger: Ledger, version: int) -> MigrationReport:
    """Migrate from ``version``, if nothing is in the way. Raises WireLost."""
    [older] = await ask([(ledger.statement("older_sessions", upkeep.OLDER_SESSIONS), ())])
    names = tuple(sorted(row[0] or "" for row in older.rows))
    if names:
        return MigrationReport(version, migrated=False, waits_for=names)
    done, meta = await ask([(ledger.migration(version), ()), (ledger.statement("meta", connecting.META), ())])
    if done.sqlstate == dialect.INSUFFICIENT_PRIVILEGE:
        cure = f"an administrator, who runs what `highlanderd -c FILE --print-schema --from {version}` prints"
        return MigrationReport(version, migrated=False, waits_for=(cure,))
    if done.error is not None:
        return MigrationReport(version, migrated=False, waits_for=(done.error.text,))
    now = int(meta.rows[0][0] or version) if meta.rows else version
    return MigrationReport(now, migrated=now > version, waits_for=())


def waits(report: MigrationReport, ledger: Ledger) -> Iterator[str]:
    """Return the warning about a ledger that is not migrated: what it waits for, and what waits for it."""
    if report.version >= dialect.VERSION:
        return
    what = ", ".join(report.waits_for) or "another daemon, which is doing it now"
    missing = "; ".join(
        f"{words} need schema {version + 1}" for version, words in MISSING.items() if version >= report.version
    )
    yield f"the ledger has schema {report.version} in {ledger.schema}; {missing}. The migration waits for {what}"
