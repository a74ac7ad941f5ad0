"""The metrics: what has happened is counted here as it happens, what is true now is read off the node's snapshot."""

from __future__ import annotations

import time
from itertools import chain
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from highlanderd.core.status import NodeStatus
from highlanderd.core.terms import exit_of
from highlanderd.listeners.exposition import LabelledCounter, page, registered
from highlanderd.listeners.gauges import Gauges

ALERTED_CAUSES: Final = ("not_ready", "unhealthy")
"""Ends of terms that are counted from 0 on: Prometheus sees no increase in a series that begins with 1."""

# Bounds in seconds. From a takeover on one machine (2 ms) to a spawn that half a lease must suffice for.
_TAKEOVER: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From a handover (milliseconds) over a silent leader (1.3 leases) to a night without PostgreSQL.
_LEADERLESS: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0, 3600.0)
# Around stop_timeout's default of 10 s.
_STOP: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0)
# From a round trip on one machine to the three tenths of a lease that a statement may take.
_RENEW: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LAG: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


def exit_word(status: int) -> str:
    """Name a raw wait status for the ``status`` label: the exit code, or the signal.

    >>> exit_word(256), exit_word(9)
    ('1', 'SIGKILL')
    """
    code, name = exit_of(status)
    return str(code) if name is None else name


class Metrics:
    """Everything that is counted, in a registry of its own. Programs are named, durations are seconds."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the time of each series' first sample: nobody asks, and it doubles the page
        self._registry = CollectorRegistry(auto_describe=False)
        self._counters: list[LabelledCounter] = []
        self._gauges = Gauges()
        self._transitions = self._labelled("program_transitions", "Changes of state.", "program", "from", "to")
        self._exits = self._labelled("program_exits", "Ends of main processes.", "program", "status")
        self._failed_exits = self._labelled(
            "program_failed_exits",
            "Ends of main processes that `success_exit_codes` does not have, and that no order has brought about.",
            "program",
            "status",
        )
        self._terms = self._labelled("terms_ended", "Terms of this node that ended.", "program", "reason")
        self._skips = self._labelled(
            "schedule_skips", "Times of its schedule that this node has noted as skipped.", "program", "reason"
        )
        self._kills = self._labelled("kills", "Trees that had to be killed.", "program", "by")
        self._oom_kills = self._labelled(
            "program_oom_kills", "Its processes that the kernel killed for want of memory.", "program"
        )
        self._reattached = self._counter("reattached", "Terms that outlived the loss of their session.")
        self._renew_failures = self._counter("renew_failures", "Renewals that were not acknowledged.")
        self._output = {
            "lines": self._labelled("output_lines", "Lines that children wrote.", "program", "stream"),
            "bytes": self._labelled("output_bytes", "Bytes that children wrote.", "program", "stream"),
            "dropped": self._labelled(
                "output_dropped_lines", "Lines of children that could not be written.", "program", "stream"
            ),
        }
        self._takeover = self._histogram("takeover_duration", "From the grant of a term to its child.", _TAKEOVER)
        self._leaderless = self._histogram(
            "leaderless", "From the end of the last term anywhere to the start of this node's.", _LEADERLESS
        )
        self._stop = self._histogram("stop_duration", "From the order to stop to the empty tree.", _STOP)
        self._renew = self._histogram("renew_duration", "Round trips of renewals.", _RENEW)
        self._lag = self._histogram("event_loop_lag", "How late the event loop's turns came.", _LAG)
        self._reload_ok = self._gauge("config_last_reload_successful", "Whether the last reload was applied.")
        self._reload_at = self._gauge("config_last_reload_timestamp_seconds", "When a reload was last applied.")
        self.reloaded(True)  # the start has loaded one

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"highlander_{name}", text, registry=self._registry)

    def _labelled(self, name: str, text: str, *labels: str) -> LabelledCounter:
        self._counters.append(LabelledCounter(Counter(f"highlander_{name}", text, labels, registry=None)))
        return self._counters[-1]

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"highlander_{name}", text, registry=self._registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"highlander_{name}_seconds", text, registry=self._registry, buckets=bounds)

    def transition(self, program: str, old: str, new: str) -> None:
        """Count a change of state, by the states' names."""
        self._transitions.labels(program, old, new).inc()
        for cause in ALERTED_CAUSES:
            self._terms.labels(program, cause)

    def exited(self, program: str, status: int) -> None:
        """Count the end of a main process, by its raw wait status."""
        self._exits.labels(program, exit_word(status)).inc()

    def exit_failed(self, program: str, status: int) -> None:
        """Count the end of a main process that has failed, by its raw wait status."""
        self._failed_exits.labels(program, exit_word(status)).inc()

    def term_ended(self, program: str, cause: str) -> None:
        """Count the end of a term, by its cause as the ledger has it."""
        self._terms.labels(program, cause).inc()

    def skipped(self, program: str, reason: str, times: int) -> None:
        """Count scheduled times that were skipped for a reason."""
        self._skips.labels(program, reason).inc(times)

    def took_over(self, seconds: float) -> None:
        """Record the time from a grant to its child."""
        self._takeover.observe(seconds)

    def leaderless(self, seconds: float) -> None:
        """Record the time for which no node led before this one did."""
        self._leaderless.observe(seconds)

    def stopped(self, seconds: float) -> None:
        """Record the time from the order to stop to the empty tree."""
        self._stop.observe(seconds)

    def killed(self, program: str, by: str) -> None:
        """Count a tree that was killed: ``deadline``, ``order`` or ``abandoned``."""
        self._kills.labels(program, by).inc()

    def oom_killed(self, program: str, more: int) -> None:
        """Count processes of a program that the kernel killed for want of memory."""
        self._oom_kills.labels(program).inc(more)

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

    def output(self, program: str, stream: str, kind: str, more: int) -> None:
        """Count ``lines``, ``bytes`` or ``dropped`` lines of a child's ``stdout`` or ``stderr``."""
        self._output[kind].labels(program, stream).inc(more)

    def loop_lag(self, seconds: float) -> None:
        """Record how late a turn of the event loop came."""
        self._lag.observe(seconds)

    def render(self, status: NodeStatus) -> bytes:
        """Return the page of ``/metrics``, in Prometheus' text format: the snapshot first."""
        counted = (one.text() for one in self._counters)
        return page(chain(self._gauges.lines(status), counted, registered(self._registry.collect())))
