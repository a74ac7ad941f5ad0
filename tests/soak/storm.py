"""What befalls the cluster: orders, signals and deaths at random, and one thing after the other that must come."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from highlanderd.errors import HighlanderError
from tests.soak import census, programs
from tests.support.deaths import gone, marked
from tests.support.nodes import Node, Nodes
from tests.support.postgres import Cluster
from tests.support.wait import wait_for

PAUSE = 0.35
"""Seconds between two mischiefs, on the average."""
UNDONE = 6.0
"""Seconds after which what was stopped, drained or frozen goes on, at most."""
SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGSEGV, signal.SIGSTOP)
UP = 120.0
"""Seconds for a daemon with 200 sessions to be there, on a busy machine."""


class Storm:
    """The mischief. Node ``a`` keeps its guardian and its worker, ``b`` its guardian: they are measured."""

    def __init__(self, nodes: Nodes, server: Cluster, ports: Mapping[str, int], chance: Random) -> None:
        self._nodes, self._server, self._ports, self._chance = nodes, server, ports, chance
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._usual: dict[Callable[[], str], int] = {
            self._signal_a_child: 30,
            self._order_a_program: 40,
            self._stop_for_a_while: 8,
            self._stop_everywhere_for_a_while: 4,
            self._drain_for_a_while: 2,
            self._reload: 4,
            self._kill_a_keeper: 3,
            self._kill_a_logger: 3,
            self._kill_a_worker: 1,
            self._renew_a_worker: 1,
        }

    def rage(self, seconds: float, *, certain: bool) -> None:
        """Do mischief for so long; with ``certain``, what costs most comes once or twice as well."""
        began = time.monotonic()
        great = [self._restart_postgres, self._kill_a_guardian, self._crash_postgres, self._crash_a_node]
        due = [began + seconds * (number + 1) / (len(great) + 2) for number in range(len(great))] if certain else []
        while time.monotonic() < began + seconds:
            self._undo(time.monotonic())
            if due and time.monotonic() > due[0]:
                del due[0]
                self._do(great.pop(0))
            else:
                self._do(self._chance.choices([*self._usual], [*self._usual.values()])[0])
            time.sleep(self._chance.expovariate(1 / PAUSE))

    def calm(self) -> None:
        """Undo what was done for a while."""
        while self._later:
            self._undo(float("inf"))

    def _do(self, mischief: Callable[[], str]) -> None:
        try:
            self.done[mischief()] += 1
        except HighlanderError as error:
            self.refused[type(error).__name__] += 1

    def _undo(self, now: float) -> None:
        due = [undo for at, undo in self._later if at <= now]
        self._later = [(at, undo) for at, undo in self._later if at > now]
        for undo in due:
            try:
                undo()
            except HighlanderError:
                self._after(undo)
                time.sleep(PAUSE)

    def _after(self, undo: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + self._chance.uniform(0.5, UNDONE), undo))

    def _node(self) -> Node:
        return self._chance.choice(self._nodes.nodes)

    def _name(self) -> str:
        return self._chance.choice(programs.names())

    # ------------------------------------------------------------------------------------------------------- children

    def _signal_a_child(self) -> str:
        trees = [child for child in census.trees(self._nodes.directory) if not child.program.startswith("calm")]
        if not trees:
            return "nobody to signal"
        victim, signum = self._chance.choice(trees), self._chance.choice(SIGNALS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signum)
        if signum == signal.SIGSTOP:
            self._after(lambda: _continue(victim.pid))
        return signum.name

    def _kill_one(self, kind: str) -> str:
        node = self._node()
        own = [(pid, Path(f"/proc/{pid}/comm")) for pid in census.own(node)]
        for pid, comm in self._chance.sample(own, len(own)):
            with contextlib.suppress(OSError):
                name, _, program = comm.read_text().strip().partition(" ")
                if name == kind and not program.startswith("calm"):
                    os.kill(pid, signal.SIGKILL)
                    return f"SIGKILL of a {name}"
        return f"no {kind} to kill"

    def _kill_a_keeper(self) -> str:
        return self._kill_one("keep")

    def _kill_a_logger(self) -> str:
        return self._kill_one("log")

    # -------------------------------------------------------------------------------------------------------- daemons

    def _kill_a_worker(self) -> str:
        node = self._chance.choice(self._nodes.nodes[1:])
        for worker in node.mine(b"--worker")[:1]:
            os.kill(worker, signal.SIGKILL)
        return "SIGKILL of a worker"

    def _renew_a_worker(self) -> str:
        self._chance.choice(self._nodes.nodes[1:]).control.ask("POST", "/v1/renew", {"force": True}, UP)
        return "renew"

    def _kill_a_guardian(self) -> str:
        node = self._nodes.nodes[2]
        os.kill(node.guardian, signal.SIGKILL)
        node.ended()
        wait_for(lambda: not [pid for pid in marked(node.home) if not gone(pid)], UP, "all of it has ended")
        self._start(node)
        return "SIGKILL of a guardian"

    def _crash_a_node(self) -> str:
        node = self._nodes.nodes[2]
        node.crash()
        self._start(node)
        return "crash of a node"

    def _start(self, node: Node) -> None:
        node.start()
        self._nodes.await_up(node)

    def _restart_postgres(self) -> str:
        self._server.restart()
        return "restart of PostgreSQL"

    def _crash_postgres(self) -> str:
        self._server.restart("immediate")
        return "crash of PostgreSQL"

    # --------------------------------------------------------------------------------------------------------- orders

    def _order_a_program(self) -> str:
        verb = self._chance.choice(("release", "restart", "start", "signal", "reopen"))
        body: dict[str, object] = {"signal": self._chance.choice(("HUP", "USR2", "TERM"))} if verb == "signal" else {}
        body |= {"force": True} if verb == "release" else {}
        self._node().control.order(self._name(), verb, body)()
        return verb

    def _stop_for_a_while(self) -> str:
        node, name = self._node(), self._name()
        self._after(lambda: _start(node, name))
        node.control.order(name, "stop", {"force": True})()
        return "stop"

    def _stop_everywhere_for_a_while(self) -> str:
        node, name = self._node(), self._name()
        self._after(lambda: _start(node, name, everywhere=True))
        node.control.order(name, "stop", {"everywhere": True})()
        return "stop --everywhere"

    def _drain_for_a_while(self) -> str:
        node = self._node()
        self._after(lambda: _resume(node))
        node.control.ask("POST", "/v1/drain", {"force": True})
        return "drain"

    def _reload(self) -> str:
        node = self._node()
        self.configure(node, edited=self._chance.random() < 0.5)
        node.control.ask("POST", "/v1/reload", {}, UP)
        return "reload"

    def configure(self, node: Node, *, edited: bool) -> None:
        """Write one of a node's two files."""
        node.configure(programs.tables(node.home, self._ports, edited=edited), log="info")


def _continue(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _resume(node: Node) -> None:
    node.control.ask("POST", "/v1/resume", {})


def _start(node: Node, name: str, **body: object) -> None:
    node.control.order(name, "start", body)()
