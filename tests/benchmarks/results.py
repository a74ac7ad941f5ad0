"""Where measurements put their samples: raw, a JSON line for each, into the file that ``BENCH_RESULTS`` names.

``python -m tests.benchmarks`` names one, and judges the goals by it; ``pages.py`` makes the tables in the docs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

OURS = "highlanderd"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one measurement has found, in the order of its rounds."""

    part: str
    """The table that it belongs to."""
    what: str
    who: str
    size: int
    """Programs."""
    unit: str
    values: tuple[float, ...]
    load: float
    """The machine's load when it was written."""


def note(part: str, what: str, who: str, values: Sequence[float], unit: str, size: int = 1) -> None:
    """Keep a sample, and print what follows from it."""
    values = tuple(values)
    if not values:
        return
    sample = Sample(part, what, who, size, unit, values, os.getloadavg()[0])
    print(f"  {who:22} {what:44} {size:5}  {in_words(sample)}", flush=True)
    _keep(asdict(sample))


def lacking(part: str, who: str, why: str) -> None:
    """Say what is not measured, and keep that, too."""
    print(f"  {who:22} not measured: {why}", flush=True)
    _keep({"part": part, "who": who, "lacks": why})


def _keep(fact: Mapping[str, object]) -> None:
    if path := os.environ.get("BENCH_RESULTS"):
        with Path(path).open("a") as file:
            file.write(json.dumps(fact) + "\n")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def in_words(sample: Sample) -> str:
    """Say the percentiles of a sample; a single value as it is."""
    if len(sample.values) == 1:
        return f"{sample.values[0]:10.2f} {sample.unit}"
    p50, p90, p99 = median(sample.values), percentile(sample.values, 0.9), percentile(sample.values, 0.99)
    return f"p50 {p50:8.2f}  p90 {p90:8.2f}  p99 {p99:8.2f} {sample.unit} of {len(sample.values)}"
