"""Check what takes more than one key: two programs with one lock, and durations that contradict each other.

Warnings are about what is allowed and probably not meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from highlanderd.config.configuration import Configuration
from highlanderd.config.dsn import options
from highlanderd.config.expansion import WrittenText
from highlanderd.config.probes import ExecCheck, Notify, Probe
from highlanderd.config.problems import Location, Problems
from highlanderd.config.program import HOOKS, ProgramConfig
from highlanderd.config.reading import Table
from highlanderd.config.values import quoted
from highlanderd.durations import shown
from highlanderd.errors import enumerated

RESTART_OF_A_WORKER: Final = 0.7
"""Seconds until the successor of a frozen worker leads on. With a lease shorter than five of them, children die."""

_SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "busybox"})
_OF_SUPERVISORD: Final = re.compile(
    r"%\((program_name|group_name|process_num|numprocs|host_node_name|here|ENV_\w+)\)[0-9]*[sd]"
)
_OF_A_SHELL: Final = re.compile(r"(?<!\$)\$([A-Za-z_][A-Za-z0-9_]*)")
_SHELL: Final = frozenset({"&&", "||", "|", "&", ";", ">", ">>", "<", "2>&1", "2>", "&>"})


class WrittenProgram(Struct, frozen=True):
    """A program, and where it is written."""

    program: ProgramConfig
    table: Table
    location: Location

    def at(self, key: str) -> Location:
        """Return the location of a key: in its own table, in ``[defaults]``, or the table that does without it."""
        return self.table[key].location if key in self.table else self.location


def check_locks(namespace: str, programs: Iterable[WrittenProgram], report: Problems) -> None:
    """Report each program whose lock id another one has already."""
    owners: dict[int, WrittenProgram] = {}
    for written in programs:
        number = written.program.lock_id(namespace)
        owner = owners.setdefault(number, written)
        if owner is not written:
            report.add(
                written.at("lock_key"),
                f"gives program {written.program.name} the lock id {number}, which program {owner.program.name} "
                f"({owner.at('lock_key')}) has already; give one of them another lock_key",
            )


def check_clocks(written: WrittenProgram, report: Problems) -> None:
    """Report durations of a program that contradict each other."""
    program = written.program
    if program.backoff > program.backoff_max:
        key = "backoff_max" if "backoff_max" in written.table else "backoff"
        report.add(
            written.at(key),
            f'makes backoff_max ("{shown(program.backoff_max)}") of program {program.name} shorter than backoff '
            f'("{shown(program.backoff)}"); raise backoff_max or lower backoff',
        )


def check_placement(written: WrittenProgram, report: Problems) -> None:
    """Report nodes that are to lead a program, and never to run it."""
    for node in sorted({*written.program.prefer} & {*written.program.never}):
        report.add(written.at("never"), f"names {quoted(node)}, which prefer names as well; remove it from one of them")


def check_order(programs: Mapping[str, WrittenProgram], report: Problems) -> None:
    """Report what starts after a program that is not there, or in the end after itself."""
    for name, written in programs.items():
        for other in written.program.after:
            if other not in programs:
                report.add(
                    written.at("after"), f"names {quoted(other)}, which is no program here; define it, or remove it"
                )
        if (circle := _circle(name, programs)) and name == min(circle):
            way = " after ".join(quoted(one) for one in (*circle, name))
            report.add(written.at("after"), f"makes a circle: {way}; none of them could ever start: remove one")


def _circle(name: str, programs: Mapping[str, WrittenProgram]) -> tuple[str, ...]:
    """Return the programs of a circle in which this one is, itself first; empty when there is none."""
    ways: list[tuple[str, ...]] = [(name,)]
    seen = {name}
    while ways:
        way = ways.pop()
        for other in programs[way[-1]].program.after:
            if other == name:
                return way
            if other in programs and other not in seen:
                seen.add(other)
                ways.append((*way, other))
    return ()


def check_schedule(written: WrittenProgram, report: Problems) -> None:
    """Report what would start a scheduled run again and again, or end it in its middle."""
    program = written.program
    if program.schedule is not None and program.restart == "always":
        report.add(
            written.at("restart"),
            f'would start program {program.name} again at once, which has a schedule; write restart = "never", or '
            '"on-failure" to repeat a run that has failed',
        )
    if program.schedule is not None and program.failback is not None:
        report.add(
            written.at("failback"),
            f'would end a run of program {program.name}, which has a schedule, in its middle; write failback = "never"',
        )


def warn_of_schedule(written: WrittenProgram, warnings: Problems) -> None:
    """Warn of what is said about a schedule where there is none."""
    for key in ("timezone", "catch_up"):
        if key in written.table and written.program.schedule is None:
            warnings.add(written.at(key), "has no effect without schedule; write that, or remove it")


def warn_of_failback(written: WrittenProgram, warnings: Problems) -> None:
    """Warn of a time to give a program back where no node is preferred."""
    if "failback" in written.table and written.program.failback is not None and not written.program.prefer:
        warnings.add(written.at("failback"), "has no effect without prefer; name the nodes that it is given back to")


def warn_of_watchdog(written: WrittenProgram, warnings: Problems) -> None:
    """Warn of a watchdog's time where there is no watchdog."""
    if "alive_timeout" in written.table and not isinstance(written.program.alive, Notify):
        warnings.add(written.at("alive_timeout"), 'has no effect without alive = "notify"; write that, or remove it')


