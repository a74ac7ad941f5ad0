"""Answers as text for people: pure functions from the daemon's JSON to lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from highlanderd.durations import clock, shown, span
from highlanderd.errors import enumerated

HEADINGS: Final = ("PROGRAM", "STATE", "SINCE", "LEADER", "EPOCH", "PID", "UPTIME", "RESTARTS", "REASON")
STATE_COLUMN: Final = 1
NAME_COLUMNS: Final = (0, 3)
"""Of programs and nodes: they are cut where a terminal is too narrow."""
SPARE: Final = (7, 6, 4)
"""RESTARTS, UPTIME and EPOCH: a narrow terminal leaves them out in this order. ``show`` has them."""
GOOD_REASON: Final = 40
"""Columns in which a reason can be read."""
SHORTEST_NAME: Final = 7
"""Letters that are left of a name."""
REASON_ROOM: Final = 24
"""Columns that a reason, or a cause, gets before a name is cut."""
NARROWEST_REASON: Final = 12
"""Columns that a reason needs in its row; with fewer it stands below."""
TALLEST_REASON: Final = 2
"""Lines that a reason may take in its column; a longer one stands below its row, where a line has more room."""

_COLOURS: Final = {"leading": "32", "draining": "33", "stopped": "33", "backoff": "31"}


def age(program: Mapping[str, Any], now: float) -> float | None:
    """Return the seconds since a program's state was entered; ``now`` is in seconds of the epoch."""
    try:
        return now - datetime.fromisoformat(program["since"]).timestamp()
    except ValueError:
        return None


def plain(value: object) -> str:
    """Return text that a terminal only prints: what children and servers say may hold control characters.

    >>> plain("a\\x1b[31mb"), plain(None), plain("")
    ('a\\ufffd[31mb', '-', '-')
    """
    text = "" if value is None else str(value)
    if text.isprintable():
        return text or "-"
    return "".join(c if c.isprintable() else "\ufffd" for c in text.expandtabs()) or "-"


def cells(program: Mapping[str, Any], age: float | None) -> tuple[str, ...]:
    """Return one row of the status table; ``age`` is the seconds since its state was entered."""
    reason = program["reason"] or ("" if program["connected"] else "not connected to PostgreSQL")
    return (
        plain(program["name"]),
        plain(program["state"]),
        span(age),
        plain(program["leader"]),
        plain(program["epoch"]),
        plain(program["pid"]),
        span(program["uptime"]),
        plain(program["restarts"]),
        plain(reason) if reason else "",
    )


def table(rows: Sequence[tuple[str, ...]], *, width: int | None, colour: bool) -> list[str]:
    """Return aligned lines under headings.

    In ``width`` columns what matters least is left out where a reason needs the room, long names are cut, and the
    reason goes on below.
    """
    whole = _without_spare([HEADINGS, *rows], width)
    widths = _narrowed([*_widths(whole)[:-1], REASON_ROOM], width, NAME_COLUMNS)
    lines = []
    for number, row in enumerate(whole):
        line, *more = _folded_row(row, widths, width)
        if colour and number:
            line = _coloured(line, widths, row[STATE_COLUMN])
        lines += [line, *more] if number else [line]
    return lines


def folded(rows: Sequence[Sequence[str]], width: int | None, names: Sequence[int]) -> list[str]:
    """Return aligned lines under headings, whose last column goes on below where ``width`` columns do not hold it.

    The columns of ``names`` are cut where that leaves it no room.
    """
    widths = _narrowed([*_widths(rows)[:-1], REASON_ROOM], width, names)
    headings, *below = [_folded_row(row, widths, width) for row in rows]
    return [headings[0], *(line for lines in below for line in lines)]


def _folded_row(row: Sequence[str], widths: Sequence[int], width: int | None) -> list[str]:
    """Return the line of a row, and the lines on which its last cell goes on."""
    if width is None:
        return ["  ".join(map(str.ljust, row, widths)).rstrip()]
    cells = [cut(cell, size).ljust(size) for cell, size in zip(row[:-1], widths, strict=False)]
    first, *more = _reason(row[-1], sum(widths[:-1]) + 2 * (len(widths) - 1), width)
    return [cut("  ".join([*cells, first]).rstrip(), width), *more]


