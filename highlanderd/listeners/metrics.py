"""The TCP listener: metrics for Prometheus, and yes-or-no answers for load balancers and Kubernetes. Read-only.

What is true now is read off the node's snapshot at each scrape; what has happened is recorded by the daemon as it
happens.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, Protocol

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from highlanderd.core.status import NodeStatus, ProgramStatus
from highlanderd.listeners.sockets import Closer, serve, tcp_door

SCRAPERS: Final = 128
"""Connections at once; a daemon without descriptors could not reach PostgreSQL again."""
PAGE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format, which every version of every scraper reads."""
STATES: Final = ("waiting", "leading", "draining", "backoff", "stopped")
_SIGNALS: Final = {int(number): number.name for number in signal.Signals}

# Bounds in seconds. From a takeover on one machine (2 ms) to a spawn that half a lease must suffice for.
_TAKEOVER: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From a handover (milliseconds) over a silent leader (1.3 leases) to a night without PostgreSQL.
_LEADERLESS: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0, 3600.0)
# Around stop_timeout's default of 10 s.
_STOP: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0)
# From a round trip on one machine to the three tenths of a lease that a statement may take.
_RENEW: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LAG: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Observed(Protocol):
    """What the metrics need of the daemon."""

    def status(self) -> NodeStatus:
        """Return the present snapshot, from memory."""


def exit_word(status: int) -> str:
    """Name a raw wait status for the ``status`` label: the exit code, or the signal.

    >>> exit_word(256), exit_word(9)
    ('1', 'SIGKILL')
    """
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return _SIGNALS.get(number, f"signal {number}")
    return str(os.waitstatus_to_exitcode(status))


class Metrics:
    """Everything that is counted, in a registry of its own. Programs are told by name, durations in seconds."""

    def __init__(self, node: Observed) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the time of each series' first sample: nobody asks, and it doubles the page
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Snapshot(node))
        self._transitions = self._counter("program_transitions", "Changes of state.", "program", "from", "to")
        self._exits = self._counter("program_exits", "Ends of main processes.", "program", "status")
        self._terms = self._counter("terms_ended", "Terms of this node that ended.", "program", "reason")
        self._kills = self._counter("kills", "Trees that had to be killed.", "program", "by")
        self._reattached = self._counter("reattached", "Terms that outlived the loss of their session.")
        self._renew_failures = self._counter("renew_failures", "Renewals that were not acknowledged.")
        self._output = self._counter("output_lines", "Lines that children wrote.", "program", "stream")
        self._takeover = self._histogram("takeover_duration", "From the grant of a term to its child.", _TAKEOVER)
        self._leaderless = self._histogram(
            "leaderless", "From the end of the last term anywhere to the start of ours.", _LEADERLESS
        )
        self._stop = self._histogram("stop_duration", "From the order to stop to the empty tree.", _STOP)
        self._renew = self._histogram("renew_duration", "Round trips of renewals.", _RENEW)
        self._lag = self._histogram("event_loop_lag", "How late the event loop's turns came.", _LAG)
        self._reload_ok = self._gauge("config_last_reload_successful", "Whether the last reload was applied.")
        self._reload_at = self._gauge("config_last_reload_timestamp_seconds", "When a reload was last applied.")
        self.reloaded(True)  # the start has loaded one

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"highlander_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"highlander_{name}", text, registry=self._registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"highlander_{name}_seconds", text, registry=self._registry, buckets=bounds)

    def transition(self, program: str, old: str, new: str) -> None:
        """Count a change of state, by the states' names."""
        self._transitions.labels(program, old, new).inc()

    def exited(self, program: str, status: int) -> None:
        """Count the end of a main process, by its raw wait status."""
        self._exits.labels(program, exit_word(status)).inc()

    def term_ended(self, program: str, cause: str) -> None:
        """Count the end of a term, by its cause as the ledger has it."""
        self._terms.labels(program, cause).inc()

    def took_over(self, seconds: float) -> None:
        """Record the time from a grant to its child."""
        self._takeover.observe(seconds)

    def leaderless(self, seconds: float) -> None:
        """Record the time for which nobody led before this node did."""
        self._leaderless.observe(seconds)

    def stopped(self, seconds: float) -> None:
        """Record the time from the order to stop to the empty tree."""
        self._stop.observe(seconds)

    def killed(self, program: str, by: str) -> None:
        """Count a tree that was killed: ``deadline``, ``order`` or ``abandoned``."""
        self._kills.labels(program, by).inc()

    def reattached(self) -> None:
        """Count a term that went on with a new session."""
        self._reattached.inc()

    def renewed(self, seconds: float) -> None:
        """Record the round trip of an acknowledged renewal."""
        self._renew.observe(seconds)

    def renew_failed(self) -> None:
        """Count a renewal without acknowledgement."""
        self._renew_failures.inc()

    def reloaded(self, ok: bool) -> None:
        """Record the outcome of a reload, at the time of the call."""
        self._reload_ok.set(ok)
        if ok:
            self._reload_at.set(time.time())

    def output_lines(self, program: str, stream: str, lines: int) -> None:
        """Count lines of a child's ``stdout`` or ``stderr``."""
        self._output.labels(program, stream).inc(lines)

    def loop_lag(self, seconds: float) -> None:
        """Record how late a turn of the event loop came."""
        self._lag.observe(seconds)

    def render(self) -> bytes:
        """Return the page of ``/metrics``, in Prometheus' text format."""
        return generate_latest(self._registry)


