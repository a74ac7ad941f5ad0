"""The text of a page of metrics, version 0.0.4, for the kinds of metrics that there are here.

``prometheus_client`` takes many times as long for each sample: for a thousand programs the event loop would do nothing
else for a third of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Counter
from prometheus_client.core import Metric
from prometheus_client.samples import Sample


def page(lines: Iterable[str]) -> bytes:
    """Return the page of these lines."""
    return "\n".join((*lines, "")).encode()


def family(name: str, kind: str, said: str, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    """Yield the lines of one metric: of each sample its labels, as ``labels`` writes them, and its value.

    >>> list(family("up", "gauge", "Whether it is up.", [("", 1)]))
    ['# HELP up Whether it is up.', '# TYPE up gauge', 'up 1.0']
    """
    yield from _head(name, kind, said)
    yield from [f"{name}{labels} {float(value)!r}" for labels, value in samples]


def registered(families: Iterable[Metric]) -> Iterator[str]:
    """Yield the lines of counters, gauges and histograms of a registry.

    >>> from prometheus_client.core import GaugeMetricFamily
    >>> list(registered([GaugeMetricFamily("up", "Whether it is up.", 1)]))
    ['# HELP up Whether it is up.', '# TYPE up gauge', 'up 1.0']
    """
    for found in families:
        name = f"{found.name}_total" if found.type == "counter" else found.name
        yield from _head(name, found.type, found.documentation)
        yield from map(_line, found.samples)


def labels(labelled: Mapping[str, str]) -> str:
    r"""Write labels as they stand behind the name of a metric; nothing without any.

    >>> labels({"program": 'a"b'}), labels({})
    ('{program="a\\"b"}', '')
    """
    if not labelled:
        return ""
    return "{" + ",".join([f'{name}="{_escaped(value)}"' for name, value in labelled.items()]) + "}"


class LabelledCounter:
    """A counter with labels. Its text is kept until more is counted: on a quiet day, all day long."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._text: str | None = None

    def labels(self, *values: str) -> Counter:
        """Return the counter of these values, to be counted up at once. It is there from now on."""
        self._text = None
        return self._counter.labels(*values)

    def text(self) -> str:
        """Return its lines."""
        if self._text is None:
            self._text = "\n".join(registered(self._counter.collect()))
        return self._text


def _head(name: str, kind: str, said: str) -> tuple[str, str]:
    escaped = said.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {escaped}", f"# TYPE {name} {kind}"


def _line(sample: Sample) -> str:
    return f"{sample.name}{labels(sample.labels)} {float(sample.value)!r}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
