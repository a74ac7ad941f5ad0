"""The page of metrics says what the library's own would say, to a reader that uses the library."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from highlanderd.listeners.exposition import LabelledCounter, page, registered


def _registry() -> CollectorRegistry:
    disable_created_metrics()  # type: ignore[no-untyped-call]  # as the daemon's are
    registry = CollectorRegistry(auto_describe=False)
    ends = Counter("ends", 'Ends, by "cause" \\ and\nprogram.', ("program", "cause"), registry=registry)
    ends.labels("beat", 'a "quoted" \\ word\nand another').inc()
    ends.labels("cron", "").inc(12345678901234)
    Counter("unused", "Nothing was counted.", ("program",), registry=registry)
    values = Gauge("values", "Numbers.", ("which",), registry=registry)
    for which, value in (("small", 1e-9), ("large", 1.5e300), ("endless", float("inf")), ("below", -0.25)):
        values.labels(which).set(value)
    Histogram("took", "Times.", registry=registry, buckets=(0.001, 1.0)).observe(0.5)
    return registry


def test_the_page_is_read_as_the_librarys_own_page_is() -> None:
    registry = _registry()
    ours, theirs = page(registered(registry.collect())).decode(), generate_latest(registry).decode()
    assert list(text_string_to_metric_families(ours)) == list(text_string_to_metric_families(theirs))


def test_a_labelled_counter_says_all_that_was_counted_before_each_page() -> None:
    ends = LabelledCounter(Counter("ends", "Ends.", ("program",), registry=None))
    pages = [ends.text()]
    for program, more in (("beat", 1), ("cron", 2), ("beat", 3)):
        ends.labels(program).inc(more)
        pages.append(ends.text())
    assert [page.splitlines()[2:] for page in pages] == [
        [],
        ['ends_total{program="beat"} 1.0'],
        ['ends_total{program="beat"} 1.0', 'ends_total{program="cron"} 2.0'],
        ['ends_total{program="beat"} 4.0', 'ends_total{program="cron"} 2.0'],
    ]
