"""The command that was typed: it stands where its caller expects the program, and ends as the program does.

It starts a guardian, passes signals on to it, and ends with its exit code. With a terminal, the program is in this very
process group: what is typed, Ctrl-C and Ctrl-Z reach it at first hand, and only what somebody has sent to this process
alone is passed on. The guardian and its other processes are in groups of their own, so that Ctrl-Z stops the program,
and its lease goes on. Without a terminal the program has a session of its own.

If this process is killed, the worker sees it and drains; if the worker is gone as well, the keeper's deadline comes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from highlanderd.errors import printable
from highlanderd.run.command import LOST, SIGNALLED
from highlanderd.run.order import CONFIGURATION, RUNNING, RunOrder
from highlanderd.system import linux

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

PASSED_ON: Final = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
)
SI_KERNEL: Final = 0x80
"""The origin of a signal that the terminal has sent, to its whole foreground group."""
OF_THE_SERVICE: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""They are the program's: it speaks to the service manager, and our own processes do not."""


def run(name: str, dsn: str, command: list[str], arguments: argparse.Namespace) -> int:
    """Run the command where it leads; return its exit code."""
    home = _home(os.environ)
    try:
        _write(home, name, dsn, command, arguments)
        waited = PASSED_ON - {number for number in PASSED_ON if signal.getsignal(number) is signal.SIG_IGN}
        signal.pthread_sigmask(signal.SIG_BLOCK, {*waited, signal.SIGCHLD})
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        linux.become_subreaper()
        code, interrupted = _attend(_start(home, dsn), home, waited)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if interrupted and code == SIGNALLED + signal.SIGINT:
        _die_of_interrupt()
    return code


def _home(environ: Mapping[str, str]) -> Path:
    """Make the directory of this run, which nobody else may enter."""
    for place in (environ.get("XDG_RUNTIME_DIR"), None):
        try:
            return Path(tempfile.mkdtemp(prefix="highlanderd-run-", dir=place))
        except OSError:
            if place is None:
                raise
    raise AssertionError  # the last place has answered or raised


def _write(home: Path, name: str, dsn: str, command: list[str], arguments: argparse.Namespace) -> None:
    """Write the configuration of a daemon with one program, and what a file cannot say."""
    where = f"file:{Path(dsn[5:]).absolute()}".replace("$", "$$") if dsn.startswith("file:") else "${HIGHLANDER_DSN}"
    text = {text: json.dumps(text, ensure_ascii=False) for text in (_node(), str(home), where)}
    os.umask(umask := os.umask(0o077))
    (home / CONFIGURATION).write_text(
        f"[daemon]\nnode = {text[_node()]}\nstate_dir = {text[str(home)]}\n[postgres]\ndsn = {text[where]}\n"
        '[control]\nremote = false\n[metrics]\nlisten = ""\n[log]\nlevel = "warning"\n'
        f'[program."{name}"]\ncommand = "true"\n',
        encoding="utf-8",
        errors="surrogateescape",
    )
    RunOrder(
        front=os.getpid(),
        name=name,
        command=command,
        environment=dict(os.environ),
        umask=umask,
        group=_group(),
        ignored=[int(number) for number in PASSED_ON if signal.getsignal(number) is signal.SIG_IGN],
        since=linux.boottime(),
        wait=arguments.wait,
        every=arguments.every,
    ).write(home)


def _node() -> str:
    """Return a name that no daemon has: several runs, and a daemon, may be on one host."""
    suffix = f".run-{os.getpid()}"
    host = re.sub("[^A-Za-z0-9_.-]", "-", socket.gethostname()).lstrip(".-")
    return f"{host[: 63 - len(suffix)] or 'host'}{suffix}"


def _group() -> int | None:
    """Return our process group if a terminal controls it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return None
    return os.getpgrp() or None  # 0 is a group of another PID namespace


def _start(home: Path, dsn: str) -> int:
    """Start the guardian in a process group of its own; return its pid."""
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    guardian = Path(__file__).parents[1] / "guardian" / "guardian.py"
    isolated = "-ISB" if sys.dont_write_bytecode else "-IS"
    own = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    command = [sys.executable, isolated, str(guardian), "--lock-fd", str(lock), "--state", str(home), "--node", _node()]
    command += ["--front", str(os.getpid()), "--", sys.executable, *own, "run", "--serve", str(home)]
    environ = {name: value for name, value in os.environ.items() if name not in OF_THE_SERVICE}
    pid = os.posix_spawn(sys.executable, command, {**environ, "HIGHLANDER_DSN": dsn}, setpgroup=0)
    os.close(lock)
    return pid


def _attend(guardian: int, home: Path, waited: frozenset[signal.Signals]) -> tuple[int, bool]:
    """Pass signals on until the guardian has ended; return the exit code, and whether Ctrl-C came."""
    interrupted = False
    while True:
        info = signal.sigwaitinfo({*waited, signal.SIGCHLD})
        if info.si_signo == signal.SIGCHLD:
            code = _reap(guardian)
            if code is not None:
                return code, interrupted
            continue
        typed = info.si_code == SI_KERNEL
        interrupted = interrupted or (typed and info.si_signo == signal.SIGINT)
        if not (typed and (home / RUNNING).exists()):  # what is typed has reached the program at first hand
            os.kill(guardian, info.si_signo)


def _reap(guardian: int) -> int | None:
    """Take in who has ended, as PID 1 of a container has to; return the exit code once it is known."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return None
        if pid == guardian:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else _bury()


def _bury() -> int:
    """Wait for what a guardian has left that was killed: its worker drains, and ends with the program."""
    print(printable("highlanderd: its guardian was killed; the program is being stopped"), file=sys.stderr)
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return LOST


def _die_of_interrupt() -> None:
    """Die as the program did: a shell ends its script only if it sees that Ctrl-C was obeyed."""
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
