"""Run the demo: on a terminal as a live picture, else line by line. It ends after ``--rounds``, or at Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from highlanderd.system.linux import boottime

from . import screen
from .cluster import LEASE, PROGRAMS, Cluster
from .mischief import KINDS, PATIENCE, Cost, Scene, perform, summed, whole
from .witness import Witness

DRAW_EVERY = 0.1
"""Seconds between two pictures, and between two looks at the journal."""


class Stage:
    """What is seen, and the waiting during which it is drawn."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.witness = cluster, Witness(cluster.journal)
        self.live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self.style = screen.Style(colour=self.live and not os.environ.get("NO_COLOR"), unicode=unicode)
        self.show = screen.Show(began=boottime(), now=boottime())

    @contextlib.contextmanager
    def lit(self) -> Iterator[None]:
        """Use the terminal's other screen, so that what was on it comes back."""
        if self.live:
            print("\x1b[?1049h\x1b[?25l", end="", flush=True)
        try:
            yield
        finally:
            if self.live:
                print("\x1b[?25h\x1b[?1049l", end="", flush=True)

    def until(self, fact: Callable[[], bool], within: float = PATIENCE) -> bool:
        """Wait for a fact, and draw meanwhile; False when it has not come after so many seconds."""
        end = time.monotonic() + within
        while True:
            self.witness.read()
            self.show.now = boottime()
            if self.live:
                size = shutil.get_terminal_size()
                lines = screen.picture(self.style, self.cluster, self.witness, self.show, size.columns, size.lines - 1)
                print(screen.joined(lines), end="", flush=True)
            if fact():
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(DRAW_EVERY)

    def say(self, text: str) -> None:
        """Tell what is new, with its time."""
        line = f"{screen.clock(boottime() - self.show.began)}  {text}"
        self.show.log.append(line)
        if not self.live:
            print(line, flush=True)


def play(stage: Stage, rounds: int | None, pause: float) -> list[Cost]:
    """Start everything, then disturb it, kind after kind, so many times or until somebody interrupts."""
    costs: list[Cost] = []
    cluster, witness, show = stage.cluster, stage.witness, stage.show
    show.next = "Starting three daemons; the first of them creates their PostgreSQL ..."
    with contextlib.suppress(KeyboardInterrupt):
        cluster.begin()
        if not stage.until(lambda: whole(cluster, witness, 0.0)):
            raise SystemExit(_ruins(cluster, f"the cluster did not come up within {PATIENCE:g} s"))
        stage.say(f"{len(PROGRAMS)} programs are led, each on one of three nodes")
        for number in count(1) if rounds is None else range(1, rounds + 1):
            show.rounds = number
            costs.append(_round(stage, number, pause))
            if costs[-1].trouble:
                raise SystemExit(_ruins(cluster, f"round {number}, {costs[-1].said}: {costs[-1].trouble}"))
    return costs


def _round(stage: Stage, number: int, pause: float) -> Cost:
    kind, program = KINDS[(number - 1) % len(KINDS)], PROGRAMS[(number - 1) % len(PROGRAMS)]
    arrow = "▶" if stage.style.unicode else ">"
    stage.show.next = f"{arrow} Next, on whoever leads {program}: {kind.name}"
    stage.until(lambda: False, pause)
    stage.until(lambda: stage.cluster.leader(program) is not None)
    leader = stage.cluster.leader(program)
    assert leader is not None, f"{program} was led, and nobody leads it any more"

    def announce(cost: Cost) -> None:
        stage.show.next = f"{arrow} {cost.said} ..."

    cost = perform(kind, Scene(stage.cluster, leader, program, stage.until), stage.witness, announce)
    stage.say(f"{cost.said:<40}  {screen.told(stage.style, cost)}")
    return cost


def _ruins(cluster: Cluster, what: str) -> str:
    logs = "\n".join(f"---- {node.name}\n{node.log.read_text(errors='replace')[-2000:]}" for node in cluster.nodes)
    return f"{what}\n{logs}"


def main() -> int:
    """Play, and clear the stage whatever happens. Gives 1 when two children ever lived at once."""
    arguments = _parser().parse_args()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.default_int_handler)
    with _directory() as directory:
        stage = Stage(Cluster(directory))
        if not stage.live:
            print(f"highlanderd demo: three nodes, one PostgreSQL, a lease of {LEASE:g} s, in {directory}", flush=True)
        try:
            with stage.lit():
                costs = play(stage, arguments.rounds, arguments.pause)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is short, and must not be left half done
            if stage.live:
                print("Every node hands over and stops, then PostgreSQL does ...", flush=True)
            stage.live = False
            stage.cluster.end(stage.until)
        return _conclude(stage, costs)


def _conclude(stage: Stage, costs: list[Cost]) -> int:
    told = stage.show.log if stage.style.colour else ()  # the other screen has taken it along
    print(*told, "", *screen.summary(stage.style, summed(costs), stage.witness), sep="\n", flush=True)
    return 1 if stage.witness.overlaps else 0


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Make a directory that PostgreSQL's user may pass, which is nobody when we are root; remove it in the end."""
    made = Path(tempfile.mkdtemp(prefix="highlander-demo-", dir="/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make demo",
        description="Three nodes on this host, and somebody who kills whoever leads. Nothing of it stays behind.",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="end after so many (default: at Ctrl-C)")
    parser.add_argument("--pause", type=float, default=3.0, metavar="SECONDS", help="of peace before each (default: 3)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
