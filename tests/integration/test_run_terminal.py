"""``highlanderd run`` at a terminal: what is typed there reaches the program as if it had been started directly."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.deaths import proc_file
from tests.support.runs import PATIENCE, Runs
from tests.support.wait import wait_for

COUNTING = """
import signal, sys, os
count = []
def heard(*_):
    count.append(1)
    print("interrupted", flush=True)
signal.signal(signal.SIGINT, heard)
print("ready", flush=True)
for line in sys.stdin:
    print(line.strip(), len(count), flush=True)
sys.exit(6)
"""


class Terminal:
    """A terminal with one command in its foreground, in a session of its own."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self.ours, self._theirs = pty.openpty()
        self.process: subprocess.Popen[bytes] | None = None
        self.seen = b""

    def run(self, *words: str) -> subprocess.Popen[bytes]:
        """Start ``highlanderd run`` there."""
        command = ["setsid", "--ctty", sys.executable, "-m", "highlanderd", "run", *words]
        made = subprocess.Popen(
            command,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=self._runs.environment(),
            cwd=self._runs.directory,
        )
        os.close(self._theirs)
        os.set_blocking(self.ours, False)
        self.process = made
        return made

    def type(self, text: bytes) -> None:
        """Type."""
        os.write(self.ours, text)

    def shows(self, text: bytes) -> None:
        """Wait until this has been shown."""

        def shown() -> bool:
            with suppress(OSError):  # nothing new, or the other end is closed
                self.seen += os.read(self.ours, 65536)
            return text in self.seen

        wait_for(shown, PATIENCE, f"the terminal shows {text!r}")


@pytest.fixture
def terminal(runs: Runs) -> Iterator[Terminal]:
    """A terminal."""
    made = Terminal(runs)
    yield made
    runs.end()
    if made.process is not None:
        made.process.wait(PATIENCE)
    os.close(made.ours)


def state(pid: int) -> bytes:
    return proc_file(f"/proc/{pid}/stat").rpartition(b") ")[2][:1]


def test_a_typed_interrupt_reaches_the_program_once(terminal: Terminal) -> None:
    run = terminal.run("--", sys.executable, "-c", COUNTING)
    terminal.shows(b"ready")
    terminal.type(b"\x03")
    terminal.shows(b"interrupted")
    terminal.type(b"one\n")
    terminal.shows(b"one 1")
    terminal.type(b"\x04")
    assert run.wait(PATIENCE) == 6


def test_an_interrupt_that_ends_the_program_ends_the_command_by_the_same_signal(terminal: Terminal) -> None:
    run = terminal.run("--", "sh", "-c", "echo ready; exec sleep 600")
    terminal.shows(b"ready")
    terminal.type(b"\x03")
    assert run.wait(PATIENCE) == -signal.SIGINT  # so a shell that runs a script ends it


def test_a_typed_interrupt_ends_the_wait(terminal: Terminal, runs: Runs) -> None:
    runs.leading()
    run = terminal.run("--name", "beat", "--", "touch", "ran")
    wait_for(lambda: proc_file(f"/proc/{run.pid}/task/{run.pid}/children"), PATIENCE, "it has a guardian")
    terminal.type(b"\x03")
    assert run.wait(PATIENCE) == -signal.SIGINT
    assert not (runs.directory / "ran").exists()


def test_the_program_has_the_terminal(terminal: Terminal) -> None:
    run = terminal.run("--", "sh", "-c", "test -t 0 && test -t 1 && read line </dev/tty && echo got $line")
    terminal.type(b"this\n")
    terminal.shows(b"got this")
    assert run.wait(PATIENCE) == 0


def test_a_typed_stop_stops_the_program_and_not_its_lease(terminal: Terminal, runs: Runs) -> None:
    run = terminal.run("--name", "beat", "--", "sh", "-c", "echo ready $$; read line; echo $line")
    terminal.shows(b"\r\n")
    terminal.shows(b"ready ")
    program = int(terminal.seen.split()[1])
    terminal.type(b"\x1a")
    wait_for(lambda: state(run.pid) == state(program) == b"T", PATIENCE, "both are stopped, as the shell expects")
    assert runs("-w", "14", "--name", "beat", "--", "true").ended()[0] == 75  # longer than a lease
    os.kill(program, signal.SIGCONT)
    os.killpg(run.pid, signal.SIGCONT)
    terminal.type(b"goes on\n")
    terminal.shows(b"\r\ngoes on\r\n")
    assert run.wait(PATIENCE) == 0
