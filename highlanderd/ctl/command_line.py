"""One command line from its words to its exit code, whatever goes wrong in between."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from highlanderd import __version__
from highlanderd.ctl.ahead import Ahead
from highlanderd.ctl.arguments import parser
from highlanderd.ctl.client import ControlClient
from highlanderd.ctl.commands import COMMANDS
from highlanderd.ctl.exchange import Exchange
from highlanderd.errors import FAILED, INTERRUPTED, DaemonUnreachable, HighlanderError, one_line

WITHOUT_DAEMON: Final = "; or ask PostgreSQL itself with --dsn or --config"
"""The cure that the commands have which take these options."""


def run(words: Sequence[str], ahead: Ahead | None = None) -> int:
    """Run one command; return its exit code. ``ahead`` is what was asked already."""
    arguments = parser(words).parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a child's output may hold what this terminal cannot show
    try:
        send = Exchange if ahead is None else ahead.send
        client = ControlClient(arguments.socket, as_text=arguments.output != "json", send=send)
        code = COMMANDS[arguments.command](client, arguments)
        sys.stdout.flush()
    except HighlanderError as error:
        direct = isinstance(error, DaemonUnreachable) and hasattr(arguments, "dsn")
        print(f"highlanderctl: {error}{WITHOUT_DAEMON if direct else ''}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if hasattr(arguments, "wait"):
            print("highlanderctl: waits no longer; what was ordered stands", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # | head
        return _unwritten()
    except OSError as error:  # > /dev/full
        print(f"highlanderctl: cannot write the output: {error.strerror}", file=sys.stderr)
        return _unwritten()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        print(f"highlanderctl: {_unexpected(error)}", file=sys.stderr)
        return FAILED
    return code


def _unexpected(error: Exception) -> str:
    """Return what to say of an answer that lacks something, or has something else in its place."""
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    file = place.filename.rpartition("/")[2]
    return (
        f"cannot use what was answered: {type(error).__name__}: {one_line(str(error)):.200} (line {place.lineno} of "
        f"{file}); a daemon of another release answers, or no highlanderd. If it is of release {__version__}, please "
        "report this bug"
    )


def _unwritten() -> int:
    """Throw away what could not be written, so that nothing complains of it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
