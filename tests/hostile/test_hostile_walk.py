"""What one program does, and what is done to it, in an order that a seed chooses: its neighbours do not notice."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from highlanderd.errors import HighlanderError
from tests.hostile import SECONDS
from tests.hostile.test_hostile import CHILD, Bed
from tests.support.deaths import gone
from tests.support.nodes import PATIENCE, Nodes
from tests.support.postgres import Database
from tests.support.scarcity import tiny_disk

STEP = 0.25
"""Seconds between two steps."""
HEALED_EVERY = 8
"""Steps until the program is started again, whatever was done to it."""
MISCHIEF = re.findall(r"^def (\w+)\(\) -> None:", CHILD.read_text().partition("MISCHIEF:")[0], re.MULTILINE)
"""The names of all that the child can do."""


class Walk:
    """One program that misbehaves as it is told to, and what others do to it meanwhile."""

    def __init__(self, bed: Bed, seed: int) -> None:
        self._bed, self._random = bed, random.Random(seed)
        self.taken: list[str] = []
        """The steps so far."""

    def step(self) -> None:
        """Do one thing."""
        act = self._random.choice((self._misbehave,) * 6 + (self._order, self._strike, self._replace))
        self.taken.append(f"{act.__name__} {act()}")
        if len(self.taken) % HEALED_EVERY == 0:
            self._heal()

    def _misbehave(self) -> str:
        name: str = self._random.choice([*MISCHIEF, "ends"])
        (self._bed.disk / "orders" / f"{name}.{len(self.taken)}").touch()
        return name

    def _order(self, verb: str = "") -> str:
        verb = verb or self._random.choice(["restart", "stop", "release"])
        for node in self._bed.nodes.nodes:
            with contextlib.suppress(HighlanderError):
                node.control.ask("POST", f"/v1/programs/hostile/{verb}", {"wait": False})
        return verb

    def _strike(self, signum: int = 0, words: tuple[str, ...] = ()) -> str:
        """Signal its keeper or its logger, as root."""
        signum = signum or self._random.choice([9, 15, 19, 10])
        words = words or (self._random.choice(["keep hostile", "log hostile"]),)
        for node in self._bed.nodes.nodes:
            for pid in node.mine(b"--lock-fd"):
                if _name(pid) in words and not gone(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signum)
        return f"{words} with {signum}"

    def _replace(self, kind: str = "", names: tuple[str, ...] = ("hostile.log", "hostile.log.1", "env")) -> str:
        path = self._bed.disk / self._random.choice(names)
        kind = kind or self._random.choice(["fifo", "link", "directory", "nothing"])
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            if kind == "fifo":
                os.mkfifo(path, 0o666)
            elif kind == "link":
                path.symlink_to(self._bed.canaries[0])
            elif kind == "directory":
                path.mkdir()
        return f"{path.name} by {kind}"

    def _heal(self) -> None:
        self._strike(18, ("keep hostile", "log hostile"))
        self._replace("nothing", ("env",))
        self._order("start")


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a program as another user")
def test_no_order_of_mischief_makes_a_ripple(nodes: Nodes, database: Database) -> None:
    python = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(path).exists()), None)
    if python is None:
        pytest.skip("needs a Python that every user may run")
    seed, seconds = random.randrange(1 << 32), float(os.environ.get(SECONDS, "12"))
    with tiny_disk(nodes.directory / "theirs", 16 << 20) as disk:
        (disk / "orders").mkdir()
        (disk / "orders").chmod(0o777)
        bed = Bed(nodes, database, disk, python)
        walk, end = Walk(bed, seed), time.monotonic() + seconds
        while time.monotonic() < end or (len(bed.tally()) <= 3 and time.monotonic() < end + PATIENCE):
            walk.step()
            time.sleep(STEP)
            assert bed.violations() == [], (seed, walk.taken)
        assert len(bed.tally()) > 3, "the neighbour did next to nothing"
        nodes.end()  # before its disk goes
