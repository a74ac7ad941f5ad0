"""The command line of ``highlanderctl``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, cast

from highlanderd import __version__
from highlanderd.api import DEFAULT_TIMEOUT, LONGEST_REASON
from highlanderd.command_parser import CommandParser
from highlanderd.ctl import terminal
from highlanderd.ctl.ahead import DEFAULT_SOCKET, default_socket
from highlanderd.ctl.argument_values import duration, naming, outage, signal_name
from highlanderd.ctl.question_arguments import add_questions
from highlanderd.ctl.words import WORDS

FORMATS: Final = ("table", "json", "tsv")
ASKS_DAEMON: Final = (
    "{} is for cluster, explain, events, history and wait (--config also for config); this command asks a node's daemon"
)
UNKNOWN_WIDTH: Final = 80
"""Columns of help where there is no terminal."""


class _Help(argparse.HelpFormatter):
    """As wide as the terminal. argparse itself would import ``shutil`` for that, and with it all compressions."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=(terminal.size()[0] or UNKNOWN_WIDTH) - 2)


class _Parser(CommandParser):
    """Takes ``-60s`` for a value, as argparse does ``-60``: then the refusal can say what is wrong with it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False, formatter_class=_Help)
        # argparse has no public setting for this; a test sees when the attribute goes.
        self._negative_number_matcher = re.compile(r"-\d")

    def not_taken(self, words: Sequence[str]) -> str:
        """Return what to say of words that are left over."""
        option = next((found[0] for word in words if (found := re.match("--(?:dsn|config)(?![^=])", word))), None)
        return super().not_taken(words) if option is None else ASKS_DAEMON.format(option)

    def unknown(self, word: str) -> str:
        """Return what to say of a word of another tool, or the nearest command."""
        return f": {WORDS[word]}" if word in WORDS else super().unknown(word)


class _NotTyped:
    """Stands for the parser of a command that was not typed, so that its arguments need not be made."""

    def __getattr__(self, name: str) -> Callable[..., _NotTyped]:
        return lambda *_, **__: self


def parser(typed: Collection[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line; usage errors leave with exit code 2.

    With the words that were ``typed`` it knows the arguments of no other commands than these may name: to make all of
    them takes a tenth of a client's start.
    """
    top = _Parser(
        prog="highlanderctl",
        description="Ask the highlanderd of this machine, or pass it an order.",
        epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not leading here, 4 no such program or node, 5 daemon not "
        "reachable, 6 permission denied, 7 timed out, 78 configuration invalid, 130 Ctrl-C.",
        parents=[_shared(default_socket(), "table")],
    )
    top.add_argument("--version", action="version", version=f"highlanderctl {__version__}")
    _Commands(top, typed).add_all()
    return top


def _shared(socket: str, output: str) -> _Parser:
    """Return the options that may stand before the command or after it, with their defaults for one place."""
    options = _Parser(add_help=False)
    options.add_argument(
        "--socket",
        metavar="PATH",
        default=socket,
        help=f"the daemon's control socket (default: $HIGHLANDER_SOCKET, or {DEFAULT_SOCKET})",
    )
    options.add_argument(
        "-o",
        "--output",
        metavar="FORMAT",
        choices=FORMATS,
        default=output,
        help="table, json, or tsv: the table's cells between tabs (default: table)",
    )
    options.add_argument(
        "--json", dest="output", action="store_const", const="json", default=output, help="the same as -o json"
    )
    return options


