"""Put the figures of one run into the documentation: ``python -m tests.benchmarks.pages RESULTS``.

``RESULTS`` is the file that ``make bench`` has written. What stands between the marks of ``performance.md`` and
``scale.md`` is replaced, and the plot is drawn anew: nothing there is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .goals import judged
from .plot import growth_plot
from .results import OURS, Sample, percentile

DOCS = Path(__file__).parents[2] / "docs/explanation"
TITLES = {
    "handover": "From the old child's last act to the new one's first",
    "start": "From the command to the first child",
    "worker replaced": "A worker is killed, and the next one takes all locks back",
    "worker frozen": "A worker is frozen: lease 2 s, ten processes that keep two processors busy",
    "node stopped": "A node that leads 100 programs is stopped",
    "PostgreSQL restarted": "PostgreSQL is restarted",
    "host lost": "A host is lost, lease and peers' times 10 s",
    "asking": "Asking",
    "output": "Output of one child into a file in memory",
    "led": "Programs that are led, lease 10 s",
    "led and waited for": 'The same, and a second node waits for all of them, with `standby_connections = "own"`',
    "led and waited for, shared": 'The same with `standby_connections = "shared"` on the second node',
}
ALL_RUN = "until all run"
IN_SCALE = ("led", "led and waited for", "led and waited for, shared")


def read(path: Path) -> tuple[dict[str, Any], list[Sample], list[dict[str, str]]]:
    """Return what a file says about the run, its samples, and what could not be measured."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    samples = [Sample(**{**one, "values": tuple(one["values"])}) for one in lines if "values" in one]
    lacks = [one for one in lines if "lacks" in one]
    return next((one for one in lines if "machine" in one), {}), samples, lacks


def table(rows: Sequence[Sequence[str]], *, numbers: int = 1) -> str:
    """Return a table of Markdown; all columns but the first ``numbers`` are numbers."""
    head, *rest = rows
    line = ["---"] * numbers + ["---:"] * (len(head) - numbers)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, line, *rest))


def timed(samples: Sequence[Sample]) -> str:
    """Return the table of samples with percentiles, and the ratio of each median to ours."""
    rows: list[tuple[str, ...]] = [("what", "programs", "who", "p50", "p90", "p99", "unit", "of", "x ours")]
    for one in sorted(samples, key=lambda one: (one.what, one.size, median(one.values))):
        ours = [other for other in samples if (other.what, other.size, other.who) == (one.what, one.size, OURS)]
        middle = median(one.values)
        ratio = f"{middle / median(ours[0].values):.2f}" if ours and median(ours[0].values) else ""
        shown = [_number(value) for value in (middle, *(percentile(one.values, share) for share in (0.9, 0.99)))]
        rows.append((one.what, f"{one.size:,}", one.who, *shown, one.unit, str(len(one.values)), ratio))
    return table(rows, numbers=3)


def grown(samples: Sequence[Sample]) -> str:
    """Return the table of single values, a column for each size."""
    sizes = sorted({one.size for one in samples})
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for one in samples:
        found.setdefault((one.who, one.what, one.unit), {})[one.size] = median(one.values)
    rows: list[tuple[str, ...]] = [("who", "what", "unit", *(f"{size:,}" for size in sizes))]
    rows += [(*key, *(_number(by[size]) if size in by else "" for size in sizes)) for key, by in found.items()]
    return table(rows, numbers=3)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def about(run: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """Return the sentences that say where the figures come from."""
    loads = sorted(one.load for one in samples)
    return (
        f"One run of `make bench`, {run.get('date')}, commit {run.get('commit')}, {run.get('seconds', 0) / 60:.0f} "
        f"minutes. Machine: {run.get('machine')}. Load of the machine while it ran: {loads[0]:.1f} at the least, "
        f"{median(loads):.1f} in the middle, {loads[-1]:.1f} at the most; the measurements themselves are part of it."
    )


def performance(run: Mapping[str, Any], samples: Sequence[Sample], lacks: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield the paragraphs of the page about one program."""
    yield about(run, samples)
    yield "### Goals"
    yield table([("goal", "measured", "limit", "verdict"), *judged(samples)], numbers=1)
    for part, title in TITLES.items():
        chosen = [one for one in samples if one.part == part and one.what != ALL_RUN]
        if part not in IN_SCALE:
            yield from _section(title, timed(chosen) if chosen else None, part, lacks)


def _section(title: str, figures: str | None, part: str, lacks: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield the paragraphs about one part: its table, and what could not be measured."""
    missing = dict.fromkeys(
        f"Not measured: {one['who']}, because {one['lacks']}." for one in lacks if one["part"] == part
    )
    shown = [] if figures is None else [figures]
    if shown or missing:
        yield from (f"### {title}", *shown, *missing)


def scale(run: Mapping[str, Any], samples: Sequence[Sample], lacks: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield the paragraphs of the page about many programs."""
    yield about(run, samples)
    chosen = [one for one in samples if one.what == ALL_RUN]
    if chosen:
        yield "### Starting so many programs"
        yield grown(chosen)
    for part in IN_SCALE:
        chosen = [one for one in samples if one.part == part]
        yield from _section(TITLES[part], grown(chosen) if chosen else None, part, lacks)


def written(page: Path, paragraphs: Iterator[str]) -> None:
    """Replace what stands between the marks of a page."""
    text = page.read_text()
    figures = "\n\n".join(paragraphs)
    marks = r"(<!-- figures of one run -->\n).*?(\n<!-- end of figures -->)"
    page.write_text(re.sub(marks, lambda found: f"{found[1]}\n{figures}\n{found[2]}", text, flags=re.DOTALL))


def main() -> None:
    """Write both pages and the plot."""
    run, samples, lacks = read(Path(sys.argv[1]))
    written(DOCS / "performance.md", performance(run, samples, lacks))
    written(DOCS / "scale.md", scale(run, samples, lacks))
    (DOCS / "growth.svg").write_text(growth_plot([one for one in samples if one.part in IN_SCALE]))


if __name__ == "__main__":
    main()