def fitted(rows: Sequence[Sequence[str]], width: int | None, elastic: Sequence[int]) -> list[str]:
    """Return aligned lines, with the ``elastic`` columns cut as far as a terminal of ``width`` columns needs it."""
    widths = _narrowed(_widths(rows), width, elastic)
    return [
        "  ".join(cut(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _without_spare(rows: Sequence[tuple[str, ...]], width: int | None) -> list[tuple[str, ...]]:
    """Return the rows without the spare columns that leave the longest reason no room in ``width``."""
    if width is None:
        return list(rows)
    longest = min(max(len(row[-1]) for row in rows), GOOD_REASON)
    columns = list(range(len(HEADINGS)))
    for spare in SPARE:
        sizes = _widths([[row[column] for column in columns] for row in rows])
        if sum(sizes[:-1]) + 2 * (len(sizes) - 1) + longest <= width:
            break
        columns.remove(spare)
    return [tuple(row[column] for column in columns) for row in rows]


def _narrowed(widths: list[int], width: int | None, elastic: Sequence[int]) -> list[int]:
    """Return the widths, with the widest of the ``elastic`` columns cut until a row fits, or names are too short."""
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        widest = max(elastic, key=lambda column: widths[column])
        if widths[widest] <= SHORTEST_NAME:
            break
        widths[widest] -= 1
    return widths


def _reason(reason: str, indent: int, width: int | None) -> list[str]:
    """Return the part that stands in its row, and the lines below it."""
    if width is None or not reason:
        return [reason]
    from textwrap import wrap  # for this alone

    if width - indent >= NARROWEST_REASON:
        first, *more = wrap(reason, width - indent) or [""]
        if len(more) < TALLEST_REASON:
            return [first, *(" " * indent + line for line in more)]
    return ["", *(f"    {line}" for line in wrap(reason, max(width - 4, 1)))]


def counts(programs: Sequence[Mapping[str, Any]]) -> str:
    """Return how many programs are in which state.

    >>> counts([{"state": "leading"}, {"state": "backoff"}, {"state": "leading"}])
    '3 programs: 1 backoff, 2 leading'
    """
    found = Counter(plain(program["state"]) for program in programs)
    listed = ", ".join(f"{found[state]} {state}" for state in sorted(found))
    return f"{len(programs)} {'program' if len(programs) == 1 else 'programs'}: {listed or 'none'}"


def sickest_first(programs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the programs in the order in which an operator should look at them."""

    def health(program: Mapping[str, Any]) -> int:
        state = program["state"]
        if state == "waiting":
            return 2 if program["leader"] is None else 4
        return {"backoff": 0, "draining": 1, "leading": 4}.get(state, 3)

    return sorted(programs, key=health)


def cut(line: str, width: int | None) -> str:
    """Cut a line that would wrap.

    >>> cut("leading", 5)
    'lead…'
    """
    return line if width is None or len(line) <= width else line[: max(0, width - 1)] + "…"


def _coloured(line: str, widths: Sequence[int], state: str) -> str:
    begin = sum(widths[:STATE_COLUMN]) + 2 * STATE_COLUMN
    end = begin + len(state)
    if state not in _COLOURS or len(line) < end:
        return line
    return f"{line[:begin]}\x1b[{_COLOURS[state]}m{line[begin:end]}\x1b[0m{line[end:]}"


def ordered_by(held: Mapping[str, Any]) -> str:
    """Return by whom a node is drained, or a program stopped everywhere, and why.

    >>> ordered_by({"by": "ann", "reason": "new disk"}), ordered_by({"by": "ann", "reason": ""})
    ('by ann: new disk', 'by ann')
    """
    return f"by {held['by']}" + (f": {held['reason']}" if held["reason"] else "")


def maintenance(under_way: Mapping[str, Any], postgres: Mapping[str, Any], now: float) -> list[str]:
    """Return the lines of ``status`` about a maintenance of PostgreSQL: until when, by whom, why, and its price.

    A node that cannot ask PostgreSQL goes by what it knew: once the time is over, it says so.
    """
    when, whose = plain(clock(under_way["until"], now)), f"by {plain(under_way['author'])}"
    if not postgres["connected"] and _past(under_way["until"], now):
        longer, usual = shown(under_way["lease"]), shown(postgres["lease"])
        return [
            f"maintenance {whose} has ended at {when}",
            f"  leases of {longer} go back to {usual} once PostgreSQL answers",
        ]
    reason = f": {plain(under_way['reason'])}" if under_way["reason"] else ""
    return [
        f"maintenance until {when} {whose}{reason}",
        f"  leases of {shown(under_way['lease'])} instead of {shown(postgres['lease'])}, a lost node is replaced "
        f"within {shown(postgres['replaced_within'])}",
    ]


def _past(moment: str, now: float) -> bool:
    try:
        return datetime.fromisoformat(moment).timestamp() < now
    except ValueError:
        return False


def lengths(report: Mapping[str, Any], headline: str, now: float) -> list[str]:
    """Return what an operator must know after an order that changed the lengths of leases."""
    under_way, lines = report["maintenance"], [headline] if headline else []
    if under_way is not None:
        until, outage = plain(clock(under_way["until"], now)), shown(under_way["outage"])
        away = f"until {until} PostgreSQL may go away for up to {outage}"
        lines += [
            f"{away}, once each leader uses its lease" if report["pending"] else f"{away}: that stops no child",
            f"leases are {shown(report['in_force'])} instead of {shown(report['lease'])}",
        ]
    meanwhile = "" if under_way is None else " meanwhile"
    lines.append(f"a node that is lost{meanwhile} is replaced within {shown(report['replaced_within'])}")
    if report["pending"]:
        lines.append(f"not in force yet: {plain(enumerated(report['pending']))}")
    return lines


def facts(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Return ``name  value`` lines, aligned."""
    known = [(name, plain(value)) for name, value in pairs]
    size = max((len(name) for name, _ in known), default=0)
    return [f"{name.ljust(size)}  {value}" for name, value in known]


def detail(program: Mapping[str, Any], age: float | None) -> list[str]:
    """Return everything about one program."""
    lines = [*_facts_of(program, age), "", "processes", *(tree(program["processes"]) or ["  none on this node"])]
    more = program.get("more_processes", 0)
    lines += [f"  and {more} more"] if more else []
    return [*lines, "", "last output", *([f"  {plain(line)}" for line in program["output"]] or ["  none on this node"])]


def _facts_of(program: Mapping[str, Any], age: float | None) -> list[str]:
    lease = program["lease_remaining"]
    return facts(
        [
            ("program", program["name"]),
            ("description", program["description"]),
            ("state", f"{program['state']} for {span(age)} (wanted: {program['want']})"),
            ("reason", program["reason"]),
            ("leader", program["leader"]),
            ("epoch", program["epoch"]),
            ("lease left", None if lease is None else f"{lease:.1f}s"),
            ("lock key", f"{program['lock_key']} (lock id {program['lock_id']})"),
            ("PostgreSQL", "connected" if program["connected"] else "not connected"),
            ("pid", program["pid"]),
            ("ready", "yes" if program["ready"] else "no"),
            ("uptime", span(program["uptime"])),
            ("restarts", program["restarts"]),
            ("last exit", last_exit(program.get("last_exit"))),
            ("failures", f"{program['failures']} in a row"),
            ("command", _quoted(program["command"])),
            ("directory", program["directory"]),
            ("user", program["user"]),
            ("environment", ", ".join(program["environment"])),
            ("stdout", _goes_to(program, "stdout")),
            ("stderr", _goes_to(program, "stderr")),
        ]
    )


def _goes_to(program: Mapping[str, Any], stream: str) -> str | None:
    """Return where a stream goes, and why it does not come there; daemons of early versions do not say it."""
    target, unwritable = program.get(stream), program.get("unwritable", {})
    return f"{target}; cannot be written: {unwritable[target]}" if target in unwritable else target


def last_exit(last: Mapping[str, Any] | None) -> str | None:
    """Return how the latest child has ended, in words.

    >>> last_exit({"at": "2026-01-02T03:04:05.678Z", "epoch": 7, "status": None, "signal": "SIGKILL"})
    'killed by SIGKILL at 2026-01-02T03:04:05.678Z, epoch 7'
    """
    return None if last is None else f"{_how(last)} at {last['at']}, epoch {last['epoch']}"


def finished(program: Mapping[str, Any]) -> str:
    """Return that a program has finished, and how where that was on this node.

    >>> finished({"epoch": 7, "last_exit": {"epoch": 7, "status": 3, "signal": None}})
    'finished (status 3), epoch 7'
    """
    last, epoch = program.get("last_exit"), program["epoch"]
    how = "" if last is None or last["epoch"] != epoch else f" ({_how(last)})"
    return f"finished{how}, epoch {epoch}"


def finished_somewhere(term: Mapping[str, Any]) -> str:
    """Return where a term has finished, and how as far as the history knows.

    >>> finished_somewhere({"node": "b", "epoch": 7, "exit_status": 3, "exit_signal": None})
    'finished on b (status 3), epoch 7'
    """
    last = {"status": term["exit_status"], "signal": term["exit_signal"]}
    how = "" if last["status"] is None and last["signal"] is None else f" ({_how(last)})"
    return f"finished on {plain(term['node'])}{how}, epoch {term['epoch']}"


def _how(last: Mapping[str, Any]) -> str:
    return f"status {last['status']}" if last["signal"] is None else f"killed by {last['signal']}"


def _quoted(command: Sequence[str]) -> str:
    return " ".join(word if word and not set(word) & set(" \t\n\"'\\$`") else repr(word) for word in command)


def tree(processes: Sequence[Mapping[str, Any]], depth: int = 1, parent: int | None = None) -> list[str]:
    """Return a program's processes, children below their parents; orphans stand at the top."""
    pids = {process["pid"] for process in processes}
    lines = []
    for process in processes:
        at_top = parent is None and (process["parent"] not in pids)
        if at_top or (parent is not None and process["parent"] == parent):
            lines.append(f"{'  ' * depth}{process['pid']}  {plain(process['name'])}")
            lines += tree(processes, depth + 1, process["pid"])
    return lines
