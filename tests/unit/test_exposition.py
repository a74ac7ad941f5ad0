"""The page of metrics says what the library's own would say, to a reader that uses the library."""

from __future__ import annotations

import prometheus_client as library
from prometheus_client.parser import text_string_to_metric_families

from highlanderd.listeners.counters import Counter, Histogram
from highlanderd.listeners.exposition import family, labels, page

BOUNDS = (0.001, 1.0, 60.0, 3600.0)
SEEN = (0.0, 0.001, 0.0011, 0.5, 60.0, 1e9)
VALUES = {"small": 1e-9, "large": 1.5e300, "endless": float("inf"), "below": -0.25}
NUMBERS = 'Numbers, by "which" \\ and\nwhat.'


def _theirs() -> str:
    library.disable_created_metrics()  # type: ignore[no-untyped-call]  # the daemon shows none
    registry = library.CollectorRegistry(auto_describe=False)
    ends = library.Counter("ends", "Ends.", ("program", "cause"), registry=registry)
    ends.labels("beat", 'a "quoted" \\ word\nand another').inc()
    ends.labels("cron", "").inc(12345678901234)
    ends.labels("relay", "lost").inc(0)
    library.Counter("unused", "Nothing was counted.", ("program",), registry=registry)
    library.Counter("plain", "Of the node.", registry=registry)
    took = library.Histogram("took", "Times.", registry=registry, buckets=BOUNDS)
    for seconds in SEEN:
        took.observe(seconds)
    values = library.Gauge("values", NUMBERS, ("which",), registry=registry)
    for which, value in VALUES.items():
        values.labels(which).set(value)
    return library.generate_latest(registry).decode()


def _ours() -> str:
    ends = Counter("ends_total", "Ends.", "program", "cause")
    ends.add("beat", 'a "quoted" \\ word\nand another')
    assert "cron" not in ends.text()
    ends.add("cron", "")
    ends.add("cron", "", more=12345678901233)
    ends.add("relay", "lost", more=0)
    unused, plain = Counter("unused_total", "Nothing was counted.", "program"), Counter("plain_total", "Of the node.")
    took = Histogram("took", "Times.", BOUNDS)
    for seconds in SEEN:
        took.observe(seconds)
    samples = [(labels({"which": which}), value) for which, value in VALUES.items()]
    counted = [one.text() for one in (ends, unused, plain, took)]
    return page([*counted, *family("values", "gauge", NUMBERS, samples)]).decode()


def test_the_page_is_read_as_the_librarys_own_page_is() -> None:
    assert list(text_string_to_metric_families(_ours())) == list(text_string_to_metric_families(_theirs()))
