"""A pooler in the path of one node: it leads nothing, in no mode, and says so. The others never notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from highlanderd.errors import HighlanderError
from highlanderd.system.linux import boottime
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.pooler import pooler
from tests.support.postgres import Database
from tests.support.wait import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.long]
LEASE = 6.0


def _trouble(node: Node) -> str:
    """Return what it says of PostgreSQL."""
    try:
        return str(node.status()["postgres"]["trouble"])
    except HighlanderError:
        return ""


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_node_behind_a_pooler_leads_nothing_and_says_so(
    nodes: Nodes, database: Database, open_dir: Path, mode: str
) -> None:
    settled_ledger(database, LEASE)
    with pooler(database, open_dir, mode) as through:
        [direct] = nodes(database, "a", programs=["beat"], lease=LEASE)
        nodes.await_led("beat")
        behind = Node("b", nodes.directory / "b", through, LEASE, nodes.journal)
        nodes.nodes.append(behind)
        behind.configure(["beat"])
        behind.start()
        wait_for(lambda: "leads to PostgreSQL directly" in _trouble(behind), what="it says why")
        direct.crash()
        end = boottime() + 3 * LEASE
        wait_for(lambda: boottime() > end, what="every lease is over")
        assert behind.leading() == {}
        direct.start()
        assert nodes.await_led("beat") == {"beat": direct}
