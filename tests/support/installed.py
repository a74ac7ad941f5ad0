"""A copy of the code, which a test may change beneath a running daemon, as a package does."""

from __future__ import annotations

import shutil
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "highlanderd"
ENTRY = "worker/daemon.py"
"""Where a worker begins."""


class Installed:
    """The code in a directory of its own, which everybody may read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {"PYTHONPATH": str(directory), "PYTHONSAFEPATH": "1"}
        """What makes a daemon or a client run this code."""
        shutil.copytree(PACKAGE, directory / "highlanderd", ignore=shutil.ignore_patterns("__pycache__"))
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)

    def of_version(self, version: str) -> None:
        """Let it be another version of the same code."""
        (self.directory / "highlanderd/__init__.py").write_text(f'__version__ = "{version}"\n')

    def append(self, module: str, text: str) -> None:
        """Add lines to a module: a mistake that its tests have missed."""
        with (self.directory / "highlanderd" / module).open("a") as file:
            file.write(f"\n\n{text}\n")

    def break_workers(self) -> None:
        """Let each worker end as soon as it is executed, though all of it can be imported."""
        self.append(ENTRY, "async def serve(*_: object) -> int:\n    raise SystemExit(3)")

    def mend(self, module: str = ENTRY) -> None:
        """Undo a change of a module."""
        shutil.copy(PACKAGE / module, self.directory / "highlanderd" / module)
