"""A state directory that takes nothing more: its children live on, and it is said to the one who orders or starts."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import highlanderctl, highlanderd, led
from tests.support.long import first_of
from tests.support.nodes import PATIENCE, Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.scarcity import tiny_disk
from tests.support.wait import wait_for

LEASE = 10.0
SOURCE = Path(__file__).parents[1] / "support" / "refusal.c"
REFUSALS = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)}


class Disk:
    """A disk that refuses to write the files of one directory with an error number, once it is told to."""

    def __init__(self, directory: Path, refusing: Path) -> None:
        if not shutil.which("cc"):
            pytest.skip("a disk that refuses takes a C compiler")
        library, self._order = directory / "refusal.so", directory / "refusal"
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True)
        self.environment = {"LD_PRELOAD": str(library), "REFUSAL": str(self._order), "REFUSED": f"{refusing}/"}

    def refuse(self, number: int) -> None:
        self._order.write_text(str(number))

    def work(self) -> None:
        self._order.unlink()


@pytest.mark.parametrize("number", first_of(REFUSALS))
def test_who_orders_a_maintenance_hears_that_the_node_cannot_keep_it(
    nodes: Nodes, database: Database, tmp_path: Path, number: int
) -> None:
    settled_ledger(database, LEASE)
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    nodes.nodes.append(node)
    disk = Disk(tmp_path, node.home / "state")
    node.environment = disk.environment
    node.configure("[program.beat]\n")
    node.start()
    led(node, "beat")
    wait_for(lambda: (node.home / "state/promise").exists(), PATIENCE, "it has written what it knows")
    disk.refuse(number)
    ordered = highlanderctl(node.socket, "maintenance", "on", "--for", "60s")
    assert ordered.code == 0
    assert "warning: this node cannot write into its state_dir what it must know" in ordered.err
    assert REFUSALS[number] in ordered.err
    disk.work()
    again = highlanderctl(node.socket, "maintenance", "on", "--for", "90s")
    assert (again.code, again.err) == (0, "")
    assert ends(database, "beat") == [None]
    assert "Traceback" not in node.log.read_text()


@contextlib.contextmanager
def refusing(directory: Path, why: str) -> Iterator[Path]:
    with tiny_disk(directory, 1 << 16) as disk:
        disk.chmod(0o755)
        if why == "full":
            with contextlib.suppress(OSError), (disk / "all").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield disk


@pytest.mark.parametrize(
    ("why", "said"), [("full", os.strerror(errno.ENOSPC)), ("read-only", os.strerror(errno.EROFS))]
)
def test_a_daemon_does_not_start_on_such_a_disk_and_says_so_in_a_sentence(
    nodes: Nodes, database: Database, why: str, said: str
) -> None:
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    node.configure("[program.beat]\n")
    with refusing(nodes.directory / "disk", why) as disk:
        text = node.file.read_text().replace(str(node.home / "state"), str(disk / "state"))
        node.file.write_text(text)
        started = highlanderd("-c", node.file)
    assert started.code == 1
    assert said in started.err
    assert "Traceback" not in started.err