def warn_of_threshold(written: WrittenProgram, warnings: Problems) -> None:
    """Warn of a number of failures where one good answer decides."""
    found = written.table.get("ready")
    if found is not None and isinstance(found.value, Mapping) and "threshold" in found.value:
        warnings.add(
            found.location, "has a threshold, which has no effect: one good answer is enough; write it in alive"
        )


def warn_of_shell(written: WrittenProgram, warnings: Problems) -> None:
    """Warn of each command that was written for a shell."""
    for key, command in _commands(written.program).items():
        meant = next((word for word in command if word in _SHELL), None)
        if meant is not None:
            warnings.add(
                written.at(key),
                f'hands {quoted(meant)} to the program as it is, for no shell runs this; write ["sh", "-c", "..."] '
                "where a shell is meant",
            )


def _commands(program: ProgramConfig) -> dict[str, tuple[str, ...]]:
    """Return the words of each command that the program is given, by key."""
    probes = {key: getattr(program, key) for key in ("ready", "alive")}
    asked = {
        key: one.check.argv
        for key, one in probes.items()
        if isinstance(one, Probe) and isinstance(one.check, ExecCheck)
    }
    hooks = {key: getattr(program, key) or () for key in HOOKS}
    return {"command": program.command, **hooks, **asked}


def warn_of_files(written: WrittenProgram, warnings: Problems) -> None:
    """Warn of what is said about log files where there are none."""
    if {written.program.stdout, written.program.stderr} <= {"inherit", "null"}:
        for key in ("log_max_bytes", "log_backups", "log_compress"):
            if key in written.table:
                warnings.add(
                    written.at(key), "has no effect without a log file; give stdout or stderr a path, or remove it"
                )


def warn_of_shared_files(programs: Iterable[WrittenProgram], warnings: Problems) -> None:
    """Warn of each log file that several programs write to, and rotate behind one another's back."""
    writers: dict[str, dict[str, tuple[WrittenProgram, str]]] = {}
    for written in programs:
        for key in ("stdout", "stderr"):
            file = getattr(written.program, key)
            if file not in ("inherit", "null"):
                writers.setdefault(file, {}).setdefault(written.program.name, (written, key))
    for file, found in writers.items():
        (first, key), *others = found.values()
        if others and any(one.program.log_max_bytes for one, _ in found.values()):
            warnings.add(
                first.at(key),
                f"{file} is a file of {enumerated(list(found))}, and what one of them rotates costs lines of the "
                "others; give each its own, or set log_max_bytes = 0 and leave the rotation to logrotate",
            )


def warn_of_expansions(written: WrittenProgram, environ: Mapping[str, str], warnings: Problems) -> None:
    """Warn of what supervisord or a shell would expand, in any string of a program."""
    program = written.program
    of_shells = {key for key, words in _commands(program).items() if words and Path(words[0]).name in _SHELLS}
    for key, found in written.table.items():
        for raw in () if key in ("argv", "name") else _strings(found.value):
            for name in _OF_SUPERVISORD.findall(raw):
                warnings.add(
                    found.location, f"%({name})s is supervisord's, and stays as it is; {_instead(name, program)}"
                )
            for name in () if key in of_shells else _OF_A_SHELL.findall(raw):
                if key != "environment" or name in environ:  # a secret may hold a dollar, and is not quoted
                    warnings.add(
                        found.location,
                        f"${name} stays as it is, for no shell reads it; write ${{{name}}}, or $${name} where the "
                        f"program itself shall see ${name}",
                    )


def _strings(value: object) -> Iterator[str]:
    """Yield each string of a value as it was written."""
    if isinstance(value, str):
        yield value.raw if isinstance(value, WrittenText) else value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)


def _instead(name: str, program: ProgramConfig) -> str:
    if name.startswith("ENV_"):
        return f"write ${{{name.removeprefix('ENV_')}}}"
    words = {"program_name": program.name, "group_name": program.name, "process_num": "0", "numprocs": "1"}
    if name in words:
        return f"write {words[name]}"
    return "a relative path starts at its file" if name == "here" else "write ${HOSTNAME}, and set that for the daemon"


def warn_of_postgres(configuration: Configuration, table: Table, location: Location, warnings: Problems) -> None:
    """Warn of a short lease, and of several hosts without ``target_session_attrs``."""
    postgres = configuration.postgres
    if postgres.lease < 5 * RESTART_OF_A_WORKER:
        warnings.add(
            table["lease"].location,
            f'"{shown(postgres.lease)}" is too short to save the children of a frozen worker process; '
            f'write at least "{shown(5 * RESTART_OF_A_WORKER)}"',
        )
    if configuration.embedded_directory is not None:
        return
    said = options(postgres.dsn.get_secret_value())
    if "," in said.get("host", said.get("hostaddr", "")) and "target_session_attrs" not in said:
        warnings.add(
            location / "dsn",
            "names several hosts, and libpq takes the first that answers, even a standby, which is refused; "
            "add target_session_attrs=read-write",
        )


def warn_of_names(configuration: Configuration, node: Location, program: Location, warnings: Problems) -> None:
    """Warn of a node that is called ``localhost``, and of a daemon with nothing to run."""
    if configuration.daemon.node in ("localhost", "localhost.localdomain"):
        warnings.add(node, f'is "{configuration.daemon.node}", as on any other host; give each node a name of its own')
    if not configuration.programs:
        warnings.add(program, "there is no program to run; add [program.NAME] with a command")
