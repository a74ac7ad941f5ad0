"""The command ``highlanderd``: checks, examines, prints, runs one command, or becomes the daemon or its worker.

What only one of them needs is imported there: a worker may have to start while leases run.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from highlanderd import __version__, descriptors
from highlanderd.command_parser import CommandParser
from highlanderd.errors import DONE, FAILED, ConfigurationError, HighlanderError, lacking, one_line, printable
from highlanderd.run import arguments as run

if TYPE_CHECKING:
    from highlanderd.config import Configuration, Loaded

DEFAULT_FILE: Final = Path("/etc/highlander.toml")


def main() -> None:
    """Run the command and exit with its code."""
    descriptors.fill()
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
    except OSError as error:  # | head, > /dev/full
        if not _only_prints(arguments) or error.filename is not None:
            raise
        if not isinstance(error, BrokenPipeError):
            print(f"highlanderd: cannot write the output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="highlanderd",
        description="Run programs exactly once in a cluster: PostgreSQL decides which node leads each of them.",
        epilog="Exit codes: 0 done, 1 failed, 2 usage, 78 configuration invalid, 130 Ctrl-C.",
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
    parser.commands = commands.choices
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
    """Return whether nothing is started: what fails is the output then. A rehearsal may become a worker."""
    modes = arguments.check, arguments.doctor, arguments.print_schema, arguments.print_json_schema
    return (any(modes) and arguments.handover is None) or arguments.command == "import"


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
    return _run_configured(path, arguments)


def _run_configured(path: Path, arguments: argparse.Namespace) -> int:
    """Do what needs a valid configuration: print the schema, examine, or become the daemon."""
    from highlanderd.guardian.spare import installed

    code = installed()  # before what a worker needs is imported
    from highlanderd.config import load

    loaded = load(path, os.environ)
    if arguments.print_schema:
        print(_schema(loaded.configuration, arguments.version), end="")
        return DONE
    if arguments.doctor:
        return _examine(loaded)
    for note in (*loaded.warnings, *loaded.findings, *_shared_account(loaded.configuration)):
        print(one_line(f"warning: {note}"), file=sys.stderr)
    from highlanderd.worker.startup import become_daemon

    return become_daemon(path, loaded, code)


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
    from highlanderd.guardian import messages
    from highlanderd.guardian.channel import Channel
    from highlanderd.run.command import LOST

    print(printable(f"highlanderd: {lacking(error)}"), file=sys.stderr)
    Channel.of(channel_fd).send(messages.done(LOST))
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
    """Load all that the next worker would load, print warnings, and become it if the present worker wants that."""
    from highlanderd.guardian.spare import DESCRIPTOR
    from highlanderd.worker.spare import executed_ahead, load_while_wanted

    place = os.environ.pop(DESCRIPTOR, None)
    if place is not None:
        load_while_wanted(place, handover_fd)
    from highlanderd.worker.daemon import rehearse, work

    in_force, warnings = rehearse(path, handover_fd)
    for note in warnings:
        print(f"warning: {note}", file=sys.stderr)
    os.close(handover_fd)
    return DONE if place is None else work(path, executed_ahead(place), in_force)


def _embedded_lacks(path: Path, configuration: Configuration | None) -> Iterator[str]:
    """Yield what keeps the embedded server from starting, if the configuration wants one."""
    if configuration is None or configuration.embedded_directory is None:
        return
    from highlanderd.embedded.account import refusal
    from highlanderd.embedded.installation import installed, pick

    try:
        pick(installed(), None)
    except HighlanderError as error:
        yield f"{path}: postgres.dsn: {error}"
    if refused := refusal(configuration.embedded_directory.resolve()):
        yield f"{path}: postgres.dsn: {refused}"


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
