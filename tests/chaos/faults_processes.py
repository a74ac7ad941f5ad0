"""SIGKILL and SIGSTOP of any process of a daemon, of a node's whole tree, and of the machine itself."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from random import Random

from highlanderd.errors import HighlanderError
from tests.support.deaths import marked
from tests.support.nodes import Node
from tests.support.wait import wait_for

from .bed import Bed
from .faults import Bound, Missed, Strike, fault

ORDERLY = Bound(seconds=1)
"""The end is proven, released and told: milliseconds, and whatever a busy machine takes for them."""
FROZEN = Bound(0.6)
"""The keeper kills 9/10 L after the last renewal whose answer was read; others lead 13/10 L after the last that was
written, which may be one renewal, 2/10 L, later."""
LOADED_WITHIN = 20.0
"""Seconds in which the installed code loads."""
LOST = Bound(1.3)
"""After the last renewal; the children of a lost node die with it."""


def _worker(node: Node) -> list[int]:
    return _some(node.mine(b"--worker"))


def _answers(node: Node, before: int) -> bool:
    try:
        return node.mine(b"--worker") != [before] and bool(node.status())
    except HighlanderError:
        return False


def _keeper(node: Node, program: str) -> list[int]:
    try:
        return [node.keeper(program)]
    except StopIteration:
        raise Missed from None


def _daemon(node: Node) -> list[int]:
    return [node.guardian, *_worker(node)]


def _some(pids: Sequence[int]) -> list[int]:
    if not pids:
        raise Missed
    return [*pids]


def _kill(bed: Bed, node: Node, what: str, pids: Sequence[int]) -> Strike:
    bed.send(signal.SIGKILL, pids)
    return Strike(f"SIGKILL of {node.name}'s {what}", [node])


def kill_tree(bed: Bed, node: Node) -> Strike:
    """SIGKILL everything of a node at once, its children too."""
    everything = marked(node.home)
    bed.send(signal.SIGSTOP, everything)  # none may see another one die
    return _kill(bed, node, "whole tree", everything)


def _freeze(bed: Bed, node: Node, what: str, pids: Sequence[int]) -> Strike:
    bed.send(signal.SIGSTOP, pids)
    return Strike(f"SIGSTOP of {node.name}'s {what}", [node], lambda: bed.send(signal.SIGCONT, pids))


@fault("SIGKILL of a child", ORDERLY)
def kill_child(bed: Bed, chance: Random) -> Strike:
    """Any process that has written in this term: the main child, or one of its tree."""
    program, node = bed.some_leader(chance)
    return _kill(bed, node, f"child {program}", sorted(bed.oracle.present()[program].pids))


@fault("SIGKILL of a worker", FROZEN, spares=True)
def kill_worker(bed: Bed, chance: Random) -> Strike:
    """The guardian starts another one; the children notice nothing if it is there in time."""
    _, node = bed.some_leader(chance)
    [worker] = _worker(node)
    strike = _kill(bed, node, "worker", [worker])
    wait_for(lambda: not node.runs or _answers(node, worker), what="another worker answers")
    return strike


@fault("renewal", FROZEN, spares=True)
def renew_worker(bed: Bed, chance: Random) -> Strike:
    """A process of the installed code takes the worker's place; the children notice nothing."""
    _, node = bed.some_leader(chance)
    [worker] = _worker(node)
    try:
        node.control.ask("POST", "/v1/renew", {"force": True}, LOADED_WITHIN)
    except HighlanderError:
        raise Missed from None
    wait_for(lambda: not node.runs or _answers(node, worker), what="another worker answers")
    return Strike(f"renewal of {node.name}'s worker", [node])


@fault("SIGKILL of a guardian", ORDERLY)
def kill_guardian(bed: Bed, chance: Random) -> Strike:
    """The worker sees it and hands everything over."""
    _, node = bed.some_leader(chance)
    return _kill(bed, node, "guardian", [node.guardian])


@fault("SIGKILL of a keeper", ORDERLY)
def kill_keeper(bed: Bed, chance: Random) -> Strike:
    """The child dies with it, and the guardian buries the rest."""
    program, node = bed.some_leader(chance)
    return _kill(bed, node, f"keeper of {program}", _keeper(node, program))


