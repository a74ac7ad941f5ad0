"""Judge who could change what the daemon believes, and read its secrets: as sshd and sudo judge their own files.

What everybody may write is refused. What one other user or a group may write is warned of: that may be meant. A mount
that is read-only here counts as safe, such as that of a container's configuration.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from highlanderd.config.checks import WrittenProgram
from highlanderd.config.dsn import options
from highlanderd.config.expansion import WrittenText
from highlanderd.config.problems import Location, Problems
from highlanderd.config.reading import Table
from highlanderd.config.sources import Disk
from highlanderd.system import user_database, way

_SECRETS: Final = re.compile("PASSW|SECRET|TOKEN|CREDENTIAL|PRIVATE_?KEY|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
"""Variables whose values are meant for few eyes."""


def judge_files(source: Disk, problems: Problems, warnings: Problems) -> None:
    """Report each file that was read, and each directory that was searched, that others may write to."""
    sources = source.sources
    start = Path(sources.start)
    for name in (*sources.texts, *sources.secrets, *map(str, map(source.searched, sources.listings))):
        judge_way(start / name, problems, warnings)
    for name in sources.secrets:
        if _public(start / name):
            warnings.add_file(name, f"everybody may read this secret; take that right away (chmod o-r {name})")


def judge_secrets(start: Path, postgres: Table, programs: Iterable[WrittenProgram], warnings: Problems) -> None:
    """Warn of a secret in a file of the configuration that every user may read."""
    for location in (
        *_password(postgres),
        *(location for written in programs for location in _variables(written.table)),
    ):
        name = location.document.name
        if _public(start / name):
            cure = f"take that right away (chmod o-r {name}), or write file:PATH and the secret into that file"
            warnings.add(location, f"holds a secret, and everybody may read this file; {cure}")


def _password(postgres: Table) -> Iterator[Location]:
    dsn = postgres.get("dsn")
    if dsn is None or not isinstance(dsn.value, WrittenText):
        return
    try:
        password = options(dsn.value).get("password")
    except ValueError:  # reported already, or it names a file
        return
    if password and password in dsn.value.raw:
        yield dsn.location


def _variables(table: Table) -> Iterator[Location]:
    environment = table.get("environment")
    if environment is not None and isinstance(environment.value, dict):
        for name, value in environment.value.items():
            if _SECRETS.search(name) and isinstance(value, WrittenText) and _stands_there(value):
                yield environment.names.get(name, environment.location)


def _stands_there(value: WrittenText) -> bool:
    """Return whether the file holds the value itself, and not the name of a file or variable."""
    return bool(value) and value == value.raw and not value.startswith("file:")


def judge_way(path: Path, problems: Problems, warnings: Problems) -> None:
    """Report the first step on the way to ``path`` that others may change: what follows is theirs as well."""
    try:
        for step, found in way.steps(os.fsencode(path)):
            if stat.S_ISLNK(found.st_mode) or os.statvfs(step).f_flag & os.ST_RDONLY:
                continue
            name, who = os.fsdecode(step), _writer(found)
            if who:
                report = problems if who == EVERYBODY else warnings
                report.add_file(name, f"{who} may write to it, and so decide what is run; {_cure(found, name)}")
                return
    except OSError:
        return  # what cannot be seen was not read, either


def _read_only(directory: Path) -> str:
    """Return why nothing can be made in the directory, or the lowest that exists above it; empty if it can.

    The kernel's own file systems have no blocks, and let not even root make what is not theirs.
    """
    there = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
    system = os.statvfs(there)
    if system.f_flag & os.ST_RDONLY:
        return f"{there} is on a read-only file system; name a directory elsewhere"
    if not system.f_blocks and not there.stat().st_mode & stat.S_IWUSR:
        return f"the kernel lets nothing be made in {there}; name a directory elsewhere"
    return ""


EVERYBODY: Final = "everybody"


def _writer(found: os.stat_result) -> str:
    """Return who may write but root and the daemon's user; empty for none. A sticky directory guards its files."""
    if found.st_mode & stat.S_IWOTH and not _sticky(found):
        return EVERYBODY
    if found.st_uid not in (0, os.geteuid()):
        return f"user {_user(found.st_uid)}"
    if found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid()) and not _sticky(found):
        return f"group {_group(found.st_gid)}"
    return ""


def _sticky(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and bool(found.st_mode & stat.S_ISVTX)


def _cure(found: os.stat_result, name: str) -> str:
    if _writer(found) == EVERYBODY:
        return f"take that right away (chmod o-w {name})"
    if found.st_uid not in (0, os.geteuid()):
        return f"make it your own (chown {_user(os.geteuid())} {name})"
    return f"take that right away (chmod g-w {name})"


def _user(uid: int) -> str:
    try:
        return user_database.user_numbered(uid).pw_name
    except (KeyError, OSError):
        return str(uid)


def _group(gid: int) -> str:
    try:
        return user_database.group_numbered(gid).gr_name
    except (KeyError, OSError):
        return str(gid)


def _public(path: Path) -> bool:
    """Return whether every user may read a file, its directories included."""
    try:
        steps = [found for _, found in way.steps(os.fsencode(path)) if not stat.S_ISLNK(found.st_mode)]
    except OSError:
        return False
    passable = all(found.st_mode & stat.S_IXOTH for found in steps if stat.S_ISDIR(found.st_mode))
    return passable and bool(steps[-1].st_mode & stat.S_IROTH)


def directory_problem(directory: Path, *, shared: bool = False) -> str:
    """Return why the daemon must not keep its files in a directory, as a sentence; empty if it may.

    One that is not there yet is judged by those above it. ``shared``: it may be one like ``/tmp``, whose sticky bit
    keeps each user's files apart.
    """
    found, wanted = None, os.fsencode(Path.cwd() / directory)
    try:
        for step, found in way.steps(wanted):
            if not stat.S_ISLNK(found.st_mode) and _writer(found) == EVERYBODY:
                name = os.fsdecode(step)
                return f"everybody may write to {name}; {_cure(found, name)}, or name another one"
    except NotADirectoryError:
        return f"{directory} is in no directory; name one that can be made"
    except FileNotFoundError:
        return _read_only(directory)
    except OSError:
        return ""  # to use it says what is wrong
    if found is None:  # the root
        return ""
    if not stat.S_ISDIR(found.st_mode):
        return f"{directory} is no directory; name one"
    if problem := _read_only(directory):
        return problem
    if _sticky(found) and found.st_mode & stat.S_IWOTH and not shared:
        return f"everybody may write to {directory}; name a directory of the daemon's own in it"
    if who := _writer(found):
        return f"{who} may write to {directory}; {_cure(found, str(directory))}, or name another one"
    return ""
