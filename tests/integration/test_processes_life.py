"""A child's ordinary life between a real guardian, a real keeper and a worker on either event loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fact import wait_for
from fix_processes import Node, gone, node_at


@pytest.fixture(params=["uvloop", "asyncio"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path, loop=request.param) as node:
        yield node


def test_a_child_starts_speaks_exits_and_its_tree_is_proven_empty(node: Node) -> None:
    epoch = node.shell("echo out; echo err >&2; exit 3")
    started = node.expect("Started", epoch=epoch)
    assert node.line(epoch) == "out\n"
    assert node.line(epoch, "stderr") == "err\n"
    exited = node.expect("Exited", epoch=epoch)
    assert exited["status"] == 3 << 8
    assert exited["at"] >= started["at"]
    node.expect("Emptied", epoch=epoch)
    assert gone(started["pid"])
    wait_for(lambda: not node.keepers(), what="the keeper has left")
