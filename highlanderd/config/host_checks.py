"""Check what this host lacks for a program: users, groups, directories, commands, files.

A lack stops only its own program, so the daemon warns of it and starts; ``--check`` counts it as a problem. What this
process may not see, it does not judge.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from highlanderd.config.checks import WrittenProgram
from highlanderd.config.environment import PATH, read_environment
from highlanderd.config.identity import find_group, find_user
from highlanderd.config.problems import Place, Problems
from highlanderd.config.program import ProgramConfig
from highlanderd.config.reading import Table
from highlanderd.config.values import quoted
from highlanderd.errors import HighlanderError


def check_host(
    programs: Iterable[WrittenProgram], control: Table, environ: Mapping[str, str], report: Problems
) -> None:
    """Report what the configuration names and this host lacks. Of all files, only environment files are read."""
    group = control.get("group")
    if group is not None:
        _find_group(str(group.value), group.place, report)
    for written in programs:
        _accounts(written, report)
        _environment_files(written, report)
        _directories(written, report)
        if missing := _missing(written.program, environ):
            report.add(written.at("command"), missing)


def _accounts(written: WrittenProgram, report: Problems) -> None:
    program = written.program
    if program.user is not None:
        try:
            account = find_user(program.user)
        except LookupError as error:
            report.add(written.at("user"), error.args[0])
        else:
            if account is None and program.group is None:
                report.add(written.at("user"), "has no entry in the user database, and so no group; set group too")
    if program.group is not None:
        _find_group(program.group, written.at("group"), report)
    for index, group in enumerate(program.supplementary_groups):
        _find_group(group, written.at("supplementary_groups") / index, report)


def _find_group(name: str, place: Place, report: Problems) -> None:
    try:
        find_group(name)
    except LookupError as error:
        report.add(place, error.args[0])


def _environment_files(written: WrittenProgram, report: Problems) -> None:
    for path in written.program.environment_file:
        try:
            read_environment(path)
        except HighlanderError as error:
            report.add(written.at("environment_file"), str(error))


def _directories(written: WrittenProgram, report: Problems) -> None:
    program = written.program
    if program.directory is not None:
        _directory(program.directory, written.at("directory"), report)
    for key, target in (("stdout", program.stdout), ("stderr", program.stderr)):
        if target not in ("inherit", "null"):
            _directory(Path(target).parent, written.at(key), report)


def _directory(path: Path, place: Place, report: Problems) -> None:
    mode = _mode(path)
    if mode == 0:
        report.add(place, f"the directory {path} does not exist; create it, or name another one")
    elif mode is not None and not stat.S_ISDIR(mode):
        report.add(place, f"{path} is not a directory; name one that is")


def _missing(program: ProgramConfig, environ: Mapping[str, str]) -> str:
    """Return what keeps the command from being executed, as a sentence; empty if nothing does."""
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
    """Return the child's PATH, as far as it is known even if its user or an environment file is missing."""
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
    """Return the mode of what is there, 0 if nothing is, ``None`` if this process cannot see it."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError:
        return None
