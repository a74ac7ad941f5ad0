"""What this machine lacks for a program: users, groups, directories, commands, files.

None of it stops the daemon, which runs the other programs; ``--check`` counts each as a problem. What this process may
not see, it does not judge.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from highlanderd.config.checks import Described
from highlanderd.config.environment import PATH, read_environment
from highlanderd.config.identity import find_group, find_user
from highlanderd.config.problems import Place, Problems
from highlanderd.config.program import ProgramConfig
from highlanderd.config.reading import Table
from highlanderd.config.values import quoted
from highlanderd.errors import HighlanderError


def find(programs: Iterable[Described], control: Table, environ: Mapping[str, str], report: Problems) -> None:
    """Search this machine for what the configuration names. Reads no file but environment files."""
    group = control.get("group")
    if group is not None:
        _find_group(str(group.value), group.place, report)
    for described in programs:
        _accounts(described, report)
        _environment_files(described, report)
        _directories(described, report)
        if missing := _missing(described.program, environ):
            report.add(described.at("command"), missing)


def _accounts(described: Described, report: Problems) -> None:
    program = described.program
    if program.user is not None:
        try:
            account = find_user(program.user)
        except LookupError as error:
            report.add(described.at("user"), error.args[0])
        else:
            if account is None and program.group is None:
                report.add(described.at("user"), "has no entry in the user database, and so no group; set group too")
    if program.group is not None:
        _find_group(program.group, described.at("group"), report)
    for index, group in enumerate(program.supplementary_groups):
        _find_group(group, described.at("supplementary_groups") / index, report)


def _find_group(name: str, place: Place, report: Problems) -> None:
    try:
        find_group(name)
    except LookupError as error:
        report.add(place, error.args[0])


def _environment_files(described: Described, report: Problems) -> None:
    for path in described.program.environment_file:
        try:
            read_environment(path)
        except HighlanderError as error:
            report.add(described.at("environment_file"), str(error))


def _directories(described: Described, report: Problems) -> None:
    program = described.program
    if program.directory is not None:
        _directory(program.directory, described.at("directory"), report)
    for key, target in (("stdout", program.stdout), ("stderr", program.stderr)):
        if target not in ("inherit", "null"):
            _directory(Path(target).parent, described.at(key), report)


def _directory(path: Path, place: Place, report: Problems) -> None:
    mode = _mode(path)
    if mode == 0:
        report.add(place, f"the directory {path} does not exist; create it, or name another one")
    elif mode is not None and not stat.S_ISDIR(mode):
        report.add(place, f"{path} is not a directory; name one that is")


def _missing(program: ProgramConfig, environ: Mapping[str, str]) -> str:
    """Say what keeps the command from being executed, or nothing."""
    command = program.argv[0]
    if "/" not in command:
        if shutil.which(command, path=_path(program, environ)) is not None:
            return ""
        cure = "install it, write its whole path, or set PATH in environment"
        return f"there is no command {quoted(command)} in the child's PATH; {cure}"
    if not command.startswith("/") and program.directory is None:
        where = "is relative to wherever the daemon was started"
        return f"{quoted(command)} {where}; write its whole path, or set directory"
    file = (program.directory or Path("/")) / command
    mode = _mode(file)
    if mode == 0:
        return f"there is no file {file}; install it, or correct the path"
    if mode is not None and not (stat.S_ISREG(mode) and mode & 0o111):
        return f"{file} is not an executable file; make it one (chmod +x), or correct the path"
    return ""


def _path(program: ProgramConfig, environ: Mapping[str, str]) -> str:
    """Return the child's PATH, as far as it can be told where its user or an environment file is missing."""
    if "PATH" in program.environment:
        return program.environment["PATH"].get_secret_value()
    for file in reversed(program.environment_file):
        try:
            found = read_environment(file)
        except HighlanderError:
            continue  # reported where it belongs
        if "PATH" in found:
            return found["PATH"]
    return environ.get("PATH", PATH)


def _mode(path: Path) -> int | None:
    """Return the mode of what is there, 0 for nothing, ``None`` where this process cannot see it."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError:
        return None