class _Commands:
    def __init__(self, top: _Parser, typed: Collection[str] | None) -> None:
        self._typed, self._needed = typed, True
        made = cast("type[_Parser]", self._parser)  # argparse does no more than call it
        self._sub = top.add_subparsers(
            dest="command", metavar="COMMAND", required=True, prog="highlanderctl", parser_class=made
        )
        top.commands = self._sub.choices
        # What stands before the command holds, unless another one follows
        self._shared = _shared(argparse.SUPPRESS, argparse.SUPPRESS)

    def _parser(self, **settings: Any) -> _Parser | _NotTyped:
        return _Parser(**settings) if self._needed else _NotTyped()

    def _add(self, name: str, text: str, *aliases: str) -> argparse.ArgumentParser:
        self._needed = self._typed is None or not {name, *aliases}.isdisjoint(self._typed)
        command = self._sub.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            aliases=aliases,
            parents=[self._shared],
        )
        command.set_defaults(command=name)
        return command

    def add_all(self) -> None:
        add_questions(self._add)
        self._release()
        self._orders()
        self._drains()
        self._whole_node()

    def _release(self) -> None:
        release = self._add("release", "stop programs where they are led, and let another node lead")
        naming(release)
        release.add_argument("--to", metavar="NODE", help="reserve them for this node, for a minute at most")
        release.add_argument(
            "--for",
            dest="stay_out",
            type=duration,
            metavar="DURATION",
            help="keep the releasing node from leading for so long, unless another one has led before (default: 30s)",
        )
        release.add_argument(
            "--force", action="store_true", help="even if no other node, or not that node, could lead them now"
        )
        release.add_argument("--on", metavar="NODE", help="only what this node leads")
        self._reason(release)
        self._waiting(release)

    def _orders(self) -> None:
        start = self._add("start", "let programs run on this node; done once each is ready here, or led elsewhere")
        stop = self._add("stop", "stop programs on this node and keep it from leading them")
        restart = self._add("restart", "give programs a new process, each on the node that leads it")
        sent = self._add("signal", "send a signal to the main processes of programs, on the nodes that lead them")
        sent.add_argument(
            "signal", metavar="SIG", type=signal_name, help="its name or number, such as HUP, SIGUSR1, RTMIN+1 or 10"
        )
        for command in (start, stop, restart, sent):
            naming(command)
        sent.add_argument("--tree", action="store_true", help="to all processes of each program")
        for command, everywhere in (
            (start, "on all nodes: lift stop --everywhere"),
            (stop, "on all nodes, until start --everywhere"),
        ):
            where = command.add_mutually_exclusive_group()
            where.add_argument("--everywhere", action="store_true", help=everywhere)
            where.add_argument("--on", metavar="NODE", help="on this node instead, through PostgreSQL")
        for command in (restart, sent):
            command.add_argument("--on", metavar="NODE", help="only what this node leads")
        stop.add_argument("--force", action="store_true", help="even if no other node could lead them now")
        for command in (start, stop, restart, sent):
            self._reason(command)
            self._waiting(command)

    def _drains(self) -> None:
        drain = self._add("drain", "release all programs of nodes and keep these from leading until resumed", "cordon")
        resume = self._add("resume", "let drained nodes lead again", "uncordon")
        for command in (drain, resume):
            command.add_argument("nodes", nargs="*", metavar="NODE", help="nodes, also absent ones (default: this one)")
            self._reason(command, "every node shows it")
            self._waiting(command)
        drain.add_argument(
            "--force", action="store_true", help="even if no other node could take over now, or no such node was seen"
        )

    @staticmethod
    def _reason(command: argparse.ArgumentParser, where: str = "status and history show it") -> None:
        command.add_argument(
            "--reason",
            default="",
            metavar="TEXT",
            help=f"why: {where}; one line of printable text, {LONGEST_REASON} characters at most",
        )

    @staticmethod
    def _forced(command: argparse.ArgumentParser) -> None:
        """Add what a longer lease may need."""
        command.add_argument(
            "--force",
            action="store_true",
            help="do it even if a standby may lack it: a failover to that standby could start second copies",
        )

    @staticmethod
    def _waiting(command: argparse.ArgumentParser, what: str = "it is done", *, usual: bool = True) -> None:
        command.add_argument(
            "--wait",
            action=argparse.BooleanOptionalAction,
            default=usual,
            help=f"wait until {what} (default: {'wait' if usual else 'do not wait'})",
        )
        command.add_argument(
            "--timeout",
            type=duration,
            default=DEFAULT_TIMEOUT,
            metavar="DURATION",
            help=f"wait for so long at most (default: {DEFAULT_TIMEOUT:g}s)",
        )

    def _whole_node(self) -> None:
        reopen = self._add("reopen", "open log files anew, after another program has moved them")
        reopen.add_argument("names", nargs="*", metavar="NAME", help="programs; globs such as 'web-*'; default: all")
        reload = self._add("reload", "apply the changed configuration, program by program", "update")
        reload.add_argument("--quiet", action="store_true", help="print nothing that the daemon logs: for ExecReload")
        reload.add_argument("--dry-run", action="store_true", help="only print what would be done")
        reload.add_argument(
            "--force", action="store_true", help="do it even if it drains what cannot be started here again"
        )
        self._reason(reload)
        self._waiting(reload, "what was changed or added runs", usual=False)
        renew = self._add("renew", "replace the worker by one of the installed code; children run on")
        renew.add_argument(
            "--force",
            action="store_true",
            help='do it even if on_connection_loss = "stop" stops children then, or leases may end before it is done',
        )
        self._waiting(renew)
        self._add("reread", "the same as reload --dry-run").set_defaults(
            command="reload", dry_run=True, force=False, quiet=False, reason="", wait=False
        )
        self._ledger()
        self._maintenance()
        shutdown = self._add("shutdown", "release all programs of this node and end its daemon")
        self._reason(shutdown)
        self._waiting(shutdown, "it has ended")

    def _ledger(self) -> None:
        ledger = self._add("ledger", "show or change the ledger, which PostgreSQL keeps")
        actions = ledger.add_subparsers(
            dest="action", metavar="{show,set-lease,migrate}", required=True, prog="highlanderctl ledger"
        )
        self._action(actions, "show", "show its facts")
        lease = self._action(actions, "set-lease", "change the lease while programs run; done once all leaders use it")
        lease.add_argument("lease", type=duration, metavar="DURATION", help="such as 15s; 2s to 60s")
        self._forced(lease)
        self._action(actions, "migrate", "bring its schema to this daemon's version, which it does by itself")
        self._reason(lease, "the events show it")
        self._waiting(lease)

    def _maintenance(self) -> None:
        maintenance = self._add("maintenance", "prepare for an outage of PostgreSQL, so that it stops no child")
        actions = maintenance.add_subparsers(
            dest="action", metavar="{on,off}", required=True, prog="highlanderctl maintenance"
        )
        begin = self._action(
            actions, "on", "use longer leases, before PostgreSQL goes away; done once all leaders use them"
        )
        begin.add_argument(
            "--for",
            dest="outage",
            type=outage,
            metavar="DURATION",
            required=True,
            help="the longest outage to bear, 24h at most; maintenance ends by itself after the same time",
        )
        self._reason(begin, "every node's status shows it")
        self._forced(begin)
        end = self._action(actions, "off", "go back to the ledger's lease; done once all leaders use it")
        self._reason(end, "the events show it")
        for command in (begin, end):
            self._waiting(command)

    def _action(
        self, actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
    ) -> argparse.ArgumentParser:
        """Return a new command below a command."""
        return actions.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            parents=[self._shared],
        )
