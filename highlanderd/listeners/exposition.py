"""The text of a page of metrics, version 0.0.4, for the kinds of metrics that there are here.

``prometheus_client`` takes several times as long for each sample: for a thousand programs the event loop would do
nothing else for a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.samples import Sample


def text(families: Iterable[Metric]) -> bytes:
    """Return the page of counters, gauges and histograms.

    >>> from prometheus_client.core import GaugeMetricFamily
    >>> text([GaugeMetricFamily("up", "Whether it is up.", 1)])
    b'# HELP up Whether it is up.\\n# TYPE up gauge\\nup 1.0\\n'
    """
    lines: list[str] = []
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        said = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {name} {said}", f"# TYPE {name} {family.type}"]
        lines += map(_line, family.samples)
    return "\n".join((*lines, "")).encode()


def _line(sample: Sample) -> str:
    if not sample.labels:
        return f"{sample.name} {float(sample.value)!r}"
    labels = ",".join([f'{name}="{_escaped(value)}"' for name, value in sorted(sample.labels.items())])
    return f"{sample.name}{{{labels}}} {float(sample.value)!r}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
