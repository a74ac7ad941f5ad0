"""Many rounds as a table: for people in a terminal, and as Markdown for docs/explanation/promise.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from .faults import Bound, Fault
from .rounds import MANY, MANY_NAME, Outcome

HEADS = ("fault", "runs", "overlaps", "lost updates", "longest gap", "median gap", "bound", "child restarts")


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of fault, or many at once."""

    cells: tuple[str, ...]
    faults: int
    failed: int


def row(name: str, bound: str, outcomes: Sequence[Outcome], note: str = "") -> Row:
    """Sum up the rounds of one kind. A gap of 0 is a child that lived through."""
    gaps = [max(gap, 0.0) for outcome in outcomes for gap in outcome.gaps]
    excused = sum(bool(outcome.excused) for outcome in outcomes)
    cells = (
        name + ("*" if note else ""),
        str(sum(bool(outcome.struck) for outcome in outcomes)),
        str(sum(len(outcome.overlaps) for outcome in outcomes)) + (f" ({excused}*)" if excused else ""),
        str(sum(len(outcome.lost) for outcome in outcomes)),
        f"{max(gaps, default=0.0):.2f} s",
        f"{median(gaps) if gaps else 0.0:.2f} s",
        bound,
        str(sum(outcome.restarts for outcome in outcomes)),
    )
    return Row(cells, sum(outcome.struck for outcome in outcomes), sum(bool(one.failed) for one in outcomes))


def rows(faults: Mapping[str, Fault], outcomes: Sequence[Outcome], lease: float) -> list[Row]:
    """Return a row for each kind that was played."""
    by_name = {name: [one for one in outcomes if one.name == name] for name in [*faults, MANY_NAME]}
    bounds = {name: _shown(fault.bound, lease) for name, fault in faults.items() if not fault.spares}
    bounds |= {name: _spared(fault) for name, fault in faults.items() if fault.spares} | {MANY_NAME: str(MANY)}
    notes = {name: fault.doubling or fault.losing for name, fault in faults.items()}
    shown = {MANY_NAME: f"{MANY_NAME} ({sum(one.struck for one in by_name[MANY_NAME])} faults)"}
    return [
        row(shown.get(name, name), bounds[name], some, notes.get(name, "")) for name, some in by_name.items() if some
    ]


def _spared(fault: Fault) -> str:
    """Return the bound of what spares children."""
    return "0" if fault.borne == inf else f"0 up to {fault.borne:g} L"


def _shown(bound: Bound, lease: float) -> str:
    """Say a bound, and what it comes to with this lease."""
    known = bound.leases and not bound.lasting
    return f"{bound} = {bound.limit(lease, 0.0):.1f} s" if known else str(bound)


def text(made: Iterable[Row]) -> str:
    """Align the columns."""
    lines = [HEADS, *(one.cells for one in made)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(made: Iterable[Row]) -> str:
    """Return it for the documentation."""
    lines = [HEADS, ("---", *("---:" for _ in HEADS[1:])), *(one.cells for one in made)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def notes(faults: Mapping[str, Fault], outcomes: Iterable[Outcome]) -> list[str]:
    """Explain the stars, and say how long two lived at once."""
    played = list(outcomes)
    return [
        f"* {name}: {fault.doubling or fault.losing}. This is a stated exception" + _together(name, fault, played)
        for name, fault in faults.items()
        if any(outcome.name == name for outcome in played) and (fault.doubling or fault.losing)
    ]


def _together(name: str, fault: Fault, outcomes: Iterable[Outcome]) -> str:
    if not fault.doubling:
        return ""
    seconds = sorted(outcome.together for outcome in outcomes if outcome.name == name)
    bound = f", where {fault.together} is promised" if fault.together else ""
    return f". Two lived at once for {median(seconds):.2f} s in the middle, {seconds[-1]:.2f} s at most{bound}"
