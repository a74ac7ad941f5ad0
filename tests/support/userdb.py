"""A user database that hangs for some names, as one does whose directory server is away."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


class UserDatabase:
    """What ``userdb.c`` is told. Keys are ``NAME``, ``UID``, ``group NAME`` and ``groups of NAME``."""

    def __init__(self, directory: Path) -> None:
        if not shutil.which("cc"):
            pytest.skip("a user database that hangs takes a C compiler")
        library, self._names = directory / "userdb.so", directory / "hung"
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True)
        self.environment = {"LD_PRELOAD": str(library), "HUNG_NAMES": str(self._names)}
        self.hang()

    def hang(self, *keys: str) -> None:
        """Give no answer for these keys from now on, and answers for all others."""
        new = self._names.with_suffix(".new")
        new.write_text("".join(f"{key}\n" for key in keys))
        new.rename(self._names)
