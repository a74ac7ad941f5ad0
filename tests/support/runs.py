"""``highlanderd run`` as users type it: real commands on one ledger, each a node of its own, and one journal.

Whatever a test leaves is killed in the end, and the journal is asked whether any two lives overlapped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.deaths import gone, marked, proc_file
from tests.support.journal import CHILD, Journal
from tests.support.nodes import NO_CERTIFICATES, PACKAGE, settled_ledger
from tests.support.postgres import Database, passable_directory, throwaway_place
from tests.support.wait import wait_for

PATIENCE = 60.0
"""Seconds for what takes one on an idle machine."""
LEASE = 10.0
"""Seconds: a worker that is killed has a successor on a busy machine before that is over."""


class Run:
    """One command, perhaps ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        """The command that was typed."""
        return self.process.pid

    def below(self, word: bytes) -> list[int]:
        """Return the processes below it with this word in their command."""
        pids, found = [self.pid], []
        for pid in pids:
            pids += map(int, proc_file(f"/proc/{pid}/task/{pid}/children").split())
            found += [pid] if pid != self.pid and word in proc_file(f"/proc/{pid}/cmdline") else []
        return found

    @property
    def worker(self) -> int:
        """The present worker."""
        return wait_for(lambda: next(iter(self.below(b"--worker")), 0), PATIENCE, "it has a worker")

    def ended(self, given: str | None = None) -> tuple[int, str, str]:
        """Wait for its end; return its exit code, and what it has written."""
        out, err = self.process.communicate(given, PATIENCE)
        return self.process.returncode, out, err


class Runs:
    """The commands of one test."""

    def __init__(self, directory: Path, dsn: str) -> None:
        self.directory, self.dsn = directory, dsn
        self.journal = Journal(directory / "journal")
        self._made: list[subprocess.Popen[str]] = []

    def environment(self, **more: str) -> dict[str, str]:
        """Return what a command is started with; it marks whatever descends from it."""
        ours = {"PYTHONPATH": str(PACKAGE), "SSL_CERT_FILE": NO_CERTIFICATES, "TMPDIR": str(self.directory)}
        ours |= {"HIGHLANDER_DSN": self.dsn, "JOURNAL": str(self.journal.path)}
        return {**os.environ, **ours, **more}

    def __call__(self, *words: str, before: tuple[str, ...] = (), **more: str) -> Run:
        """Start ``highlanderd run`` with these words; ``before`` go before the command."""
        return self.start((*before, sys.executable, "-m", "highlanderd", "run", *words), **more)

    def start(self, command: Sequence[str], **more: str) -> Run:
        """Start any command, under the same rules."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**more),
            cwd=self.directory,
            start_new_session=True,
        )
        self._made.append(process)
        return Run(process)

    def leading(self, *words: str) -> Run:
        """Start one whose program keeps the journal, and wait until that runs."""
        before = len(self.journal.lives())
        run = self("--name", "beat", *words, "--", *CHILD)
        wait_for(lambda: len(self.journal.lives()) > before, PATIENCE, "its program runs")
        return run

    def end(self) -> None:
        """Kill everything."""
        while pids := [pid for pid in marked(self.directory) if not gone(pid)]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)  # the kernel needs a moment
        for process in self._made:
            process.communicate()


@pytest.fixture
def runs(database: Database) -> Iterator[Runs]:
    """Commands: ``runs("--name", "x", "--", "true")``."""
    settled_ledger(database, LEASE)
    with passable_directory(throwaway_place()) as directory:
        made = Runs(directory, database.dsn)
        try:
            yield made
            assert not made.journal.doubles()
        finally:
            made.end()
