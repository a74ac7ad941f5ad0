"""Whether all say the same of a program: the nodes, the cluster, the ledger, the journal, and ``/proc``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.soak import census, programs
from tests.support.deaths import proc_file
from tests.support.nodes import Node, Nodes
from tests.support.postgres import Database

LEASES = "SELECT program, node, epoch FROM highlander.lease WHERE released_at IS NULL"
LOCAL = frozenset({"environment", "stdout"})
"""Keys that differ by node: each has its own directory."""
Facts = Mapping[str, Any]


def disagreements(nodes: Nodes, database: Database) -> list[str]:
    """Return a sentence for each program of which not all say the same, and for each process too many."""
    said = {node.name: {one["name"]: one for one in node.status()["programs"]} for node in nodes.nodes}
    cluster = {one["name"]: one for one in nodes.nodes[0].control.ask("GET", "/v1/cluster")["programs"]}
    rows = {program: (node, epoch) for program, node, epoch in database.sql(LEASES)}
    lives = {life.program: life for life in nodes.journal.lives()}
    trees = census.trees(nodes.directory)
    found = []
    for name in programs.names():
        of_nodes = {node: of_node[name] for node, of_node in said.items() if name in of_node}
        found += [
            f"{name}: {why}"
            for why in _of_one(of_nodes, cluster.get(name), rows.get(name), [c for c in trees if c.program == name])
        ]
        leader = cluster.get(name, {}).get("leader")
        life = lives.get(name)
        if leader and (life is None or (life.node, life.epoch) != (leader, cluster[name]["epoch"])):
            found.append(f"{name}: the journal says {life}, the cluster {leader} in epoch {cluster[name]['epoch']}")
    return [*found, *_of_keepers(nodes.nodes, said), *census.unexplained(nodes.nodes, nodes.directory)]


def _of_one(
    of_nodes: Mapping[str, Facts], of_cluster: Facts | None, row: tuple[str, int] | None, tree: list[census.Child]
) -> Iterator[str]:
    leading = {node: one for node, one in of_nodes.items() if one["state"] == "leading"}
    if len(of_nodes) != 3 or of_cluster is None:
        yield f"only {sorted(of_nodes)} know it"
        return
    if len(leading) != 1:
        yield f"led by {sorted(leading)}: {[one['reason'] for one in of_nodes.values()]}"
        return
    [(node, one)] = leading.items()
    if not one["ready"]:
        yield f"not ready on {node}: {one['reason']}"
    if {(child.node, child.epoch) for child in tree} != {(node, one["epoch"])}:
        yield f"led by {node} in epoch {one['epoch']}, but these processes run: {tree}"
    if one["pid"] not in {child.pid for child in tree}:
        yield f"{node} says pid {one['pid']}, but these processes run: {tree}"
    if (of_cluster["leader"], of_cluster["epoch"], of_cluster["ready"]) != (node, one["epoch"], True):
        yield f"led by {node} in epoch {one['epoch']}, but the cluster says {of_cluster}"
    if len(of_cluster["candidates"]) != 2 or of_cluster["unable"] or of_cluster["stopped"] or _drifts(of_cluster):
        yield f"the cluster says {of_cluster}"
    if row != (node, one["epoch"]):
        yield f"led by {node} in epoch {one['epoch']}, but the ledger says {row}"
    for other, told in of_nodes.items():
        if told["leader"] != node:
            yield f"led by {node}, but {other} says {told['leader']}"


def _drifts(of_cluster: Facts) -> bool:
    return any(not LOCAL.issuperset(one["keys"]) for one in of_cluster["drift"])


def _of_keepers(nodes: list[Node], said: Mapping[str, Mapping[str, Facts]]) -> Iterator[str]:
    """Yield what is wrong with keepers and loggers. A program without a file has a logger once it says something."""
    for node in nodes:
        led = {name for name, one in said[node.name].items() if one["state"] == "leading"}
        kinds = [proc_file(f"/proc/{pid}/comm").decode().partition(" ") for pid in census.own(node)]
        keepers, loggers = ([name.strip() for kind, _, name in kinds if kind == which] for which in ("keep", "log"))
        if sorted(keepers) != sorted(led):
            yield f"{node.name} leads {sorted(led)} with keepers of {sorted(keepers)}"
        if not programs.with_files() & led <= set(loggers) <= led or len(loggers) != len(set(loggers)):
            yield f"{node.name} leads {sorted(led)} with loggers of {sorted(loggers)}"
