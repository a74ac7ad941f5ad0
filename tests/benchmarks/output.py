"""How fast a child's output reaches a file: through a logger, and through ``cat`` and supervisord in the same run.

A child writes without pause: blocks, lines in blocks, and lines in a write(2) each, which takes a C compiler. What
stands in the file then is counted; where a logger makes lines longer, what the child has written. All ways take turns,
and medians of several short rounds are printed. The files are in memory where there is ``/dev/shm``: a disk would be
what is measured. A logger's memory is what no other process shares with it. supervisord is fetched from PyPI if it can
be.

The figures of one run compare with each other only. On a busy machine those by CPU time compare better: sessions share
processors as groups (sched(7), autogroup), and a logger is a session of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tests.support.loggers import logger_process
from tests.support.nodes import settled_ledger
from tests.support.processes import children, name_of, node_at
from tests.support.wait import wait_for

from . import supervisors
from .bed import daemons, program, server
from .processes import below, cpu, name, private_kilobytes, written
from .results import OURS, lacking, note

ROUNDS = 3
SECONDS = 0.8
LEASE = 10.0
MEMORY = Path("/dev/shm")
BLOCKS = ["dd", "if=/dev/zero", "bs=64k", "status=none"]
LINES = ["yes", "a line of some forty characters, as logs go"]
LINE_BY_LINE = Path(__file__).with_name("line_by_line.c")
Rates = tuple[float, float]
"""MB/s by the clock, and by the CPU time of what writes the file."""
COSTS: dict[str, list[float]] = {"logger, KiB of its own": [], "worker, % of a CPU": []}
"""What each round through a whole daemon's logger has cost beside the logger's CPU time."""


def measure(path: Path, *writers: int, source: int | None = None) -> Rates:
    """Return the rates into ``path`` from its first byte on: by the clock, and by the CPU time that ``writers`` use.

    Counted is what stands there, or what a process has written that is the ``source`` of longer lines.
    """

    def size() -> float:
        return (path.stat().st_size if source is None else written(source)) / 1e6

    while not path.exists() or not path.stat().st_size:
        time.sleep(0.01)
    begun, used, before = time.monotonic(), cpu(writers), size()
    time.sleep(SECONDS)
    moved = size() - before
    used = max(cpu(writers) - used, 0.01)
    return moved / (time.monotonic() - begun), moved / used


def logger(home: Path, command: list[str]) -> Rates:
    """Return the rates through a logger of a whole daemon."""
    path = home / "log"
    with node_at(home) as node:
        node.spawn(*command, log={"files": {"stdout": str(path)}})
        node.expect("Started")
        [pid] = wait_for(lambda: [one for one in children(node.pid) if name_of(one).startswith("log ")], what="logger")
        before = cpu([node.worker])
        rates = measure(path, pid)
        COSTS["logger, KiB of its own"].append(private_kilobytes(pid))
        COSTS["worker, % of a CPU"].append(100 * (cpu([node.worker]) - before) / SECONDS)
        return rates


def shaped(order: dict[str, Any], home: Path, command: list[str]) -> Rates:
    """Return the rates through a logger that puts something before each line."""
    path = home / "log"
    with path.open("ab") as file, logger_process((file.fileno(), 2), **{"files": {"stdout": path}, **order}) as one:
        source = subprocess.Popen(command, stdout=one.writes["stdout"], start_new_session=True)
        try:
            longer = order.get("overflow") != "drop"  # what is dropped is written, too
            return measure(path, one.pid, source=source.pid if longer else None)
        finally:
            source.kill()
            source.wait()


def whole_daemon(home: Path, command: list[str]) -> Rates:
    """Return the rates through a daemon, by the CPU time of all its processes: an earlier one's worker wrote itself."""
    path = home / "log"
    home.chmod(0o755)
    with server() as cluster, daemons() as nodes:
        database = cluster.database()
        settled_ledger(database, LEASE)
        text = program("p", command, stdout=str(path), log_max_bytes=0)
        [node] = nodes(database, "a", programs=text, lease=LEASE, log="error")
        wait_for(path.exists, what="the child writes")
        return measure(path, *(pid for pid in below(node.guardian) if name(pid) != Path(command[0]).name))


def cat(home: Path, command: list[str]) -> Rates:
    """Return the rates through ``cat``."""
    path = home / "log"
    with path.open("wb") as file:
        source = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        drain = subprocess.Popen(["cat"], stdin=source.stdout, stdout=file, start_new_session=True)
        try:
            return measure(path, drain.pid)
        finally:
            for process in (source, drain):
                process.kill()
                process.wait()


def supervisord(home: Path, command: list[str]) -> Rates:
    """Return the rates through supervisord; its own start is not counted."""
    path = home / "log"
    with supervisors.supervisord(home, command, log=str(path)) as found:
        if found is None:
            raise OSError("it could not be fetched from PyPI")
        return measure(path, found.process.pid)


WAYS: dict[str, Callable[[Path, list[str]], Rates]] = {
    "logger": logger,
    "cat": cat,
    "supervisord": supervisord,
    "logger, drop": partial(shaped, {"overflow": "drop"}),
    "logger, prefix": partial(shaped, {"inherit": ["stdout"], "files": {}}),
    "logger, stamps": partial(shaped, {"timestamps": True}),
    "logger, JSON": partial(shaped, {"format": "json"}),
}


def kinds(home: str) -> dict[str, list[str]]:
    """Return the commands that write, by what they write."""
    found = {"blocks of 64 KiB": BLOCKS, "lines in blocks": LINES}
    if shutil.which("cc"):
        program = f"{home}/line_by_line"
        subprocess.run(["cc", "-O2", "-o", program, str(LINE_BY_LINE)], check=True)
        found["line by line"] = [program]
    return found


def _ours(name: str) -> str:
    return {"logger": OURS}.get(name, f"{OURS}: {name}" if name.startswith("logger") else name)


def main() -> None:
    """Print a row for each kind of output and each way to a file."""
    found: dict[tuple[str, str], list[Rates]] = {}
    with tempfile.TemporaryDirectory(prefix="hl-output-") as programs:
        for _, (kind, command), name in product(range(ROUNDS), kinds(programs).items(), WAYS):
            with tempfile.TemporaryDirectory(prefix="hl-output-", dir=MEMORY if MEMORY.is_dir() else None) as home:
                try:
                    found.setdefault((kind, name), []).append(WAYS[name](Path(home), command))
                except (OSError, subprocess.SubprocessError) as error:
                    lacking("output", name, str(error))
    for (kind, name), rates in sorted(found.items()):
        clock, used = zip(*rates, strict=True)
        note("output", f"{kind}, by the clock", _ours(name), clock, "MB/s")
        note("output", f"{kind}, by CPU", _ours(name), used, "MB in a second of its CPU")
    for what, costed in COSTS.items():
        note("output", what, OURS, costed, "")


if __name__ == "__main__":
    main()
