"""The history as the control socket gives it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import asdict
from multidict import MultiMapping

from highlanderd.api import DEFAULT_TERMS, MOST_TERMS, is_number
from highlanderd.core.terms import Former, PastTerm, SkippedTimes, by_program
from highlanderd.errors import BadRequest

Read = Callable[[Sequence[str], int], Awaitable[tuple[PastTerm, ...]]]
"""Returns the newest terms of the programs that names choose, so many at most, the newest last."""

ReadSkipped = Callable[[Sequence[str], int], Awaitable[tuple[SkippedTimes, ...]]]
"""Returns the newest scheduled times of the same programs that were skipped, so many lines at most, the newest last."""


async def history_facts(
    read: Read, read_skipped: ReadSkipped, one: str | None, query: MultiMapping[str]
) -> dict[str, object]:
    """Return the JSON of ``GET /v1/history`` and ``GET /v1/history/{name}``. Raises HighlanderError."""
    names = query.getall("name", []) if one is None else [one]
    summary = query.get("summary", "false")
    if summary not in ("true", "false"):
        raise BadRequest(f"summary={summary!r} must be true or false")
    limit = _limit(query)
    terms = await read(names, limit)
    if summary == "true":
        return _summary(terms)
    skipped = await read_skipped(names, limit)
    return terms_facts(terms) | {"skipped": [_skipped_facts(one) for one in skipped]}


def terms_facts(terms: Sequence[PastTerm]) -> dict[str, object]:
    """Return the JSON of terms."""
    return {"terms": [_facts(term) for term in terms]}


def _skipped_facts(skipped: SkippedTimes) -> dict[str, object]:
    return {
        "program": skipped.program,
        "from": skipped.first,
        "to": skipped.last,
        "times": skipped.times,
        "cause": skipped.reason,
        "node": skipped.node,
        "recorded": skipped.recorded,
    }


def _limit(query: MultiMapping[str]) -> int:
    text = query.get("limit", str(DEFAULT_TERMS))
    if not is_number(text, MOST_TERMS):
        raise BadRequest(f"limit={text!r} must be a number of terms from 1 to {MOST_TERMS}")
    return int(text)


def _facts(term: PastTerm) -> dict[str, object]:
    return {
        "program": term.program,
        "epoch": term.epoch,
        "node": term.node,
        "from": term.began,
        "to": term.ended,
        "led": term.lasted,
        "gap": term.gap,
        "cause": term.cause,
        "exit_status": term.exit_status,
        "exit_signal": term.exit_signal,
        "author": term.author,
        "reason": term.remark,
        "scheduled": term.scheduled,
    }


def _summary(terms: Sequence[PastTerm]) -> dict[str, object]:
    programs = [
        {
            "program": one.program,
            "terms": one.terms,
            "led": one.led,
            "gaps": [asdict(gaps) for gaps in one.gaps],
            "scheduled": one.scheduled,
        }
        for one in by_program(terms)
    ]
    since = min((term.began for term in terms), default=None)
    overlaps = [
        {**_pair(term, term.former), "overlap": None if term.gap is None else -term.gap}
        for term in terms
        if term.former is not None and term.overlaps
    ]
    unwritten = [{**_pair(term, term.former), "epochs": term.unwritten} for term in terms if term.unwritten > 0]
    return {
        "terms": len(terms),
        "since": since,
        "programs": programs,
        "overlaps": overlaps,
        "unwritten": unwritten,
    }


def _pair(term: PastTerm, former: Former | None) -> dict[str, object]:
    return {
        "program": term.program,
        "epoch": term.epoch,
        "node": term.node,
        "from": term.began,
        "former_epoch": None if former is None else former.epoch,
        "former_node": None if former is None else former.node,
    }
