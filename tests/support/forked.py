"""Commands of ours in processes that need not import anything: they are forked by one that has imported all of it.

An exec of Python and the imports take most of the time of hundreds of short commands and daemons. Each is a process of
its own nevertheless, with its own environment and descriptors, and a daemon executes its guardian as always.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMANDS = {"highlanderd": "highlanderd.__main__", "highlanderd.ctl": "highlanderd.ctl"}
"""The module with ``main``, by what ``python -m`` executes."""
CLONE_NEWNET = 0x40000000
WRITTEN = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(
    [
        *COMMANDS.values(),
        "highlanderd.command_line",
        "highlanderd.ctl.command_line",
        "highlanderd.ctl.direct",
        "highlanderd.doctor",
        "highlanderd.listeners.control",
        "highlanderd.listeners.health",
        "highlanderd.worker.daemon",
        __name__,
    ]
)


ELSEWHERE = ("nsenter", "--net=")
"""What may go before a command: it is to run in the network namespace of this file."""
OTHER_CODE = frozenset({"PYTHONPATH", "LD_PRELOAD"})


def forkable(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether it is one of ours, run by the interpreter of the tests, and no variable changes what is loaded."""
    words = _without_place(command)
    ours = len(words) > 2 and words[:2] == [sys.executable, "-m"] and words[2] in COMMANDS
    return ours and not OTHER_CODE & environment.keys()


def _without_place(command: Sequence[str]) -> list[str]:
    placed = len(command) > 1 and command[0] == ELSEWHERE[0] and command[1].startswith(ELSEWHERE[1])
    return [*command[2 if placed else 0 :]]


class Forked:
    """One such process; of ``subprocess.Popen`` it has what tests use."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], out: Path, err: Path, session: bool = False
    ) -> None:
        self.args = [*command]
        given = (self.args, dict(environment), str(out), str(err), session)
        self._process = _fork.Process(target=_run, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that has ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return ``returncode``. Raises subprocess.TimeoutExpired after ``timeout`` seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def kill(self) -> None:
        self._process.kill()


def _run(command: list[str], environment: dict[str, str], out: str, err: str, session: bool) -> None:
    """Become what an exec of the command would be."""
    if session:
        os.setsid()
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, WRITTEN), (2, err, WRITTEN)):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    words = _without_place(command)
    if words != command:
        _enter(command[1].removeprefix(ELSEWHERE[1]))
    os.environ.clear()
    os.environ.update(environment)
    sys.orig_argv, sys.argv = words, words[2:]
    sys.exit(importlib.import_module(COMMANDS[words[2]]).main())


def _enter(namespace: str) -> None:
    place = os.open(namespace, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(place, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")
    os.close(place)
