"""The tutorial's claim: whoever types it from top to bottom sees what it shows."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.deaths import gone, marked
from tests.support.nodes import PACKAGE
from tests.support.ports import reserved_port
from tests.support.postgres import Cluster, Database, passable_directory, throwaway_place
from tests.support.sessions import Typed, alike, blocks, typed
from tests.support.wait import wait_for

PAGE = "tutorial/first-failover.md"
WITHIN = 120.0
"""Seconds for what a reader waits for: a lease and some, on a busy machine."""
BACKOFF = 'backoff = "10s"\n'
"""Longer than the page has it, to be seen on a busy machine, too."""
OUR_PGREP = """#!{python} -IS
import os, re, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        told, command = (open(f"/proc/{{pid}}/{{name}}", "rb").read() for name in ("environ", "cmdline"))
    except OSError:
        continue
    ours = b"{place}" in told and int(pid) != os.getpid()
    if ours and re.search(sys.argv[-1].encode(), command.replace(b"\\0", b" ")):
        print(pid)
"""
"""pgrep finds the daemons of everybody on this machine, and the page kills what it finds."""


class Reader:
    """Types what the page says, in a directory of its own: each terminal is a process that writes into a file."""

    def __init__(self, place: Path) -> None:
        self.place, self.environment = place, {"PATH": f"{place}/bin:/usr/bin:/bin", "PYTHONPATH": str(PACKAGE)}
        self._terminals: list[subprocess.Popen[bytes]] = []
        (place / "bin").mkdir()
        for name, module in (("highlanderd", "highlanderd"), ("highlanderctl", "highlanderd.ctl")):
            self._install(name, f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        self._install("pgrep", OUR_PGREP.format(python=sys.executable, place=place))

    def _install(self, name: str, script: str) -> None:
        (self.place / "bin" / name).write_text(script)
        (self.place / "bin" / name).chmod(0o755)

    def enter(self, command: str) -> list[str]:
        """Type a command, and return what it prints once it has ended."""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.environment[name] = value
            return []
        done = subprocess.run(
            ["bash"],  # reads it, and does not bear it in its own command line, where a pgrep would find it
            input=f"{command}\n".encode(),
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.stdout.decode().splitlines()

    def start(self, node: str) -> None:
        """Start a daemon in a terminal of its own."""
        with self.log(node).open("ab") as log:
            self._terminals.append(
                subprocess.Popen(
                    ["highlanderd", "-c", f"{node}.toml"], cwd=self.place, env=self.environment, stdout=log, stderr=log
                )
            )

    def log(self, node: str) -> Path:
        return self.place / f"{node}.log"

    def interrupt(self) -> None:
        """Type Ctrl-C in each terminal."""
        for terminal in self._terminals:
            terminal.send_signal(signal.SIGINT)
        for terminal in self._terminals:
            terminal.wait(WITHIN)
        self._terminals.clear()

    def close(self) -> None:
        """Leave nothing behind."""
        for pid in marked(self.place):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for terminal in self._terminals:
            terminal.wait(WITHIN)
        wait_for(lambda: all(map(gone, marked(self.place))), WITHIN, "nothing is left")


@pytest.fixture
def reader() -> Iterator[Reader]:
    with passable_directory(throwaway_place()) as place:
        reader = Reader(place)
        try:
            yield reader
        finally:
            reader.close()


def same(shown: Sequence[str], lines: Sequence[str]) -> bool:
    """Return whether a table shows the same, whether or not its process is still there."""
    return alike(*([re.sub(r"(?<= )(-|\d+)(?= )", "7", line) for line in each] for each in (shown, lines)))


def seen(reader: Reader, step: Typed) -> None:
    """Look until a status is what the page shows."""
    others: list[list[str]] = []

    def shown() -> bool:
        lines = reader.enter(step.command)
        others.extend([lines] if lines not in others[-1:] else [])
        return same(step.shown, lines)

    try:
        wait_for(shown, WITHIN)
    except AssertionError:
        raise AssertionError(f"{step.command} never shows {step.shown}, but {others}") from None


def logged(reader: Reader, node: str, *lines: str) -> bool:
    """Return whether a node has logged these lines in this order, perhaps with others in between."""
    shown = [word for line in lines for word in (_anywhere(line.replace("/tmp/try", str(reader.place))), "...")]
    return alike(["...", *shown], [_anywhere(line) for line in reader.log(node).read_text().splitlines()])


def _anywhere(line: str) -> str:
    """Return a line without the address and the version of a server."""
    return re.sub(r"postgres \S+: connected, version .*", "postgres: connected", line)


def excerpts() -> list[list[str]]:
    """Return what the page shows of logs: the blocks that begin with a time or a daemon's name, without typed lines."""
    found = [block.splitlines() for block in blocks(PAGE) if re.match(r"\d{4}-|highlanderd on|\d\d:", block)]
    return [[line for line in lines if "kill -9" not in line] for lines in found]


