"""The command ``highlanderd``: checks, examines, prints, or becomes the daemon.

To become the daemon it checks the configuration, takes the state directory's lock, starts the embedded server if one
is configured, forks the first worker, and executes the guardian in its own place. Where no spare is to be had, the
guardian executes this command again, with ``--worker``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import gc
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from highlanderd import __version__
from highlanderd.errors import DONE, FAILED, ConfigurationError, HighlanderError, one_line, printable
from highlanderd.run import arguments as run
from highlanderd.system import ownership

if TYPE_CHECKING:
    from highlanderd.config import Configuration, DaemonSection, Loaded

DEFAULT_FILE: Final = Path("/etc/highlander.toml")
IN_THE_WAY: Final = "remove what stands there and is no directory, or name another one"
CURES: Final = {
    errno.ENOSPC: "make room on its file system",
    errno.EDQUOT: "raise the quota, or make room",
    errno.EEXIST: IN_THE_WAY,
    errno.ENOTDIR: IN_THE_WAY,
    errno.EROFS: "mount its file system writable, or name another directory",
}
"""What helps against what a directory is refused with."""
EMBEDDED_WITHIN: Final = 60.0
"""Seconds for the embedded server to start: initdb on a slow disk, or recovery after a crash."""


def main() -> None:
    """Run the command and exit with its code."""
    gc.disable()  # imports make no garbage to speak of, and looking for it takes a tenth of the time that they take
    arguments = _arguments()
    try:
        code = _run(arguments)
        sys.stdout.flush()
        sys.exit(code)
    except ConfigurationError as error:
        print(printable(str(error)), file=sys.stderr)  # each line begins with its file
        sys.exit(error.exit_code)
    except HighlanderError as error:
        print(printable(f"highlanderd: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # | head, > /dev/full
        if not _only_prints(arguments) or error.filename is not None:
            raise
        if not isinstance(error, BrokenPipeError):
            print(f"highlanderd: cannot write the output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="highlanderd",
        description="Run programs exactly once in a cluster: PostgreSQL decides which node leads each of them.",
        epilog="Exit codes: 0 done, 1 failed, 2 usage, 78 configuration invalid.",
    )
    parser.add_argument("-c", "--config", type=Path, default=DEFAULT_FILE, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--version", action="version", version=f"highlanderd {__version__}")
    parser.add_argument("--worker", type=int, metavar="FD", help=argparse.SUPPRESS)
    parser.add_argument("--handover", type=int, metavar="FD", help=argparse.SUPPRESS)
    modes = parser.add_mutually_exclusive_group()
    said = "check the configuration, report every problem or else the bounds that it implies, and exit"
    modes.add_argument("--check", action="store_true", help=said)
    said = "with --check: print the merged configuration, where each value is written, and no secret"
    parser.add_argument("--print", action="store_true", help=said)
    said = "check PostgreSQL without changing anything, report problems, and exit"
    modes.add_argument("--doctor", action="store_true", help=said)
    modes.add_argument("--print-schema", action="store_true", help="print the SQL that creates the ledger and exit")
    said = "with --print-schema: print only what migrates a ledger from this version of the schema"
    parser.add_argument("--from", dest="version", type=int, metavar="N", help=said)
    said = "print a JSON Schema of the configuration, for editors, and exit"
    modes.add_argument("--print-json-schema", action="store_true", help=said)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    said = "print what a supervisord.conf says as a configuration of this daemon; what has no equal becomes a comment"
    importing = commands.add_parser("import", help=said, description=said)
    importing.add_argument("file", type=Path, metavar="FILE", help="the supervisord.conf; its [include] is followed")
    run.describe(commands.add_parser("run", help=run.SUMMARY, description=run.SUMMARY, epilog=run.EPILOG))
    return parser


def _arguments() -> argparse.Namespace:
    """Return the command line. Exits with code 2 when it makes no sense, before any file is read."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.print and not arguments.check:
        parser.error("--print belongs to --check")
    if arguments.version is not None:
        from highlanderd.postgres.sql.dialect import VERSION

        if not arguments.print_schema:
            parser.error("--from belongs to --print-schema")
        if not 0 < arguments.version < VERSION:
            listed = ", ".join(map(str, range(1, VERSION)))
            parser.error(f"--from {arguments.version}: there is a way to schema {VERSION} from {listed} only")
    return arguments


def _only_prints(arguments: argparse.Namespace) -> bool:
    """Return whether nothing is started: what fails is the output then."""
    modes = arguments.check, arguments.doctor, arguments.print_schema, arguments.print_json_schema
    return any(modes) or arguments.command == "import"


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "import":
        from highlanderd.supervisord import imported

        print(imported(arguments.file), end="")
        return DONE
    if arguments.command == "run":
        return _serve_run(arguments) if arguments.serve is not None else _run_once(arguments)
    path: Path = arguments.config
    if arguments.worker is not None:
        return _work(path, arguments.worker)
    if arguments.check:
        return _check(path, arguments.print) if arguments.handover is None else _rehearse(path, arguments.handover)
    if arguments.print_json_schema:
        from highlanderd.config import json_schema

        print(json_schema.text(), end="")
        return DONE
    from highlanderd.config import load
    from highlanderd.guardian.spare import installed

    code = installed()
    loaded = load(path, os.environ)
    if arguments.print_schema:
        print(_schema(loaded.configuration, arguments.version), end="")
        return DONE
    if arguments.doctor:
        return _examine(loaded)
    for note in (*loaded.warnings, *loaded.findings, *_shared_account(loaded.configuration)):
        print(one_line(f"warning: {note}"), file=sys.stderr)
    return _guard(path, loaded.configuration, code)


