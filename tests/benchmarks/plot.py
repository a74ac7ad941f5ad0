"""One plot as SVG: how CPU and memory grow with the number of programs, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log10
from statistics import median

from .results import OURS, Sample

WIDTH, HEIGHT, LEFT, BELOW, ABOVE, RIGHT = 760, 360, 60, 40, 20, 260
CURVES = (
    (OURS, "leader: worker, CPU", "worker that leads, % of a core", "#1b6ca8"),
    (OURS, "waiting: worker, CPU", "worker that waits (own), % of a core", "#c0392b"),
    (OURS, "PostgreSQL, CPU", "PostgreSQL below both, % of a core", "#2e8b57"),
    ("supervisord", "CPU", "supervisord, % of a core", "#8e44ad"),
    ("circus", "CPU", "circus, % of a core", "#d68910"),
)
LEAST, MOST = 0.01, 100.0
"""Per cent: the vertical axis. What is less is drawn at the bottom."""


def growth_plot(samples: Sequence[Sample]) -> str:
    """Return the plot of what is known."""
    sizes = sorted({one.size for one in samples}) or [1]
    shapes = [*_grid(sizes), *_curves(samples, sizes)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def _across(size: int, sizes: Sequence[int]) -> float:
    span = log10(sizes[-1] / sizes[0]) or 1.0
    return LEFT + (WIDTH - LEFT - RIGHT) * log10(size / sizes[0]) / span


def _up(value: float) -> float:
    share = log10(min(max(value, LEAST), MOST) / LEAST) / log10(MOST / LEAST)
    return HEIGHT - BELOW - (HEIGHT - BELOW - ABOVE) * share


def _grid(sizes: Sequence[int]) -> Iterator[str]:
    for size in sizes:
        at = _across(size, sizes)
        yield f'<text x="{at:.0f}" y="{HEIGHT - BELOW + 18}" text-anchor="middle">{size:,}</text>'
    for value in (0.01, 0.1, 1, 10, 100):
        at = _up(value)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g} %</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">programs</text>'


def _curves(samples: Sequence[Sample], sizes: Sequence[int]) -> Iterator[str]:
    for number, (who, what, words, colour) in enumerate(CURVES):
        parts = ("led", "led and waited for")
        chosen = [one for one in samples if (one.who, one.what) == (who, what) and one.part in parts]
        latest = {one.size: median(one.values) for one in chosen}
        if not latest:
            continue
        points = " ".join(f"{_across(size, sizes):.1f},{_up(value):.1f}" for size, value in sorted(latest.items()))
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        at = ABOVE + 16 * number + 10
        yield f'<text x="{WIDTH - RIGHT + 20}" y="{at}" fill="{colour}">{words}</text>'
