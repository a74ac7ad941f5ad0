"""Counters and histograms as Prometheus has them. Their text is kept until something more is counted.

``prometheus_client`` takes twenty times as long to write those of a thousand programs, and a daemon's start longer to
import it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from highlanderd.listeners.exposition import family, labels


class Counter:
    """A series for each combination of its labels' values; without labels there is one, which begins with 0."""

    def __init__(self, name: str, said: str, *labelled: str) -> None:
        self._name, self._said, self._labelled = name, said, labelled
        self._counts: dict[tuple[str, ...], float] = {} if labelled else {(): 0}
        self._labels = [] if labelled else [""]
        """As they are written, in the order of the counts."""
        self._text: str | None = None

    def add(self, *values: str, more: float = 1) -> None:
        """Count so many more for these values of its labels; with 0 their series begins."""
        if values not in self._counts:
            self._labels.append(labels(dict(zip(self._labelled, values, strict=True))))
        self._counts[values] = self._counts.get(values, 0) + more
        self._text = None

    def text(self) -> str:
        """Return its lines."""
        if self._text is None:
            samples = zip(self._labels, self._counts.values(), strict=True)
            self._text = "\n".join(family(self._name, "counter", self._said, samples))
        return self._text


class Histogram:
    """How often what was observed, in seconds, was at most as much as each of its bounds."""

    def __init__(self, name: str, said: str, bounds: Sequence[float]) -> None:
        """``bounds`` ascend."""
        self._name, self._said, self._bounds = name, said, bounds
        self._counts, self._sum = [0] * (len(bounds) + 1), 0.0

    def observe(self, seconds: float) -> None:
        """Add what was observed once."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def text(self) -> str:
        """Return its lines."""
        return "\n".join(family(self._name, "histogram", self._said, self._samples()))

    def _samples(self) -> Iterator[tuple[str, float]]:
        bounds = [*map(str, self._bounds), "+Inf"]
        for bound, count in zip(bounds, accumulate(self._counts), strict=True):
            yield f"_bucket{labels({'le': bound})}", count
        yield "_count", sum(self._counts)
        yield "_sum", self._sum
