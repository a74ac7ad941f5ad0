"""Whether a daemon under strain goes on leading: the same children under the same epochs, and their terms renewed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.nodes import PATIENCE, Node, Nodes, renewals, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 10.0
"""Seconds; long enough for busy machines, short enough for tests."""
RENEWALS = 6
"""More than a lease of them: what has stopped the renewals has let the lease run out."""


class Strained:
    """One node that leads some programs, and has to go on leading them whatever is done to it."""

    def __init__(
        self, nodes: Nodes, database: Database, programs: str, metrics: str = "", lease: float = LEASE
    ) -> None:
        self._database = database
        settled_ledger(database, lease)
        self.node = Node("a", nodes.directory / "a", database.dsn, lease, nodes.journal)
        nodes.nodes.append(self.node)
        self.node.configure(programs)
        self.node.file.write_text(self.node.file.read_text().replace('listen = ""', f'listen = "{metrics}"'))
        self.node.start()
        nodes.await_up(self.node)
        self.led = self.await_led()

    def await_led(self) -> dict[str, tuple[int, int]]:
        """Wait until all programs are led; gives their epochs and pids."""

        def all_lead() -> dict[str, tuple[int, int]]:
            leading = self.node.leading()
            whole = len(leading) == len(self.node.status()["programs"])
            return {name: (one["epoch"], one["pid"]) for name, one in leading.items()} if whole else {}

        return wait_for(all_lead, PATIENCE, "all programs are led")

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Wait, at the end of the block, until every term was renewed for more than a lease since its beginning."""
        renewed = renewals(self._database)
        yield
        wait_for(lambda: self._renewed_since(renewed), PATIENCE, "every term is renewed all the same")

    def _renewed_since(self, before: dict[str, int]) -> bool:
        now = renewals(self._database)
        return all(now[name] >= before[name] + RENEWALS for name in before)

    def works(self) -> None:
        """Claim that no child has noticed anything, and that an order is carried out."""
        assert self.await_led() == self.led
        first, *others = self.led
        self.node.order("restart", first)
        after = self.await_led()
        assert after[first][0] == self.led[first][0] + 1
        assert all(after[name] == self.led[name] for name in others)

    def memory(self) -> int:
        """Return the most memory that the present worker has ever had, in bytes."""
        lines = Path(f"/proc/{self.node.worker}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    def log(self) -> str:
        """Return what the daemon has said."""
        return self.node.log.read_text(errors="replace")