def _run_once(arguments: argparse.Namespace) -> int:
    """Run one command where it leads; return its exit code."""
    from highlanderd.run import front
    from highlanderd.run.command import refusal, unstarted

    words = run.command_of(arguments)
    name, dsn = run.name_of(arguments, words), run.dsn_of(arguments, os.environ)
    if refused := refusal(words[0], os.environ):
        print(printable(f"highlanderd: {refused}"), file=sys.stderr)
        return unstarted(words[0], os.environ)
    return front.run(name, dsn, words, arguments)


def _serve_run(arguments: argparse.Namespace) -> int:
    """Be the worker of a run."""
    import asyncio

    from highlanderd.output.writer import Writer

    try:
        from highlanderd.run.worker import serve
    except ImportError as error:  # no worker will ever start, and the caller waits
        return _give_up(arguments.worker, error)
    gc.freeze()
    gc.enable()
    writer = Writer(2)
    try:
        return asyncio.run(serve(arguments.serve, arguments.worker, writer))
    finally:
        writer.close()


def _give_up(channel_fd: int, error: ImportError) -> int:
    """Have the guardian of a run end. Its keeper, if there is one, goes by its deadline."""
    from highlanderd.guardian import protocol
    from highlanderd.guardian.channel import Channel
    from highlanderd.run.command import LOST

    why = " ".join(str(error).split())
    print(printable(f"highlanderd: it cannot start, for want of a library: {why}; install that"), file=sys.stderr)
    Channel.of(channel_fd).send(protocol.done(LOST))
    return LOST


def _check(path: Path, merged: bool) -> int:
    """Print every problem of the configuration and of this machine; print the bounds of a valid one, or all of it."""
    from highlanderd.config import check
    from highlanderd.config.bounds import bounds
    from highlanderd.config.needs import need

    judgement = check(path, os.environ)
    configuration = judgement.configuration
    for warning in (*judgement.warnings, *_shared_account(configuration)):
        print(one_line(f"warning: {warning}"), file=sys.stderr)
    if merged:
        print(judgement.merged(), end="")
    problems = (*judgement.problems, *_embedded_lacks(path, configuration))
    if problems or configuration is None:
        raise ConfigurationError(problems)
    if merged:
        return DONE
    programs = ", ".join(configuration.programs) or "none"
    print(f"{path}: valid; node {configuration.daemon.node}, programs: {programs}")
    print(*bounds(configuration), *need(configuration.programs), sep="\n")
    return DONE


def _rehearse(path: Path, handover_fd: int) -> int:
    """Load all that the next worker would load; print warnings, but none of what it would do then."""
    from highlanderd.worker.daemon import rehearse

    for note in rehearse(path, handover_fd):
        print(f"warning: {note}", file=sys.stderr)
    return DONE


def _embedded_lacks(path: Path, configuration: Configuration | None) -> Iterator[str]:
    """Yield what keeps the embedded server from starting, if the configuration wants one."""
    if configuration is None or configuration.embedded_directory is None:
        return
    from highlanderd.embedded.installation import installed, pick

    try:
        pick(installed(), None)
    except HighlanderError as error:
        yield f"{path}: postgres.dsn: {error}"


def _shared_account(configuration: Configuration | None) -> Iterator[str]:
    """Yield a warning if a program runs as the account that the embedded server runs as: its superuser."""
    directory = None if configuration is None else configuration.embedded_directory
    if configuration is None or directory is None:
        return
    from highlanderd.config import identity
    from highlanderd.embedded.account import shared

    users: dict[str, int | None] = {}
    for name, program in configuration.programs.items():
        with contextlib.suppress(HighlanderError):  # it is reported already
            users[name] = identity(program).uid
    if warning := shared(directory, users):
        yield warning


def _examine(loaded: Loaded) -> int:
    """Print what the doctor finds; fail when one of its findings is a problem."""
    import asyncio

    from highlanderd.doctor import Finding, Severity, examine, report

    whom, found = asyncio.run(examine(loaded.configuration))
    noted = [Finding(Severity.WARNING, note) for note in (*loaded.warnings, *loaded.findings)]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    print(*map(one_line, (whom, *report([*found, *noted], width))), sep="\n")
    return FAILED if any(finding.severity is Severity.PROBLEM for finding in found) else DONE