@fault("SIGKILL of a whole node", LOST)
def kill_node(bed: Bed, chance: Random) -> Strike:
    """All processes at once, children among them; its connections end in good order, its leases do not."""
    _, node = bed.some_leader(chance)
    return kill_tree(bed, node)


@fault("machine lost", LOST, lasts=(1.1, 1.4), needs=("namespaces",))
def lose_machine(bed: Bed, chance: Random) -> Strike:
    """The link goes first, so that nobody hears of the end of a connection."""
    _, node = bed.some_leader(chance)
    bed.network.unplug(node.name)
    kill_tree(bed, node)
    return Strike(f"{node.name} lost", [node], lambda: bed.network.heal(node.name))


@fault("SIGSTOP of a worker", FROZEN, lasts=(0.5, 1.2))
def freeze_worker(bed: Bed, chance: Random) -> Strike:
    """The guardian replaces it after 3/10 L; a short lease may be over before the next one is up."""
    _, node = bed.some_leader(chance)
    return _freeze(bed, node, "worker", _worker(node))


@fault("SIGSTOP of a worker, short", FROZEN, lasts=(0.05, 0.2), spares=True)
def freeze_worker_shortly(bed: Bed, chance: Random) -> Strike:
    """Shorter than what the guardian finds remarkable."""
    _, node = bed.some_leader(chance)
    return _freeze(bed, node, "worker", _worker(node))


@fault("SIGSTOP of a guardian", ORDERLY, lasts=(0.5, 1.5), alone=True)
def freeze_guardian(bed: Bed, chance: Random) -> Strike:
    """The worker drains everything when the guardian answers no more."""
    _, node = bed.some_leader(chance)
    return _freeze(bed, node, "guardian", [node.guardian])


@fault("SIGSTOP of a keeper", ORDERLY, lasts=(0.5, 1.2), alone=True)
def freeze_keeper(bed: Bed, chance: Random) -> Strike:
    """The guardian kills it when it does not read its deadlines."""
    program, node = bed.some_leader(chance)
    return _freeze(bed, node, f"keeper of {program}", _keeper(node, program))


@fault("SIGSTOP of guardian and worker", FROZEN, lasts=(1.1, 1.6), alone=True)
def freeze_daemon(bed: Bed, chance: Random) -> Strike:
    """The keepers kill by themselves when the lease runs out."""
    _, node = bed.some_leader(chance)
    return _freeze(bed, node, "guardian and worker", _daemon(node))


@fault("SIGSTOP of guardian and keeper", LOST, lasts=(1.1, 1.6), alone=True)
def freeze_guardian_and_keeper(bed: Bed, chance: Random) -> Strike:
    """Nobody is left who could kill that child: the worker keeps the lock until they thaw."""
    program, node = bed.some_leader(chance)
    pids = [node.guardian, *_keeper(node, program)]
    return _freeze(bed, node, f"guardian and keeper of {program}", pids)


@fault(
    "SIGSTOP of the whole daemon",
    LOST,
    lasts=(1.3, 1.8),
    alone=True,
    doubling="where guardian, worker and keepers are all frozen, nobody is left to stop a child that is not",
)
def freeze_everything_but_children(bed: Bed, chance: Random) -> Strike:
    """Only assert_leader stops the children of such a node."""
    _, node = bed.some_leader(chance)
    return _freeze(bed, node, "whole daemon", [*_daemon(node), *node.mine(b"--lock-fd")])


@fault("machine paused, short", FROZEN, lasts=(0.05, 0.2), spares=True, alone=True)
def pause_machine_shortly(bed: Bed, chance: Random) -> Strike:
    """Everything of a node, children too, for less than 3/10 L."""
    _, node = bed.some_leader(chance)
    return _freeze(bed, node, "whole tree", marked(node.home))


@fault(
    "machine paused",
    LOST,
    lasts=(1.3, 1.8),
    alone=True,
    doubling="a machine that wakes up may let its child run for a moment",
)
def pause_machine(bed: Bed, chance: Random) -> Strike:
    """Everything of a node for longer than a lease. Only assert_leader holds when it wakes."""
    _, node = bed.some_leader(chance)
    return _freeze(bed, node, "whole tree", marked(node.home))
