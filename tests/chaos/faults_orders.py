"""What operators do all day: in the midst of faults it must be as safe as without them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from random import Random

from highlanderd.errors import HighlanderError
from tests.support.nodes import Node

from .bed import Bed
from .faults import Bound, Missed, Strike, fault

ORDERLY = Bound(seconds=1)


def _order(node: Node, program: str, verb: str, **body: object) -> None:
    """Give an order and do not wait for the answer: the node may be frozen."""
    try:
        answer = node.control.order(program, verb, {"wait": False, **body})
    except HighlanderError:
        raise Missed from None
    threading.Thread(target=_hear, args=(answer,), daemon=True).start()


def _hear(answer: Callable[[], object]) -> None:
    with contextlib.suppress(HighlanderError):
        answer()


@fault("release", ORDERLY)
def release(bed: Bed, chance: Random) -> Strike:
    """A graceful handover."""
    program, node = bed.some_leader(chance)
    _order(node, program, "release", force=True, **{"for": bed.lease})
    return Strike(f"release of {program} on {node.name}", [node])


@fault("stop and start", ORDERLY, lasts=(0.1, 0.5))
def stop_and_start(bed: Bed, chance: Random) -> Strike:
    """Stop a program on the node that leads it, and let it contend again later."""
    program, node = bed.some_leader(chance)
    _order(node, program, "stop", force=True)

    def start() -> None:
        with contextlib.suppress(Missed):
            _order(node, program, "start")

    return Strike(f"stop of {program} on {node.name}", [node], start)


@fault("reload", ORDERLY, spares=True)
def reload(bed: Bed, chance: Random) -> Strike:
    """Read the configuration again, changed where no child cares."""
    _, node = bed.some_leader(chance)
    bed.configure(node, log=chance.choice(("debug", "info")))
    node.signal(signal.SIGHUP)
    return Strike(f"reload of {node.name}", [node])


@fault("daemon restarted", ORDERLY)
def restart_daemon(bed: Bed, chance: Random) -> Strike:
    """SIGTERM to the daemon: it hands everything over and ends, and is started again."""
    _, node = bed.some_leader(chance)
    node.signal(signal.SIGTERM)
    return Strike(f"SIGTERM to {node.name}", [node])
