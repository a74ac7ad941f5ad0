"""Surveys of a node: what they show of the program's row while another node leads, and whom they advise to look.

Stands in for ``survey.py`` and ``watch.py``. A survey comes at any moment, and a fifth of a lease after the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from highlanderd.core.events import LookAdvised
from highlanderd.core.knowledge import same_run
from highlanderd.core.observation import Glimpse, Observation
from highlanderd.core.states import Waiting
from tests.exploration.world import World, clock, set_node
from tests.exploration.world_node import Node, Surveyed
from tests.exploration.world_postgres import Postgres
from tests.exploration.world_turn import news

SURVEY_EVERY = 4
"""Ticks: a fifth of a lease."""


def surveys(world: World, i: int) -> Iterator[tuple[tuple[str, ...], Callable[[], World]]]:
    """List the surveys that tell this node something, of whichever server answers it."""
    node = world.nodes[i]
    if not world.rules.surveyed or not node.awake or not _waits(node):
        return
    for pg in world.servers:
        before, after = node.survey, _read(world, i, pg)
        if after.glimpse != before.glimpse or _advises(node, pg, after, clock(world, i)):
            yield ("surveys", node.name, str(pg.timeline)), partial(survey, world, i, pg)


def survey_overdue(world: World, i: int) -> bool:
    """Whether a node that rests on surveys must have one now."""
    due = survey_due(world.nodes[i])
    return due is not None and clock(world, i) >= due


def survey_due(node: Node) -> float | None:
    """Return when the next survey comes at the latest, if that decides anything."""
    return node.survey.at + SURVEY_EVERY if node.awake and node.survey.standing is not None else None


def survey(world: World, i: int, pg: Postgres) -> World:
    """Read the ledger, and have the program look if it shows anything but a renewal in good time."""
    node, after = world.nodes[i], _read(world, i, pg)
    if not _advises(node, pg, after, clock(world, i)):
        return set_node(world, i, node._replace(survey=after))
    world = set_node(world, i, node._replace(survey=after._replace(standing=None)))
    return news(world, i, LookAdvised()) if node.connected else world


def admitted(world: World, i: int, seen: Observation) -> Surveyed:
    """Return the surveys once they watch the program, or do not, because of what a look has shown."""
    before, row, now = world.nodes[i].survey, seen.row, clock(world, i)
    standing = None
    plain = seen.settled and seen.suspension is None and all(one.released for one in seen.others)
    if row is not None and not row.released and row.instance != world.nodes[i].instance and plain:
        glimpse = before.glimpse
        since = glimpse.at if glimpse is not None and glimpse.version == row.version else now
        if row.system == seen.server.system and now < since + row.trusted_for / 2:
            standing = row.epoch, row.trusted_for
    return before._replace(standing=standing if world.rules.surveyed else None, at=now)


def _waits(node: Node) -> bool:
    return node.situation is not None and isinstance(node.situation.state, Waiting)


def _read(world: World, i: int, pg: Postgres) -> Surveyed:
    before, row, now = world.nodes[i].survey, pg.row(world.nodes[i].lock_id), clock(world, i)
    if row is None or row.system != pg.system:
        return before._replace(glimpse=None, at=now)
    known = before.glimpse
    if known is None or not same_run(known.server, pg.server()):
        return before._replace(glimpse=Glimpse(pg.server(), row.version, now), at=now)
    same = known.version == row.version or not world.rules.counts_versions
    return before._replace(glimpse=Glimpse(pg.server(), row.version, known.at if same else now), at=now)


def _advises(node: Node, pg: Postgres, after: Surveyed, now: float) -> bool:
    if node.survey.standing is None:
        return False
    row, glimpse = pg.row(node.lock_id), after.glimpse
    if row is None or glimpse is None or row.released or (row.epoch, row.trusted_for) != node.survey.standing:
        return True
    return pg.ledger.settled != (pg.system, pg.timeline, pg.ledger.place) or now >= glimpse.at + row.trusted_for / 2
