"""Wall clocks of nodes that can be stepped, one by one: time namespaces do not cover CLOCK_REALTIME.

A small library (``wallclock.c``) is preloaded into all processes of a node. It is compiled when a bed is made; without
a compiler the faults that step a clock are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("wallclock.c")
WIDTH = 8


def clocks_lacking() -> str:
    """Say why no clock can be stepped here; empty when one can."""
    return "" if shutil.which("cc") else "stepping the wall clock of one node takes a C compiler"


class Clocks:
    """The wall clocks of a bed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._library = directory / "wallclock.so"
        if not clocks_lacking():
            command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True)

    def of(self, name: str) -> dict[str, str]:
        """Return the variables that put a node under its own clock."""
        if not self._library.exists():
            return {}
        self.step(name, 0)
        return {"LD_PRELOAD": str(self._library), "WALL_CLOCK": str(self._file(name))}

    def step(self, name: str, seconds: int) -> None:
        """Let a node's clock be wrong by so many seconds from now on; 0 is right."""
        file = self._file(name)
        with file.open("r+b" if file.exists() else "wb") as shown:  # in place: it is mapped
            shown.write(seconds.to_bytes(WIDTH, "little", signed=True))

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.clock"
