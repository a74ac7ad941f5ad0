"""One real logger without guardian and child: a test writes into its pipes, and reads where that went."""

from __future__ import annotations

import marshal
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from highlanderd.guardian import log_report
from highlanderd.guardian.channel import Message
from highlanderd.guardian.start import PIPE_SIZE
from highlanderd.system import linux
from tests.support.deaths import gone
from tests.support.processes import PATIENCE
from tests.support.wait import wait_for

ORDER: dict[str, Any] = {"files": {}, "inherit": [], "max_bytes": 0, "backups": 0}
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
LOGGER = Path(__file__).parents[1] / "children" / "lone_logger.py"


class LoggerProcess:
    """A logger, and the ends of its pipes that are not its own.

    ``daemon`` are what it has as the daemon's standard output and error.
    """

    def __init__(self, order: dict[str, Any], daemon: tuple[int, int] | None = None, **spec: Any) -> None:
        order = {**ORDER, **order}
        order["files"] = {name: os.fsencode(path) for name, path in order["files"].items()}
        who = {"program": "beat", "lock_id": 7, "epoch": 3, "uid": None, "gid": None, "groups": None}
        self.spec = {**who, **spec, "log": order}
        self.report_fd = log_report.memory()
        self.daemon = daemon
        self.reads: dict[str, int] = {}
        self.writes: dict[str, int] = {}
        for name in [*order["files"], *order["inherit"]]:
            self.reads[name], self.writes[name] = os.pipe()
            linux.enlarge_pipe(self.writes[name], PIPE_SIZE)
        self.start()

    def start(self, *, again: bool = False) -> None:
        """Start the logger: the first one, or another one after that."""
        arguments = marshal.dumps((self.spec, self.reads, self.report_fd, again)).hex()
        out, err = self.daemon or (None, None)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # as in the guardian: none comes too early
        self.process = subprocess.Popen(
            [sys.executable, str(LOGGER), arguments],
            pass_fds=[*self.reads.values(), self.report_fd],
            stdout=out,
            stderr=err,
        )
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self.pid = self.process.pid

    def write(self, data: bytes, stream: str = "stdout") -> None:
        """Write as the child does: this waits while the pipe is full."""
        while data:
            data = data[os.write(self.writes[stream], data) :]

    def send(self, signum: int) -> None:
        """Send a signal, as the guardian does."""
        os.kill(self.pid, signum)

    def order(self, **changes: Any) -> None:
        """Have it go by another order."""
        self.spec["log"] = {**self.spec["log"], **changes}
        log_report.give_order(self.report_fd, self.spec["log"])
        self.send(signal.SIGHUP)

    def report(self) -> Message:
        """Return its latest report."""
        return log_report.read(self.report_fd) or log_report.NOTHING

    def end(self) -> int:
        """Close the child's ends, wait until all is written, and return its exit code."""
        for fd in self.writes.values():
            os.close(fd)
        self.writes = {}
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it, and let go of everything."""
        self.process.kill()
        self.wait()
        for fd in (*self.reads.values(), *self.writes.values(), self.report_fd):
            os.close(fd)


@contextmanager
def logger_process(daemon: tuple[int, int] | None = None, **order: Any) -> Iterator[LoggerProcess]:
    """Return a logger with this order; ``spec`` are facts of its child."""
    logger = LoggerProcess(order, daemon, **order.pop("spec", {}))
    try:
        yield logger
    finally:
        logger.close()


def logged(data: bytes, path: Path, **order: Any) -> None:
    """Have a logger bring ``data`` into a file, and wait for its end."""
    with logger_process(files={"stdout": path}, **order) as logger:
        logger.write(data)
        assert logger.end() == 0


def packers(logger: int) -> list[int]:
    """Return the pids of the processes that compress for a logger."""
    found = Path(f"/proc/{logger}/task/{logger}/children").read_text().split()
    return [int(pid) for pid in found if not gone(int(pid))]


def packed(path: Path) -> None:
    """Wait until a backup is compressed, and the backup itself is gone."""
    wait_for(lambda: path.with_name(f"{path.name}.gz").exists() and not path.exists(), what=f"{path} is compressed")
