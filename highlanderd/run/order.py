"""What ``highlanderd run`` was asked for, as the command that was typed leaves it for its workers, in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

CONFIGURATION: Final = "highlander.toml"
RUNNING: Final = "running"
"""The file that says that the program was executed."""
_ORDER: Final = "order.json"


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One program, once. Times are CLOCK_BOOTTIME seconds."""

    front: int
    """The pid of the command that was typed."""
    name: str
    command: list[str]
    environment: dict[str, str]
    umask: int
    group: int | None
    """The process group that shares a terminal with the program; None where there is no terminal."""
    ignored: list[int]
    """Signals that the command was started to ignore."""
    since: float
    wait: float | None
    """Seconds that it may wait for the lead; None for any number."""
    every: float | None
    """It is not run if the last successful run began less than so many seconds ago."""

    def write(self, home: Path) -> None:
        """Leave it in the directory of this run, which nobody else may enter."""
        (home / _ORDER).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, home: Path) -> RunOrder:
        """Return what was left there."""
        return cls(**json.loads((home / _ORDER).read_text()))
