"""Answer a question about the cluster without a daemon, for ``highlanderctl cluster`` with a DSN or a configuration.

It asks PostgreSQL itself, by plain SELECTs, and prints the JSON that the control socket would answer with. The role
needs no more than to read the ledger's tables.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Final

from highlanderd.config import load
from highlanderd.core.lease import Lease
from highlanderd.errors import HighlanderError
from highlanderd.listeners.answers import cluster_facts
from highlanderd.postgres import overview
from highlanderd.postgres.addresses import Addresses, with_options
from highlanderd.postgres.dialling import connect
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.replies import ConnectFailed, WireLost
from highlanderd.postgres.sql import connecting, dialect
from highlanderd.postgres.wire import Wire

WITHIN: Final = Lease(20.0)
"""A connection and each answer may take a fifth, and three tenths of it."""
SCHEMA: Final = "highlander"
"""Where the ledger is unless a configuration says otherwise."""


async def cluster(dsn: str, schema: str) -> dict[str, object]:
    """Return the JSON of ``GET /v1/cluster``. Raises HighlanderError."""
    try:
        wire = await _connected(dsn)
        try:
            return await _ask(wire, Ledger(schema, "", 0.0))
        finally:
            wire.drop("answered")
    except (ConnectFailed, WireLost) as lost:
        raise HighlanderError(f"PostgreSQL does not answer: {lost}") from lost


async def _connected(dsn: str) -> Wire:
    """Return a connection to the first address that takes one. Raises ConnectFailed with what the last one said."""
    last = ConnectFailed("the dsn names no server")
    for address in await Addresses(dsn).every(WITHIN.renew_every):
        parameters = {**with_options(address, WITHIN, ""), "application_name": "highlanderctl"}
        try:
            return await connect(parameters, WITHIN.renew_every)
        except ConnectFailed as failed:
            last = failed
    raise last


async def _ask(wire: Wire, ledger: Ledger) -> dict[str, object]:
    [meta] = await wire.ask([(ledger.statement("meta", connecting.META), ())], WITHIN.answer_within)
    if meta.error is not None or not meta.rows:
        raise HighlanderError(f"the ledger cannot be read: {meta.error.text if meta.error else 'its meta row is gone'}")
    version = min(int(meta.rows[0][0] or 1), dialect.VERSION)
    overview.refuse_older(version)
    replies = await wire.ask(overview.questions(ledger, version), WITHIN.answer_within)
    return cluster_facts(overview.read(replies), None)


def main() -> int:
    """Print the answer; the DSN, or the configuration's path, is in the environment, where no other user sees it."""
    try:
        dsn, schema = os.environ.get("HIGHLANDER_DSN", ""), SCHEMA
        if path := os.environ.get("HIGHLANDER_CONFIG"):
            postgres = load(Path(path), os.environ).configuration.postgres
            dsn, schema = postgres.dsn.get_secret_value(), postgres.schema_
        print(json.dumps(asyncio.run(cluster(dsn, schema))))
    except HighlanderError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
