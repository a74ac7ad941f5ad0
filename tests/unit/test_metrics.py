"""Claims about the metrics page: what the snapshot and the recorder feed appears under its fixed name."""

from __future__ import annotations

import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from highlanderd.core.states import STATE_NAMES
from highlanderd.core.status import LeaseReport, MaintenanceStatus, Process, Usage
from highlanderd.listeners.metrics import Metrics, exit_word
from tests.support.memory_node import MemoryNode, leading, program


class Scraped(Metrics):
    """The metrics of one node, and the page that shows them."""

    def __init__(self, node: MemoryNode) -> None:
        super().__init__()
        self._node = node

    def page(self) -> str:
        return self.render(self._node.status()).decode()


def samples(metrics: Scraped) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.page())
        for sample in family.samples
    }


def value(metrics: Scraped, name: str, **labels: str) -> float | None:
    return samples(metrics).get((f"highlander_{name}", tuple(sorted(labels.items()))))


def test_the_snapshot_shows() -> None:
    metrics = Scraped(MemoryNode(leading("beat"), program("relay", connected=False, failures=3)))
    assert value(metrics, "program_state", program="beat", state="leading") == 1
    shown = {state: value(metrics, "program_state", program="relay", state=state) for state in STATE_NAMES.values()}
    assert shown == {"waiting": 1, "leading": 0, "draining": 0, "backoff": 0, "stopped": 0}
    assert value(metrics, "program_leading", program="beat") == 1
    assert value(metrics, "program_ready", program="beat") == 1
    assert value(metrics, "program_epoch", program="beat") == 7
    assert value(metrics, "program_start_time_seconds", program="beat") == 1767323046
    assert value(metrics, "lease_remaining_seconds", program="beat") == 8.5
    assert value(metrics, "program_failures", program="relay") == 3
    assert value(metrics, "postgres_connected", program="relay") == 0
    assert value(metrics, "pool_connections") == 3


def test_the_lengths_of_leases_show_with_and_without_maintenance() -> None:
    node = MemoryNode(leading("beat"))
    metrics = Scraped(node)
    names = ("maintenance", "lease_seconds", "lease_in_force_seconds", "lease_ceiling_seconds", "ledger_schema_version")
    assert [value(metrics, name) for name in names] == [0, 10, 10, 10, 2]
    under_way = MaintenanceStatus(60.0, 90.0, "2026-01-02T03:04:05Z", "2026-01-02T03:05:05Z", "ann", "")
    node.lengths = LeaseReport(10.0, 90.0, 120.0, under_way, 97.0, ())
    assert [value(metrics, name) for name in names] == [1, 10, 90, 120, 2]


def test_what_operators_have_stopped_or_drained_is_not_wanted() -> None:
    metrics = Scraped(MemoryNode(leading("beat"), program("bot", want="stop"), program("relay", suspended=True)))
    assert [value(metrics, "program_wanted", program=name) for name in ("beat", "bot", "relay")] == [1, 0, 0]


def test_what_a_child_uses_shows() -> None:
    usage = Usage(cpu=1.5, memory=4096, processes=2, tasks=5, open_files=None, oom_kills=None)
    metrics = Scraped(MemoryNode(leading("beat", usage=usage, drift=1), program("relay")))
    names = ("cpu_seconds_total", "memory_bytes", "processes", "tasks", "open_files", "drift")
    shown = [value(metrics, f"program_{name}", program="beat") for name in names]
    assert shown == [1.5, 4096, 2, 5, None, 1]
    assert [value(metrics, f"program_{name}", program="relay") for name in names] == [None] * len(names)
    metrics.oom_killed("relay", 2)
    assert value(metrics, "program_oom_kills_total", program="relay") == 2


def test_processes_that_do_not_die_are_counted() -> None:
    left = (Process(11, 10, "dd", "D"), Process(12, 10, "sh", "Z"))
    metrics = Scraped(MemoryNode(program("beat", "draining", unkillable=left), program("relay")))
    assert value(metrics, "program_unkillable_processes", program="beat") == 2
    assert value(metrics, "program_unkillable_processes", program="relay") == 0


def test_what_is_not_known_is_absent_rather_than_zero() -> None:
    metrics = Scraped(MemoryNode(program("relay")))
    for name in ("program_epoch", "program_start_time_seconds", "lease_remaining_seconds"):
        assert value(metrics, name, program="relay") is None


