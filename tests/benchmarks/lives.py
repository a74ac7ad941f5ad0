"""What instant children have written: when each began, and when it ended."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.wait import wait_for

SOURCE = Path(__file__).with_name("instant_child.c")


@dataclass(frozen=True, slots=True)
class Life:
    """One child. Times are seconds on CLOCK_BOOTTIME."""

    pid: int
    began: float
    ended: float | None


class Lives:
    """The children of one program, all with one file."""

    def __init__(self, directory: Path, number: int = 0) -> None:
        """Compile the child, if that is not in the directory yet. Each program needs a ``number`` of its own."""
        self._file = directory / f"acts{number}"
        program = directory / "instant_child"
        if not program.exists():
            subprocess.run(["cc", "-O2", "-static", "-o", str(program), str(SOURCE)], check=True)
        self.command = [str(program), str(self._file)]
        directory.chmod(0o755)

    def now(self) -> list[Life]:
        """Return all lives, in the order of their beginnings."""
        found: dict[int, Life] = {}
        for line in self._file.read_text().splitlines() if self._file.exists() else []:
            what, at, pid = line.split()
            if what == "begins":
                found[int(pid)] = Life(int(pid), float(at), None)
            else:
                found[int(pid)] = Life(int(pid), found[int(pid)].began, float(at))
        return list(found.values())

    def await_number(self, count: int) -> Life:
        """Wait until so many have begun; return the last one."""
        wait_for(lambda: self._file.exists() and self._file.read_bytes().count(b"begins ") >= count)
        return self.now()[count - 1]

    def ended(self, life: Life) -> float:
        """Return when a child has ended that was told to."""
        return next(one.ended for one in self.now() if one.pid == life.pid and one.ended is not None)
