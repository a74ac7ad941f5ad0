"""200 programs on three nodes, for minutes: nothing grows, nothing stays, all say the same, and none was ever two."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from highlanderd.errors import HighlanderError
from highlanderd.guardian import cgroup
from tests.soak import SECONDS, census, programs
from tests.soak.census import Use
from tests.soak.reality import disagreements
from tests.soak.storm import UP, Storm
from tests.support.commands import highlanderctl
from tests.support.deaths import gone, marked
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.ports import reserved_port
from tests.support.postgres import Cluster, Clusters, Database
from tests.support.wait import wait_for

PATIENCE = 900.0
"""Seconds for the beginning, the quiet states and the end on a busy machine."""
LASTS = float(os.environ.get(SECONDS, "20"))
pytestmark = [pytest.mark.long, pytest.mark.timeout(LASTS + PATIENCE)]

LEASE = 20.0
WARM_UP = 0.25
"""Share of the time after which the baseline is taken: what is imported, cached and allocated once is there then."""
QUIET_WITHIN = float(os.environ.get("QW", "240"))
"""Seconds until all is quiet and at home."""
DESCRIPTORS = {"guardian": 0, "fork server": 0, "worker": 3, "spare": 0, "keep": 0, "log": 0}
"""By which a process may have more descriptors than before, or than others of its kind had."""
KILOBYTES = {"guardian": 1024, "fork server": 1024, "worker": 12288, "spare": 2048, "keep": 1024, "log": 2560}
"""By which it may have grown since the warm-up. A keeper shares what the fork server has, and that what the guardian
had when it forked it; on a busy machine the guardian forks another one, or a keeper itself. A logger keeps 1 MiB of
what it has used (KEPT_MEMORY), and the buffers of one block; 80 MB later it has no more. A worker keeps the last
lines and events of 200 programs, each up to a bound: after 2,000 lives it grows by tens of bytes a life, and its heap
keeps some MiB of a busy hour."""


class Bed:
    """Three nodes, their server, and the one quiet state that they are brought back to."""

    def __init__(self, nodes: Nodes, server: Cluster) -> None:
        self.nodes, self.server = nodes, server
        self.database: Database = server.database()
        self.quiet = nodes.directory / "quiet"
        self.proven = False
        self._ports = {name: reserved_port() for name in programs.with_ports()}
        self.storm = Storm(nodes, server, self._ports, Random())
        settled_ledger(self.database, LEASE)
        self.quiet.touch()
        for name in "abc":
            node = Node(name, nodes.directory / name, self.database.dsn, LEASE, nodes.journal)
            node.handed_down = {"SOAK_QUIET": str(self.quiet)}
            nodes.nodes.append(node)
            self.storm.configure(node, edited=False)
            node.start()
        for node in nodes.nodes:
            wait_for(node.up, UP, f"{node.name} is up")
        self.home = {name: nodes.nodes[number % 3] for number, name in enumerate(programs.names())}

    def calm(self) -> None:
        """Bring everything into the quiet state: all programs run, each on its node, with the first file."""
        self.quiet.touch()
        self.storm.calm()
        for node in self.nodes.nodes:
            wait_for(node.up, UP, f"{node.name} is up")
            self.storm.configure(node, edited=False)
            node.control.ask("POST", "/v1/resume", {})
            node.control.ask("POST", "/v1/reload", {}, UP)
        wait_for(self._at_home, QUIET_WITHIN, "all programs run at home")
        self._await_agreement()

    def rage(self, seconds: float, *, certain: bool) -> dict[int, Use]:
        """Let everything loose for so long, and calm down; return what the processes use then."""
        self.quiet.unlink()
        self.storm.rage(seconds, certain=certain)
        while True:
            self.calm()
            terms = self._terms()
            uses = census.uses(self.nodes.nodes)
            if self._at_home() and terms == self._terms():  # else one that hung was found out only now, and has moved
                return uses

    def _terms(self) -> list[tuple[object, ...]]:
        return self.database.sql("SELECT program, node, epoch, released_at FROM highlander.lease ORDER BY 1")

    def _await_agreement(self) -> None:
        """Wait until all say the same; fail with what they say."""
        until = time.monotonic() + QUIET_WITHIN
        while found := disagreements(self.nodes, self.database):
            assert time.monotonic() < until, "\n".join(found[:40])
            time.sleep(1)

    def _at_home(self) -> bool:
        """Whether each program runs on its node; starts what does not run, and moves what runs elsewhere."""
        cluster = {one["name"]: one for one in self.nodes.nodes[0].control.ask("GET", "/v1/cluster")["programs"]}
        by_name = {node.name: node for node in self.nodes.nodes}
        away = {name: home for name, home in self.home.items() if cluster[name]["leader"] != home.name}
        for name, home in away.items():
            leader = cluster[name]["leader"]
            try:
                if leader is None:
                    home.control.order(name, "start", {"everywhere": bool(cluster[name]["stopped"])})()
                elif cluster[name]["ready"]:
                    by_name[leader].control.order(name, "release", {"to": home.name})()
            except HighlanderError:  # it is just changing
                continue
        return not away


@pytest.fixture
def server(clusters: Clusters) -> Cluster:
    """A server that may be restarted, for three times 200 sessions and what else asks."""
    return clusters.create(max_connections="900")


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Print lines at once."""

    def tell(*lines: object) -> None:
        with capfd.disabled():
            print(*lines, sep="\n", flush=True)

    return tell