def _seconds(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


# By metric: its help, and what it shows of a program; nothing when that is None.
_PER_PROGRAM: Final[dict[str, tuple[str, Callable[[ProgramStatus], float | None]]]] = {
    "program_leading": ("Whether this node leads it.", lambda program: program.state == "leading"),
    "program_ready": ("Whether its child on this node is ready.", lambda program: program.ready),
    "program_epoch": ("Epoch of the present or last term that this node knows.", lambda program: program.epoch),
    "program_start_time_seconds": ("When its child was started.", lambda program: _seconds(program.started)),
    "program_unkillable_processes": (
        "Its processes on this node that SIGKILL does not end, a hundred at most; the lock is kept for them.",
        lambda program: len(program.unkillable),
    ),
    "program_failures": ("Crashes and failed starts in a row.", lambda program: program.failures),
    "lease_remaining_seconds": (
        "For how long this node may still trust its term.",
        lambda program: program.lease_remaining,
    ),
    "postgres_connected": ("Whether its lock connection is up.", lambda program: program.connected),
}


class _Snapshot(Collector):
    def __init__(self, node: Observed) -> None:
        self._node = node

    def collect(self) -> Iterator[GaugeMetricFamily]:
        status = self._node.status()
        yield _one("build_info", "Version of the daemon.", 1, version=status.version, python=platform.python_version())
        yield _one("pool_connections", "Connections to PostgreSQL.", status.postgres.connections)
        yield from _lengths(status)
        states = GaugeMetricFamily(
            "highlander_program_state", "Whether it is in that state.", labels=("program", "state")
        )
        for program in status.programs:
            for state in STATES:
                states.add_metric((program.name, state), program.state == state)
        yield states
        for name, (text, value_of) in _PER_PROGRAM.items():
            family = GaugeMetricFamily(f"highlander_{name}", text, labels=("program",))
            for program in status.programs:
                value = value_of(program)
                if value is not None:
                    family.add_metric((program.name,), value)
            yield family


def _lengths(status: NodeStatus) -> Iterator[GaugeMetricFamily]:
    """Show the lengths of leases, and whether a maintenance has made them longer."""
    postgres = status.postgres
    yield _one("maintenance", "Whether a maintenance of PostgreSQL is under way.", status.maintenance is not None)
    yield _one("lease_seconds", "The ledger's lease.", postgres.lease)
    yield _one("lease_in_force_seconds", "The lease that leaders use at present.", postgres.lease_in_force)
    yield _one("lease_ceiling_seconds", "The longest lease that anybody may have been promised.", postgres.ceiling)
    yield _one("ledger_schema_version", "Version of the ledger's schema; 0 until it was read.", postgres.schema)


def _one(name: str, text: str, value: float, **labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"highlander_{name}", text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


async def serve_metrics(node: Observed, metrics: Metrics, listen: str, alive: Callable[[], bool]) -> Closer:
    """Open the TCP listener on ``host:port``; ``alive`` says whether the daemon still makes its rounds.

    The result closes it. Raises HighlanderError when the address cannot be had.
    """
    app = web.Application(client_max_size=1024)
    answers = _Answers(node, metrics, alive)
    app.add_routes(
        [
            web.get("/metrics", answers.metrics),
            web.get("/healthz", answers.healthz),
            web.get("/readyz", answers.readyz),
            web.get("/leader/{program}", answers.leader),
        ]
    )
    return await serve(app, await tcp_door(listen), SCRAPERS)


def _answer(yes: bool, why: str) -> web.Response:
    return web.Response(status=200 if yes else 503, text=f"{why}\n", headers={"Cache-Control": "no-store"})


class _Answers:
    """One method per endpoint; the body is a sentence for people, the status is the answer."""

    def __init__(self, node: Observed, metrics: Metrics, alive: Callable[[], bool]) -> None:
        self._node = node
        self._metrics = metrics
        self._alive = alive

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": PAGE})

    async def healthz(self, _: web.Request) -> web.Response:
        alive = self._alive()
        return _answer(alive, "ok" if alive else "the daemon no longer makes its rounds")

    async def readyz(self, _: web.Request) -> web.Response:
        postgres = self._node.status().postgres
        return _answer(
            postgres.connected, "ok" if postgres.connected else f"PostgreSQL cannot be used: {postgres.trouble}"
        )

    async def leader(self, request: web.Request) -> web.Response:
        name = request.match_info["program"]
        status = self._node.status()
        for program in status.programs:
            if program.name == name:
                return _answer(*_leads(program))
        return web.Response(status=404, text=f"no program {name!r} is configured on {status.node}\n")


def _leads(program: ProgramStatus) -> tuple[bool, str]:
    if program.state != "leading":
        return False, f"{program.name} is {program.state} here; led by {program.leader or 'nobody'}"
    return program.ready, f"{program.name} is led here" + ("" if program.ready else ", but not ready yet")