@pytest.mark.long
def test_the_tutorial_shows_what_its_reader_sees(reader: Reader, cluster: Cluster) -> None:
    ports = {written: str(reserved_port()) for written in ("9841", "9842")}
    steps = iter(_elsewhere(step, ports) for step in typed(PAGE))
    for _ in range(4):
        assert re.match(r"mkdir|python3 -m venv|venv/bin/pip|export PATH", next(steps).command)
    configuration = blocks(PAGE, "toml")[0].replace("9841", ports["9841"])
    (reader.place / "a.toml").write_text(configuration + BACKOFF)
    _begin(reader, steps)
    _fail(reader, steps)
    reader.interrupt()
    for _ in range(2):  # that reader has a checkout
        assert "conf.d/second.toml" in next(steps).command
    _move(reader, steps, cluster)
    _take_away(reader, steps, cluster)
    shutdown = next(steps)
    assert alike(shutdown.shown, reader.enter(shutdown.command))
    assert list(steps) == []
    assert [lines for lines in excerpts() if not any(logged(reader, node, *lines) for node in ("a", "b"))] == []


def _elsewhere(step: Typed, ports: Mapping[str, str]) -> Typed:
    command = step.command
    for written, ours in ports.items():
        command = command.replace(written, ours)
    return Typed(step.node, command, step.shown)


def _begin(reader: Reader, steps: Iterator[Typed]) -> None:
    """Type what starts two nodes."""
    check, start = next(steps), next(steps)
    assert alike(check.shown, reader.enter(check.command))
    reader.start("a")
    wait_for(lambda: logged(reader, "a", *start.shown), WITHIN, "a leads as the page shows")
    sed, second = next(steps), next(steps)
    assert reader.enter(sed.command) == []
    assert second.command == "highlanderd -c b.toml"
    reader.start("b")
    for _ in range(2):
        seen(reader, next(steps))


def _fail(reader: Reader, steps: Iterator[Typed]) -> None:
    """Type what befalls the program, one node and a worker."""
    reader.enter(next(steps).command)  # the program crashes
    seen(reader, next(steps))
    wait_for(lambda: _state(reader, "a") == "waiting", WITHIN, "a contends again")
    release = next(steps)
    lines = reader.enter(release.command)
    assert alike(release.shown, lines), lines
    seen(reader, next(steps))
    wait_for(lambda: _state(reader, "a") == "leading", WITHIN, "a leads again")
    reader.enter(next(steps).command)  # pull the plug
    wait_for(lambda: _state(reader, "b") == "leading", WITHIN, "b leads after the lease")
    reader.start("a")
    wait_for(lambda: _state(reader, "a") == "waiting", WITHIN, "a is there again")
    find, kill = next(steps), next(steps)
    [worker] = reader.enter(find.command)
    assert re.fullmatch(r"kill -9 \d+", kill.command)
    reader.enter(f"kill -9 {worker}")
    seen(reader, next(steps))


def _move(reader: Reader, steps: Iterator[Typed], cluster: Cluster) -> None:
    """Type what makes both nodes use the reader's own server."""
    for statement in shlex.split(next(steps).command)[4::2]:
        cluster.sql(statement)
    dsn = blocks(PAGE, "toml")[1].strip().replace("127.0.0.1/", f"127.0.0.1:{cluster.port}/")
    for file in (reader.place / "a.toml", reader.place / "b.toml"):
        file.write_text(re.sub(r"(?m)^dsn = .*$", dsn, file.read_text()))
    check = next(steps)
    assert alike(check.shown, reader.enter(check.command))
    reader.enter(next(steps).command)  # export
    reader.start("a")
    seen(reader, next(steps))
    wait_for(lambda: _state(reader, "a") == "leading", WITHIN, "a leads")
    reader.start("b")
    wait_for(lambda: _state(reader, "b") == "waiting", WITHIN, "b is there, too")


def _take_away(reader: Reader, steps: Iterator[Typed], cluster: Cluster) -> None:
    """Restart that server, and stop it for longer."""
    assert next(steps).command == "pg_ctl restart -m fast"
    cluster.restart()
    seen(reader, next(steps))
    outage = next(steps)
    stop, _, status = outage.command.split("; ")
    assert stop == "pg_ctl stop -m fast"
    cluster.stop()
    seen(reader, Typed("", status, outage.shown))
    assert next(steps).command == "pg_ctl start"
    cluster.start()
    wait_for(lambda: "leading" in (_state(reader, "a"), _state(reader, "b")), WITHIN, "the next term has begun")
    shown = [[cell.strip() for cell in line.split("|")] for line in next(steps).shown if "fenced" in line]
    ended = "SELECT epoch::text, node, reason FROM highlander.term WHERE reason IS NOT NULL"
    assert [[row[0], row[1], row[-1]] for row in shown] == [
        [*row] for row in Database(cluster, "ops", "highlander").sql(ended, admin=True)
    ]


def _state(reader: Reader, node: str) -> str:
    """Return where the program is on a node."""
    found = re.search(
        r"^counter +(\w+)", "\n".join(reader.enter(f"highlanderctl --socket {node}/control.sock status")), re.M
    )
    return found[1] if found else ""
