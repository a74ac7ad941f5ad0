"""The picture: pure functions from what is known to lines. On a terminal it is drawn in place, else only told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .cluster import LEASE, NODES, PROGRAMS, Cluster, Node
from .mischief import Cost, Row
from .witness import CELL, Witness

COLOURS = dict(zip(NODES, ("36", "35", "33"), strict=True))
MARKS = {"leading": "●", "waiting": "○", "draining": "◐", "backoff": "◌", "stopped": "■"}
PLAIN_MARKS = {"leading": "*", "waiting": ".", "draining": "~", "backoff": "x", "stopped": "-"}
COLUMN = 11
"""Characters of a node's column."""
LEFT = 11 + 9 + 7 + 7 + COLUMN * len(NODES) + 1
"""Characters before the strip."""
FINE_PRINT = """\
A gap lasts from the last line of one child to the first line of the next. Children write every
20 ms, and each is a Python that has to start: both times are in it. "Lived on" are children
whose own daemon or PostgreSQL was hit."""


@dataclass(frozen=True, slots=True)
class Style:
    """What the terminal can show."""

    colour: bool
    unicode: bool

    def paint(self, text: str, *codes: str) -> str:
        """Colour a text that is already as wide as it shall be."""
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self.colour else text

    def node(self, name: str, text: str = "", *more: str) -> str:
        """Paint in a node's colour."""
        return self.paint(text or name, COLOURS[name], *more)

    def mark(self, state: str) -> str:
        """Return the sign of a state."""
        return (MARKS if self.unicode else PLAIN_MARKS)[state]


@dataclass(slots=True)
class Show:
    """What is shown besides the cluster itself."""

    began: float
    now: float
    rounds: int = 0
    next: str = ""
    log: list[str] = field(default_factory=list)


def picture(style: Style, cluster: Cluster, witness: Witness, show: Show, width: int, height: int) -> list[str]:
    """Return the whole screen."""
    head = [*_heading(style, show, width), "", *_table(style, cluster, witness, show.now, width), ""]
    foot = ["", *_footing(style, witness)]
    announced = [style.paint(show.next, "1"), ""]
    room = max(0, height - len(head) - len(foot) - len(announced) - 1)
    log = show.log[-room:] if room else []
    said = [style.paint("What was done, and for how long no child ran", "4"), *log]
    return [cut(line, width) for line in (*head, *announced, *said, *foot)][:height]


def _heading(style: Style, show: Show, width: int) -> list[str]:
    title = "highlanderd demo"
    about = f"three nodes, one PostgreSQL, a lease of {LEASE:g} s"
    round_ = f"round {show.rounds}  " if show.rounds else ""
    right = f"{round_}{clock(show.now - show.began)}  Ctrl-C ends it"
    gap = " " * max(2, width - len(title) - len(about) - len(right) - 3)
    return [f"{style.paint(title, '1')}  {style.paint(about, '2')}{gap}{right}"]


def _table(style: Style, cluster: Cluster, witness: Witness, now: float, width: int) -> list[str]:
    cells = max(0, min(80, width - LEFT - 1))
    nodes = "".join(style.node(node.name, node.name.ljust(COLUMN), "1") for node in cluster.nodes)
    heading = style.paint(f"{'PROGRAM':<11}{'LEADER':<9}{'EPOCH':>5}  {'SINCE':<7}", "2")
    ago = f"the last {cells * CELL:.0f} s"
    lines = [heading + nodes + style.paint(f"{ago:>{cells}}"[:cells] if cells else "", "2")]
    lines += [_row(style, cluster, witness, name, now, cells) for name in PROGRAMS]
    beneath = "".join(style.paint(_health(node).ljust(COLUMN), "2" if node.well else "31") for node in cluster.nodes)
    server = "PostgreSQL runs" if cluster.postmaster else "PostgreSQL is down"
    column = server.ljust(LEFT - COLUMN * len(NODES) - 1)
    return [*lines, style.paint(column, "2" if cluster.postmaster else "31") + beneath]


def _row(style: Style, cluster: Cluster, witness: Witness, name: str, now: float, cells: int) -> str:
    life = witness.lives.get(name)
    leader = cluster.leader(name)
    who = style.node(leader.name, leader.name.ljust(9), "1") if leader else style.paint("nobody   ", "31", "1")
    epoch = str(life.epoch) if life else "-"
    since = clock(now - life.began) if life and leader and leader.name == life.node else "-"
    states = "".join(_state(style, node, name) for node in cluster.nodes)
    return f"{name:<11}{who}{epoch:>5}  {since:<7}{states} {_strip(style, witness, name, now, cells)}"