def test_a_program_that_is_gone_leaves_the_snapshot_s_metrics() -> None:
    node = MemoryNode(leading("beat"))
    metrics = Scraped(node)
    assert value(metrics, "program_leading", program="beat") == 1
    node.become("beat", None)
    assert value(metrics, "program_leading", program="beat") is None


def test_a_program_in_the_place_of_another_one_is_shown_under_its_own_name() -> None:
    node = MemoryNode(leading("beat"))
    metrics = Scraped(node)
    assert value(metrics, "program_leading", program="beat") == 1
    node.become("beat", None)
    node.become("relay", leading("relay"))
    assert value(metrics, "program_leading", program="relay") == 1
    assert value(metrics, "program_leading", program="beat") is None


def test_what_happened_is_counted() -> None:
    metrics = Scraped(MemoryNode())
    metrics.transition("beat", "waiting", "leading")
    metrics.transition("beat", "waiting", "leading")
    metrics.exited("beat", 1 << 8)
    metrics.exited("beat", int(signal.SIGKILL))
    metrics.exit_failed("beat", 1 << 8)
    metrics.term_ended("beat", "exited")
    metrics.killed("beat", "deadline")
    metrics.reattached()
    metrics.renew_failed()
    metrics.output("beat", "stdout", "lines", 40)
    metrics.output("beat", "stdout", "lines", 2)
    metrics.output("beat", "stdout", "dropped", 1)
    assert value(metrics, "program_transitions_total", program="beat", **{"from": "waiting", "to": "leading"}) == 2
    assert value(metrics, "program_exits_total", program="beat", status="1") == 1
    assert value(metrics, "program_exits_total", program="beat", status="SIGKILL") == 1
    assert value(metrics, "program_failed_exits_total", program="beat", status="1") == 1
    assert value(metrics, "terms_ended_total", program="beat", reason="exited") == 1
    assert value(metrics, "kills_total", program="beat", by="deadline") == 1
    assert value(metrics, "reattached_total") == 1
    assert value(metrics, "renew_failures_total") == 1
    assert value(metrics, "output_lines_total", program="beat", stream="stdout") == 42
    assert value(metrics, "output_dropped_lines_total", program="beat", stream="stdout") == 1


def test_the_first_term_that_ends_for_its_health_is_an_increase() -> None:
    metrics = Scraped(MemoryNode())
    metrics.transition("beat", "waiting", "leading")
    shown = [value(metrics, "terms_ended_total", program="beat", reason=cause) for cause in ("not_ready", "unhealthy")]
    assert shown == [0, 0]


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("took_over", "takeover_duration_seconds"),
        ("leaderless", "leaderless_seconds"),
        ("stopped", "stop_duration_seconds"),
        ("renewed", "renew_duration_seconds"),
        ("loop_lag", "event_loop_lag_seconds"),
    ],
)
def test_durations_are_histograms(method: str, name: str) -> None:
    metrics = Scraped(MemoryNode())
    for seconds in (0.003, 2.0):
        getattr(metrics, method)(seconds)
    assert value(metrics, f"{name}_count") == 2
    assert value(metrics, f"{name}_sum") == pytest.approx(2.003)
    assert value(metrics, f"{name}_bucket", le="1.0") == 1


def test_a_failed_reload_is_told_and_keeps_the_time_of_the_last_good_one() -> None:
    metrics = Scraped(MemoryNode())
    loaded = value(metrics, "config_last_reload_timestamp_seconds")
    assert value(metrics, "config_last_reload_successful") == 1
    metrics.reloaded(False)
    assert value(metrics, "config_last_reload_successful") == 0
    assert value(metrics, "config_last_reload_timestamp_seconds") == loaded


def test_two_daemons_in_one_process_share_nothing() -> None:
    first, second = Scraped(MemoryNode()), Scraped(MemoryNode())
    first.reattached()
    assert value(second, "reattached_total") == 0


def test_no_series_tells_when_it_was_made() -> None:
    metrics = Scraped(MemoryNode())
    metrics.renewed(0.1)
    assert "_created" not in metrics.page()


@pytest.mark.parametrize(
    ("status", "word"), [(0, "0"), (1 << 8, "1"), (255 << 8, "255"), (9, "SIGKILL"), (11 | 128, "SIGSEGV")]
)
def test_exits_are_named_by_code_or_signal(status: int, word: str) -> None:
    assert exit_word(status) == word
