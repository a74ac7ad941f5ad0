"""What the project wants to reach, and whether a run has reached it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from statistics import median

from .results import OURS, Sample, percentile

Statistic = Callable[[Sequence[float]], float]
p99: Statistic = partial(percentile, share=0.99)


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of ours and its limit: ``most``. With ``beside`` the limit is ``most`` times the median of that peer."""

    words: str
    part: str
    what: str
    """A pattern, of which a version of Python may be a part."""
    size: int
    most: float
    beside: str | None = None
    statistic: Statistic = median


KEEPERS_OF_312 = "leader: keepers and loggers of Python 3.1[2-9], memory of its own"
GOALS = (
    Goal("handover below etcdctl lock's", "handover", "handed over", 1, 1, "etcdctl lock"),
    Goal("handover within 3 x of a bare lock and spawn", "handover", "handed over", 1, 3, "advisory lock and spawn"),
    Goal("handover, p99 within 4 medians", "handover", "handed over", 1, 4, OURS, p99),
    Goal("crash below etcdctl lock's", "handover", "child killed", 1, 1, "etcdctl lock"),
    Goal("crash within 3 x of a bare lock and spawn", "handover", "child killed", 1, 3, "advisory lock and spawn"),
    Goal("a node with 100 leads stops: median gap", "node stopped", "gap of each program", 100, 120),
    Goal("worker replaced, 1 lead", "worker replaced", "last lock held again after", 1, 0.05),
    Goal("worker replaced, 100 leads", "worker replaced", "last lock held again after", 100, 0.3),
    Goal("worker replaced, 1,000 leads", "worker replaced", "last lock held again after", 1000, 2),
    Goal("worker frozen, lease 2 s, load 10", "worker frozen", "children that it cost", 10, 0, None, max),
    Goal("PostgreSQL back, 500 leads", "PostgreSQL restarted", "each lock held again after", 500, 1.5, None, max),
    Goal("PostgreSQL back, 1,000 leads", "PostgreSQL restarted", "each lock held again after", 1000, 3, None, max),
    Goal("1,000 led: the worker's CPU", "led", "leader: worker, CPU", 1000, 12),
    Goal("1,000 led, Python 3.12 or later: keepers and loggers", "led", KEEPERS_OF_312, 1000, 1000),
    Goal("1,000 waiting: the worker's CPU", "led and waited for", "waiting: worker, CPU", 1000, 3),
    Goal("1,000 waiting: statements", "led and waited for", "waiting: statements", 1000, 250),
    Goal("1,000 waiting, shared: CPU", "led and waited for, shared", "waiting: worker, CPU", 1000, 2),
    Goal("1,000 waiting, shared: sessions", "led and waited for, shared", "waiting: sessions", 1000, 19),
    Goal("1,000 waiting, shared: statements", "led and waited for, shared", "waiting: statements", 1000, 5),
    Goal("host lost, worst", "host lost", "led nowhere for", 10, 11.5, None, max),
    Goal("command to first child", "start", "command to first child", 1, 300),
    Goal("status of 1,000 programs", "asking", "status, whole process", 1000, 100),
    Goal("/metrics of 1,000 programs", "asking", "/metrics", 1000, 50),
)


def judged(samples: Sequence[Sample]) -> Iterator[tuple[str, str, str, str]]:
    """Yield words, what was measured, the limit and the verdict of each goal."""
    for goal in GOALS:
        found, unit = _figure(samples, goal, OURS, goal.statistic)
        limit, _ = (goal.most, unit) if goal.beside is None else _figure(samples, goal, goal.beside, median)
        if found is None or limit is None:
            yield goal.words, "not measured" if found is None else f"{found:.4g} {unit}", "", "not known"
            continue
        most = goal.most if goal.beside is None else goal.most * limit
        yield goal.words, f"{found:.4g} {unit}", f"{most:.4g} {unit}", "reached" if found <= most else "missed"


def _figure(samples: Sequence[Sample], goal: Goal, who: str, statistic: Statistic) -> tuple[float | None, str]:
    for sample in samples:
        same = (sample.part, sample.size, sample.who) == (goal.part, goal.size, who)
        if same and fnmatchcase(sample.what, goal.what):
            return statistic(sample.values), sample.unit
    return None, ""