def _state(style: Style, node: Node, program: str) -> str:
    status = node.program(program)
    if status is None:
        return style.paint(("down" if not node.runs else "...").ljust(COLUMN), "31")
    state = str(status["state"])
    text = f"{style.mark(state)} {state}".ljust(COLUMN)
    return style.node(node.name, text, "1") if state == "leading" else style.paint(text, "2")


def _strip(style: Style, witness: Witness, name: str, now: float, cells: int) -> str:
    """One cell for each quarter of a second: whose child wrote in it; the last one that is over is at the right."""
    wrote = dict(witness.strips[name])
    last = int(now / CELL) - 2
    first = min(wrote, default=last + 1)
    strip = ""
    for number in range(last - cells + 1, last + 1):
        node = wrote.get(number)
        if node is not None:
            strip += style.node(node, "▆" if style.unicode and style.colour else node[0])
        else:
            strip += " " if number < first else style.paint("·" if style.unicode else "_", "31", "1")
    return strip


def _health(node: Node) -> str:
    if not node.runs:
        return "killed"
    if node.seen is None:
        return "starting"
    return f"pid {node.guardian}" if node.well else "no session"


def _footing(style: Style, witness: Witness) -> list[str]:
    lives, overlaps = len(witness.handovers) + len(witness.lives), witness.overlaps
    verdict = f"{lives} lives of {len(PROGRAMS)} programs, {len(overlaps)} overlaps"
    why = "say the children's own lines, one every 20 ms, whatever the daemons believe"
    painted = style.paint(verdict, "1", "31" if overlaps else "32")
    return [f"{painted} {style.paint(why, '2')}", *(style.paint(overlap, "31") for overlap in overlaps)]


def told(style: Style, cost: Cost) -> str:
    """Say what an act cost, in one line."""
    if cost.trouble:
        return style.paint(cost.trouble, "31", "1")
    moved = [
        f"{one.before.program} {'→' if style.unicode else '->'} {style.node(one.after.node)} {milliseconds(one.gap)}"
        for one in cost.handovers
    ]
    if cost.kept:
        moved.append(f"{cost.kept} {'child' if cost.kept == 1 else 'children'} lived on")
    return ", ".join(moved) or "nobody was concerned"


def summary(style: Style, rows: Sequence[Row], witness: Witness) -> list[str]:
    """Return the last words."""
    lines = [f"{'':<26}{'times':>6}{'lived on':>10}{'moved':>7}{'median':>10}{'longest':>10}"]
    for row in rows:
        gaps = (milliseconds(row.median), milliseconds(max(row.gaps))) if row.gaps else ("-", "-")
        lines.append(f"{row.kind:<26}{row.times:>6}{row.kept:>10}{len(row.gaps):>7}{gaps[0]:>10}{gaps[1]:>10}")
    overlaps = witness.overlaps
    kills, all_ = sum(row.times for row in rows if row.kills), sum(row.times for row in rows)
    numbers = ((all_, "round"), (kills, "kill"), (len(witness.handovers), "handover"), (len(overlaps), "overlap"))
    line = ", ".join(f"{number} {word if number == 1 else word + 's'}" for number, word in numbers)
    verdict = style.paint(line, "1", "31" if overlaps else "32")
    return [style.paint(lines[0], "2"), *lines[1:], "", style.paint(FINE_PRINT, "2"), "", verdict, *overlaps]


def cut(line: str, width: int) -> str:
    """Cut a line that would wrap; what only changes its colour takes no room.

    >>> cut("leading", 4), cut("\\x1b[32mleading\\x1b[0m", 4), cut("led", 3)
    ('lead', '\\x1b[32mlead\\x1b[0m', 'led')
    """
    kept, room = "", width
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if not part.startswith("\x1b"):
            part, room = part[:room], max(0, room - len(part))
        kept += part
    return kept


def milliseconds(seconds: float) -> str:
    """Write a gap.

    >>> milliseconds(0.0314), milliseconds(4.21)
    ('31 ms', '4210 ms')
    """
    return f"{seconds * 1000:.0f} ms"


def clock(seconds: float) -> str:
    """Write a time that has passed.

    >>> clock(75.9), clock(3700)
    ('01:15', '61:40')
    """
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02}"


def joined(lines: Iterable[str]) -> str:
    """Return what draws these lines over the last picture; clearing first would flicker."""
    return "\x1b[H" + "\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J"