@pytest.fixture
def bed(nodes: Nodes, server: Cluster, report: Callable[..., None]) -> Iterator[Bed]:
    """The bed; of a run that fails it keeps the logs and the journal."""
    report(f"{len(programs.names())} programs, {LASTS:g} s")
    bed = Bed(nodes, server)
    yield bed
    if not bed.proven:
        kept = Path(tempfile.mkdtemp(prefix="highlander-soak-"))
        for path in (nodes.journal.path, *(node.log for node in nodes.nodes)):
            shutil.copy(path, kept / "-".join(path.relative_to(nodes.directory).parts))
        report(f"logs and journal are in {kept}")


def test_nothing_grows_nothing_stays_and_state_and_reality_agree(bed: Bed, report: Callable[..., None]) -> None:
    bed.calm()
    before = bed.rage(LASTS * WARM_UP, certain=False)
    after = bed.rage(LASTS * (1 - WARM_UP), certain=True)
    report(
        f"{len(bed.nodes.journal.lives())} lives",
        *table(before, after),
        *counts("done", bed.storm.done),
        *counts("refused", bed.storm.refused),
    )
    wrong = [*grown(before, after), *overlaps(bed), *troubles(bed.nodes), *left(bed)]
    bed.proven = not wrong
    report("", *(wrong or ["nothing has grown, nothing has stayed, no two have overlapped, and all say the same"]))
    assert not wrong


def table(before: dict[int, Use], after: dict[int, Use]) -> Iterator[str]:
    """Return rows of what the processes of each kind and node use, at most: before and after."""
    yield "\n| node and kind | processes | descriptors | KiB | threads |\n|---|---|---|---|---|"
    for key in sorted({*census.totals(before), *census.totals(after)}):
        facts = [_most([use for use in uses.values() if (use.node, use.kind) == key]) for uses in (before, after)]
        yield f"| {' '.join(key)} | " + " | ".join(f"{was} -> {is_}" for was, is_ in zip(*facts, strict=True)) + " |"


def _most(uses: list[Use]) -> tuple[int, ...]:
    return len(uses), *(
        max((getattr(use, fact) for use in uses), default=0) for fact in ("descriptors", "kilobytes", "threads")
    )


def counts(title: str, counted: Counter[str]) -> list[str]:
    """Return rows of what was counted."""
    rows = [f"| {name} | {count} |" for name, count in sorted(counted.items())]
    return [f"\n| {title} | times |\n|---|---|", *rows]


def grown(before: dict[int, Use], after: dict[int, Use]) -> Iterator[str]:
    """Name each process that uses more than it did, or, if it is a new one, than those of its kind did.

    A program's logger begins with its first line, so their number may grow; which there may be, `disagreements` says.
    """
    for key, count in census.totals(after).items():
        if key[1] != "log" and count > census.totals(before)[key]:
            yield f"{key[0]} has {count} processes of the kind {key[1]}, and had {census.totals(before)[key]}"
    for pid, use in after.items():
        former = before.get(pid)
        alike = [one for one in before.values() if one.kind == use.kind]  # a spare may have become a worker
        same = [former] if former is not None and former.kind == use.kind else alike
        for fact, bound in (("descriptors", DESCRIPTORS), ("kilobytes", KILOBYTES)):
            most = max(getattr(one, fact) for one in same)
            if getattr(use, fact) > most + bound[use.kind]:
                yield f"{use.node} {use.kind} {use.program} pid {pid}: {fact} {most} -> {getattr(use, fact)}"


def overlaps(bed: Bed) -> Iterator[str]:
    """Name each two lives or terms that overlap, as the journal and the history say."""
    yield from bed.nodes.journal.doubles()
    asked = highlanderctl(bed.nodes.nodes[0].socket, "history", "--summary")
    if asked.code:
        yield f"history --summary exits with {asked.code}: {asked.out}{asked.err}"


def troubles(nodes: Nodes) -> Iterator[str]:
    """Name what a log must never have."""
    for node in nodes.nodes:
        for line in node.log.read_text(errors="replace").splitlines():
            if "Traceback" in line or "fault of highlanderd" in line or "quarantined" in line:
                yield f"{node.name}: {line}"


def left(bed: Bed) -> Iterator[str]:
    """End the daemons in good order, and name what is left of them."""
    places = [place for node in bed.nodes.nodes if (place := _cgroups(node)) is not None]
    for node in bed.nodes.nodes:
        node.signal(signal.SIGTERM)
    for node in bed.nodes.nodes:
        if code := node.ended():
            yield f"{node.name} has ended with {code}"
    yield from (f"left: pid {pid}" for pid in marked(bed.nodes.directory) if not gone(pid))
    yield from (f"left: {path}" for parent, name in places for path in Path(parent).glob(f"highlander.{name}.*"))
    mark = str(bed.nodes.directory)
    yield from (f"left: {line}" for line in Path("/proc/net/unix").read_text().splitlines() if mark in line)
    yield from (f"left: {path}" for path in bed.nodes.directory.rglob("*") if path.is_socket())
    open_ = "SELECT application_name FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'highlander%%'"
    yield from (f"left: a session {name}" for (name,) in bed.server.sql(open_, [bed.database.name]))


def _cgroups(node: Node) -> tuple[str, str] | None:
    name, parent = ((node.home / "state" / "instance").read_text() + "\n").split("\n")[:2]
    return (parent, name) if parent and cgroup.own() else None
