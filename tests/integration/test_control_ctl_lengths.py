"""Claims about highlanderctl maintenance, set-lease and migrate: what they print, and what they exit with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from highlanderd.core.states import Author
from highlanderd.core.status import MigrationReport
from highlanderd.errors import HighlanderError
from highlanderd.structs import replace
from tests.support.memory_node import MemoryNode, ctl, leading, run, serving

ON = ("maintenance", "on", "--for", "1m")
OFF = ("maintenance", "off")
SET = ("ledger", "set-lease", "20s")


def test_maintenance_says_until_when_what_it_bears_and_what_it_costs(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *ON, "--reason", "PostgreSQL 18.5")
            assert (asked.code, asked.err) == (0, "")
            assert asked.out.splitlines() == [
                "until 2026-01-02 03:05:05 UTC PostgreSQL may go away for up to 1m: that stops no child",
                "leases are 1m30s instead of 10s",
                "a node that is lost meanwhile is replaced within 1m37s",
            ]
            assert node.looks == 2, "it returned before all leaders used the longer lease, or looked on after that"
            asked = await ctl(path, *OFF)
            assert (asked.code, asked.err) == (0, "")
            assert asked.out == "maintenance is off\na node that is lost is replaced within 13s\n"

    run(main)
    assert [(order[1], order[2], order[4]) for order in node.orders] == [
        (60.0, "PostgreSQL 18.5", False),
        (None, "", False),
    ]


def test_a_changed_lease_says_what_it_costs_during_maintenance_too(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *SET, "--force")
            assert (asked.code, asked.err) == (0, "")
            assert asked.out == "the lease is 20s now\na node that is lost is replaced within 26s\n"
            await ctl(path, *ON)
            asked = await ctl(path, "ledger", "set-lease", "2.5s", "--no-wait")
            assert asked.out.startswith("the lease is 2.5s now\nuntil 2026-01-02 03:05:05 UTC PostgreSQL may go away")

    run(main)
    assert node.orders[0] == ("lease", 20.0, True)


@pytest.mark.parametrize("order", [ON, OFF, SET])
def test_an_order_for_leases_as_json_is_what_the_socket_gives(tmp_path: Path, order: tuple[str, ...]) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            answer = json.loads((await ctl(path, *order, "--json")).out)
        assert set(answer) == {"lease", "in_force", "ceiling", "maintenance", "replaced_within", "pending", "warnings"}
        assert (answer["maintenance"] is not None) == (order is ON)

    run(main)


def test_without_wait_the_leaders_that_do_not_follow_yet_are_named(tmp_path: Path) -> None:
    node = MemoryNode(*(leading(f"web-{number}") for number in range(8)), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *OFF, "--no-wait")
            assert (asked.code, asked.err) == (0, "")
            named = ", ".join(f"web-{number} on web-1" for number in range(5))
            assert asked.out.splitlines()[-1] == f"not in force yet: {named} and 3 more"

    run(main)
    assert node.looks == 0


@pytest.mark.parametrize("order", [ON, OFF, SET])
def test_a_lease_that_is_not_in_force_in_time_exits_with_seven(tmp_path: Path, order: tuple[str, ...]) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *order, "--timeout", "100ms")
            assert (asked.code, asked.out) == (7, "")
            assert "after 0.1 s these leaders do not use the lease of" in asked.err
            assert "yet: beat on web-1. The order stands" in asked.err

    run(main)


@pytest.mark.parametrize("order", [ON, OFF, SET, ("ledger", "migrate")])
def test_a_refusal_is_the_daemon_s_sentence_and_exits_with_one(tmp_path: Path, order: tuple[str, ...]) -> None:
    node = MemoryNode(leading("beat"))
    node.refusal = HighlanderError("the ledger has not settled on this server yet; try again in 10.5s")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *order)
            assert (asked.code, asked.out, asked.err) == (1, "", f"highlanderctl: {node.refusal}\n")

    run(main)
    assert node.orders == []


@pytest.mark.parametrize("order", [ON, SET])
def test_a_longer_lease_without_evidence_exits_with_one_and_can_be_forced(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    node = MemoryNode()
    node.lacking = "the longer lease is not on the disk of standby1; insist with --force"

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *order)
            assert (asked.code, asked.out, asked.err) == (1, "", f"highlanderctl: {node.lacking}\n")
            assert node.orders == []
            assert (await ctl(path, *order, "--force")).code == 0

    run(main)
    assert len(node.orders) == 1


def test_a_migration_that_waits_exits_with_one_and_says_for_what(tmp_path: Path) -> None:
    node = MemoryNode()

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "ledger", "migrate")
            assert (asked.code, asked.out, asked.err) == (0, "the ledger has schema 2 now\n", "")
            node.migration = MigrationReport(2, migrated=False, waits_for=())
            asked = await ctl(path, "ledger", "migrate")
            assert (asked.code, asked.out) == (0, "the ledger has schema 2 already\n")
            older = tuple(f"highlanderd/{node}/beat" for node in "abcdefg")
            node.migration = MigrationReport(1, migrated=False, waits_for=older)
            asked = await ctl(path, "ledger", "migrate")
            assert (asked.code, asked.out) == (1, "")
            assert "the ledger stays at schema 1; its migration waits for highlanderd/a/beat" in asked.err
            assert "and 2 more" in asked.err
            asked = await ctl(path, "ledger", "migrate", "--json")
            assert asked.code == 1
            assert json.loads(asked.out) == {"version": 1, "migrated": False, "waits_for": list(older)}

    run(main)


@pytest.mark.parametrize("reason", ["x" * 501, "one\ntwo", "\x1b[2J", "\udcff"])
def test_a_reason_that_no_terminal_should_print_is_wrong_usage(tmp_path: Path, reason: str) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *ON, "--reason", reason)
            assert (asked.code, asked.out) == (2, "")
            assert (
                asked.err == "highlanderctl: 'reason' must be one line of printable text, of at most 500 characters\n"
            )

    run(main)
    assert node.orders == []


def test_status_ends_with_the_maintenance_and_leaves_the_table_to_scripts(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            await node.maintenance(60.0, Author("uid 0 (root) on node a", "PostgreSQL 18.5"))
            node.warnings = ("the ledger's lease of 20s overrules the configured 10s",)
            asked = await ctl(path, "status")
            assert asked.code == 0
            assert len(asked.out.splitlines()) == 2
            assert asked.err.splitlines() == [
                "maintenance until 2026-01-02 03:05:05 UTC by uid 0 (root) on node a: PostgreSQL 18.5",
                "  leases of 1m30s instead of 10s, a lost node is replaced within 1m37s",
                "warning: the ledger's lease of 20s overrules the configured 10s",
            ]
            node.lengths = replace(node.lengths, maintenance=None)
            assert "maintenance" not in (await ctl(path, "status")).err

    run(main)