def _schema(configuration: Configuration, version: int | None) -> str:
    from highlanderd.postgres.addresses import parse
    from highlanderd.postgres.ledger import Ledger

    postgres = configuration.postgres
    ledger = Ledger(postgres.schema_, configuration.daemon.namespace, postgres.lease)
    if version is not None:
        return f"BEGIN;\n\n{ledger.printed(version)}\nCOMMIT;\n"
    embedded = configuration.embedded_directory is not None
    role = None if embedded else parse(postgres.dsn.get_secret_value()).get("user")
    grants = (
        f"\n-- What the daemon's role needs when another role owns the ledger.\n{ledger.grants(role)}" if role else ""
    )
    return f"BEGIN;\n\n{ledger.script()}{grants}\nCOMMIT;\n"


def _work(path: Path, channel_fd: int) -> int:
    """Be a worker that the guardian has executed."""
    from highlanderd.guardian.spare import DESCRIPTOR
    from highlanderd.worker.daemon import work
    from highlanderd.worker.spare import with_spare

    gc.freeze()
    spare_fd = os.environ.pop(DESCRIPTOR, None)  # a guardian of an earlier version gives none
    if spare_fd is not None:
        channel_fd = with_spare(channel_fd, int(spare_fd))
    return work(path, channel_fd)


def _guard(path: Path, configuration: Configuration, code: int | None) -> int:
    """Fork the first worker and become the guardian, which must never load what a worker loads.

    Returns in the worker. ``code`` is the installed code's number from before the first import. Raises HighlanderError
    when this host or the state directory does not allow it.
    """
    from highlanderd.worker.daemon import work
    from highlanderd.worker.spare import forked_ahead

    daemon = configuration.daemon
    _refuse_living(configuration.control.socket)
    os.umask(os.umask(0o777) | 0o022)  # whatever the umask of the process that started this one
    _make("state_dir", daemon.state_dir)
    lock = _locked(daemon.state_dir)
    _make("run_dir", daemon.run_dir)
    _refuse_foreign("control.socket", configuration.control.socket.parent, shared=True)
    _mark(configuration.control.socket)
    _start_embedded(configuration)
    gc.freeze()
    channel_fd, spare = forked_ahead(code)
    if channel_fd is None:
        _become_guardian(lock, daemon, spare)
    return work(path, channel_fd)


def _become_guardian(lock: int, daemon: DaemonSection, spare: tuple[str, ...]) -> NoReturn:
    """Execute the guardian in place of this process."""
    from highlanderd.worker.spare import own_command

    guardian = Path(__file__).parent / "guardian" / "guardian.py"
    isolated = "-ISB" if sys.dont_write_bytecode else "-IS"
    command = [sys.executable, isolated, str(guardian), "--lock-fd", str(lock)]
    command += ["--state", str(daemon.state_dir), "--node", daemon.node, *spare, "--", *own_command()]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


def _refuse_living(path: Path) -> None:
    """Refuse to start when a living daemon answers on the control socket, before anything is touched."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise HighlanderError(f"a running daemon already answers on {path}; stop it, or give this one its own run_dir")


def _mark(path: Path) -> None:
    """Take the lock that says that a daemon lives. The guardian inherits it, and needs to know nothing of it."""
    try:
        os.set_inheritable(ownership.take(str(path)), True)
    except BlockingIOError:
        raise HighlanderError(
            f"a running daemon already owns {path}; stop it, or give this one its own run_dir"
        ) from None
    except OSError:
        return  # the worker says what is wrong with the socket's directory, and leads without it


def _locked(state_dir: Path) -> int:
    """Lock the state directory for as long as the guardian lives; return the descriptor, which it inherits."""
    with _usable("state_dir", state_dir):
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HighlanderError(
            f"another daemon already uses daemon.state_dir {state_dir}; give each daemon of a host its own"
        ) from None
    os.set_inheritable(lock, True)
    return lock


def _make(key: str, directory: Path) -> None:
    """Make one of the daemon's directories; refuse one that others may write to."""
    with _usable(key, directory):
        directory.mkdir(parents=True, exist_ok=True)
    _refuse_foreign(f"daemon.{key}", directory)


def _refuse_foreign(key: str, directory: Path, *, shared: bool = False) -> None:
    """Refuse a directory that others may write to, before anything is written there."""
    from highlanderd.config.trust import directory_problem

    if problem := directory_problem(directory, shared=shared):
        raise HighlanderError(f"cannot use {key}: {problem}")


@contextlib.contextmanager
def _usable(key: str, directory: Path) -> Iterator[None]:
    """Turn an OSError about one of the daemon's directories into a sentence with the cure."""
    try:
        yield
    except OSError as error:
        cure = CURES.get(error.errno or 0, "create it for this user, or name another one")
        raise HighlanderError(f"cannot use daemon.{key} {directory}: {error.strerror}; {cure}") from error


def _start_embedded(configuration: Configuration) -> None:
    """Start the embedded server before this process becomes the guardian, which must not have it for a child."""
    directory = configuration.embedded_directory
    if directory is None:
        return
    from highlanderd.embedded.server import start

    print(f"embedded PostgreSQL in {directory}: for trying things out, never for production", file=sys.stderr)
    start(directory, EMBEDDED_WITHIN)


if __name__ == "__main__":
    main()
