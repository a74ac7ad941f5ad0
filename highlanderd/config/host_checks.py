"""Check what this host lacks for a program: users, groups, directories, commands, files.

A lack stops only its own program, so the daemon warns of it and starts; ``--check`` counts it as a problem. What this
process may not see, it does not judge. A file system that hangs costs a few seconds, and is named.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from highlanderd.config.checks import WrittenProgram
from highlanderd.config.environment import PATH, read_environment, unknown_to_shells
from highlanderd.config.identity import Identity, find_group, find_user, identity
from highlanderd.config.limits import UNLIMITED, beyond, unserved, urgent
from highlanderd.config.needs import crowd
from highlanderd.config.paths import WITHIN, PathReader
from highlanderd.config.probes import ExecCheck, Probe
from highlanderd.config.problems import Document, Location, Problems
from highlanderd.config.program import ProgramConfig
from highlanderd.config.reading import Table
from highlanderd.config.trust import judge_way
from highlanderd.config.values import quoted
from highlanderd.errors import HighlanderError
from highlanderd.system import host_limits
from highlanderd.system.host_limits import HostLimit

_UNWRITABLE: Final = {
    errno.EACCES: "cannot be written by the program's user; let that user write to the directory, or name another one",
    errno.ELOOP: "is a link, and a log file's own name is never followed as one; name what it leads to",
    errno.EINVAL: 'is no regular file; name one, or write "inherit" or "null"',
}
"""What keeps a logger from a log file, and the cure."""


def check_host(
    programs: Iterable[WrittenProgram],
    control: Table,
    environ: Mapping[str, str],
    paths: PathReader,
    report: Problems,
    warnings: Problems,
) -> dict[str, tuple[str, ...]]:
    """Report what the configuration names and this host lacks; return it by program, too.

    Of all files, only environment files are read. Each path is looked at as the program's user, who must be able to use
    it, and who may have put anything there.
    """
    group = control.get("group")
    if group is not None:
        _find_group(str(group.value), group.location, report)
    lacks: dict[str, tuple[str, ...]] = {}
    users: dict[int, list[WrittenProgram]] = {}
    for written in programs:
        own, who = Problems(), _identity(written)
        _accounts(written, own)
        _HostCheck(written, who, environ, paths, own, warnings).check()
        if who.uid not in (None, 0, os.geteuid()):
            users.setdefault(who.uid, []).append(written)
        if paths.hung is not None:
            hint = "mend its file system; no program after this one was checked"
            own.add(written.location, f"{paths.hung} did not answer within {WITHIN:g} s; {hint}")
        report.include(own)
        if found := own.sorted():
            lacks[written.program.name] = found
        if paths.hung is not None:  # each further one could cost as long again
            break
    for together in users.values():
        warn_of_crowd(together, host_limits.processes_of_users(), warnings)
    return lacks


def warn_of_crowd(together: Iterable[WrittenProgram], inherited: HostLimit, warnings: Problems) -> None:
    """Warn where programs of one user need more processes than a program's own limit, or the daemon's, lets it have.

    Programs run all the same: others of them may be led elsewhere.
    """
    listed = list(together)
    for written in listed:
        own = written.program.limits.get("nproc")
        key, limit = ("user", inherited) if own is None else ("limits", HostLimit(own, "nproc in limits"))
        if own != UNLIMITED and (sentence := crowd([each.program for each in listed], limit)):
            warnings.add(written.at(key), sentence)


def lacks_now(programs: Iterable[ProgramConfig], environ: Mapping[str, str]) -> dict[str, str]:
    """Return, by program, the first thing that this host lacks for it at the moment. It may take seconds."""
    written = [WrittenProgram(program, {}, Location(Document(program.name, ""), ())) for program in programs]
    with PathReader() as paths:
        found = check_host(written, {}, environ, paths, Problems(), Problems())
    return {name: sentences[0].partition(": ")[2] for name, sentences in found.items()}


def _identity(written: WrittenProgram) -> Identity:
    """Return whom a program will run as. Where that is not known it was reported, and this process stands in."""
    try:
        return identity(written.program)
    except HighlanderError:
        return Identity(None, None, None)


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
    if os.geteuid() != 0 and _identity(written) != Identity(None, None, None):
        key = next(key for key in ("user", "group", "supplementary_groups") if key in written.table)
        report.add(
            written.at(key),
            "is for a daemon that root runs: this one may start no program as another user or group; remove user, "
            "group and supplementary_groups, or run the daemon as root",
        )


def _find_group(name: str, location: Location, report: Problems) -> None:
    try:
        find_group(name)
    except LookupError as error:
        report.add(location, error.args[0])


class _HostCheck(Struct, frozen=True):
    """Looks for what one program needs of this host."""

    written: WrittenProgram
    who: Identity
    environ: Mapping[str, str]
    paths: PathReader
    report: Problems
    warnings: Problems

    def check(self) -> None:
        program = self.written.program
        environment = self._environment()
        if program.directory is not None:
            self._directory(program.directory, "directory")
        for target, key in {program.stderr: "stderr", program.stdout: "stdout"}.items():
            if target not in ("inherit", "null"):
                self._directory(Path(target).parent, key)
                self._log(Path(target), key)
        for sentence in beyond(program.limits):
            self._report("limits", sentence)
        for sentence in unserved(program.limits):
            self.warnings.add(self.written.at("limits"), sentence)
        for key, sentence in urgent(program.nice, program.oom_score_adj).items():
            self._report(key, sentence)
        path = environment.get("PATH", self.environ.get("PATH", PATH))
        for key, argv in (("command", program.argv), *_commands(program)):
            if missing := self._missing(argv[0], path):
                self._report(key, missing)

    def _report(self, key: str, sentence: str) -> None:
        self.report.add(self.written.at(key), sentence)

    def _environment(self) -> dict[str, str]:
        """Return what files and configuration set, as far as it can be read."""
        program, found = self.written.program, dict[str, str]()
        for file in program.environment_file:
            self._judge(file.path)
            try:
                found |= (read := read_environment(file, self.who, self.paths))
            except HighlanderError as error:
                self._report("environment_file", str(error))
            else:
                self._warn_of_names(read, "environment_file", f"{file.path} sets ")
        self._warn_of_names(program.environment, "environment", "sets ")
        return found | {name: value.get_secret_value() for name, value in program.environment.items()}

    def _judge(self, path: Path) -> None:
        """Warn of who else could change what a program of the daemon's own user runs, or finds in its environment."""
        if self.who.uid in (None, os.geteuid()):
            judge_way(path, self.warnings, self.warnings)

    def _warn_of_names(self, names: Iterable[str], key: str, before: str) -> None:
        if unknown := unknown_to_shells(names):
            self.warnings.add(self.written.at(key), before + unknown)

    def _directory(self, path: Path, key: str) -> None:
        mode = self._mode(path)
        if mode == 0:
            self.report.add(
                self.written.at(key), f"the directory {path} does not exist; create it, or name another one"
            )
        elif mode is not None and not stat.S_ISDIR(mode):
            self._report(key, f"{path} is not a directory; name one that is")
        elif key == "directory" and not self._usable(path):
            self.report.add(
                self.written.at(key), f"the program's user may not enter {path}; let it, or name another directory"
            )

    def _log(self, path: Path, key: str) -> None:
        """Warn of a log file that cannot be written: the program runs all the same."""
        try:
            why = "" if self.paths.writable(path, self.who) else _UNWRITABLE[errno.EACCES]
        except OSError as error:
            why = _UNWRITABLE.get(error.errno or 0, "")
        if why:
            self.warnings.add(self.written.at(key), f"{path} {why}")

    def _missing(self, command: str, path: str) -> str:
        """Return what keeps a command from being executed, as a sentence; empty if nothing does."""
        program = self.written.program
        if "/" not in command or _ASSIGNMENT.match(command):
            return self._missing_in(command, [Path(way) for way in path.split(":") if way.startswith("/")])
        if not command.startswith("/") and program.directory is None:
            where = "is relative to wherever the daemon was started"
            return f"{quoted(command)} {where}; write its whole path, or set directory"
        file = (program.directory or Path("/")) / command
        mode = self._mode(file)
        self._judge(file)
        if mode == 0:
            return f"there is no file {file}; install it, or correct the path"
        if mode is not None and not (stat.S_ISREG(mode) and mode & 0o111):
            return f"{file} is not an executable file; make it one (chmod +x), or correct the path"
        if not self._usable(file):
            return f"the program's user may not execute {file}; let it (chmod, its directories included)"
        return ""

    def _missing_in(self, command: str, directories: Iterable[Path]) -> str:
        """Return what keeps a command from being found in any of these directories, as a sentence; empty if nothing."""
        unseen = ""
        for directory in directories:
            place = directory / command
            try:
                found = stat.S_ISREG(self.paths.mode(place, self.who)) and self._usable(place)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue
            except TimeoutError:
                return ""  # that it hangs is a finding already
            except OSError as error:
                unseen = f"could not be looked for in {directory} ({error.strerror}); mend that, or correct PATH"
                continue
            if found:
                self._judge(place)
                return ""
        return unseen or f"there is no command {_named(command)} in the child's PATH; {_cure(command)}"

    def _mode(self, path: Path) -> int | None:
        """Return the mode of what is there, 0 if nothing is, ``None`` if this process cannot judge it."""
        try:
            return self.paths.mode(path, self.who)
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except OSError:
            return None

    def _usable(self, path: Path) -> bool:
        """Return whether the program may execute the file or enter the directory. Only root can judge that."""
        if os.geteuid() != 0:
            return True
        try:
            return self.paths.executable(path, self.who)
        except PermissionError:
            return False
        except OSError:
            return True


def _commands(program: ProgramConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the commands that run in its tree in addition to its own, each with its key."""
    for key, how in (("ready", program.ready), ("alive", program.alive)):
        if isinstance(how, Probe) and isinstance(how.check, ExecCheck):
            yield key, how.check.argv
    yield from program.hooks.items()


_ASSIGNMENT: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*=")
_SHELLS_OWN: Final = frozenset({"cd", "exec", "export", "source", ".", "ulimit", "umask", "set", "trap", "{", "("})


def _named(command: str) -> str:
    """Return the command for a sentence, without what may be a secret."""
    name, equals, _ = command.partition("=")
    return quoted(f"{name}=...") if equals else quoted(command)


def _cure(command: str) -> str:
    name, equals, _ = command.partition("=")
    if equals:
        return f'begin with the program, and write environment = {{ {name} = "..." }}'
    if command in _SHELLS_OWN:
        return 'it is a shell\'s own; write ["sh", "-c", "..."]'
    return "install it, write its whole path, or set PATH in environment"
